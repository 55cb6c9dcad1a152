"""What holds after each run, whatever struck it. Each function returns the violations in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from scenarios import Ending, Moment, Scenario
from striking import FAULTS, End


class Seen(NamedTuple):
    """A run after its end."""

    scenario: Scenario
    struck: str
    """What the fault has struck; empty if its victim was gone."""
    seconds: float
    """From the fault to the end of the run."""
    bound: float
    over: bool
    """Whether it had ended within the bound."""
    code: int | None
    """The exit code of the terminal; None if that was struck, or was never started."""
    said: str
    """What the terminal has shown."""
    began: bool
    """Whether there is a run directory."""
    outcome: dict[str, Any] | None
    """outcome.json."""
    show: dict[str, Any]
    """`muster show --json`."""
    report: str
    """`muster show`."""
    waited: int | None
    """The exit code of `muster wait`."""
    own: dict[tuple[int, str], list[int]]
    """The numbers that each process of a rank has written to its own file, by rank and process."""
    logs: dict[int, list[str]]
    """The lines of each rank's logs."""
    left: list[str]
    """What is new on the hosts."""


_LINE = re.compile(r"(?:^|\] )line (\d+) (\S+) (\d+)(?: \w+)?$")


def _numbers(lines: Sequence[str]) -> dict[tuple[int, str], list[int]]:
    found: dict[tuple[int, str], list[int]] = {}
    for line in lines:
        match = _LINE.search(line)
        if match:
            found.setdefault((int(match[1]), match[2]), []).append(int(match[3]))
    return found


def ends(seen: Seen) -> list[str]:
    """The run ends within the bound."""
    return [] if seen.over else [f"it had not ended {seen.bound:g}s after the fault"]


def agrees(seen: Seen) -> list[str]:
    """The exit code, outcome.json, `muster show` and `muster wait` say the same."""
    if not seen.began:
        known = seen.code in (2, 3, 125, 130, 129, 143, 137, None) or (seen.code or 0) < 0
        return [] if known else [f"there is no run directory, and the exit code is {seen.code}"]
    wrong = []
    state = seen.show.get("state")
    if seen.outcome is None:
        if state not in ("lost", "unknown"):
            wrong.append(f"there is no outcome.json, and `muster show` says {state}")
        if seen.waited != (125 if state == "lost" else 3):
            wrong.append(f"there is no outcome.json, and `muster wait` exits with {seen.waited}")
        if seen.code is not None and seen.code not in (3, 125):
            wrong.append(f"there is no outcome.json, and the terminal exits with {seen.code}")
        return wrong
    if state != seen.outcome["state"]:
        wrong.append(f"outcome.json says {seen.outcome['state']}, and `muster show` {state}")
    code = seen.outcome["code"]
    if seen.code is not None and seen.code != code:
        wrong.append(f"outcome.json says exit code {code}, and the terminal exits with {seen.code}")
    if seen.waited != code:
        wrong.append(f"outcome.json says exit code {code}, and `muster wait` exits with {seen.waited}")
    if (seen.outcome["state"] == "succeeded") != (code == 0):
        wrong.append(f"it {seen.outcome['state']} with exit code {code}")
    return wrong


def nothing_left(seen: Seen) -> list[str]:
    """No process, port, socket, shared memory or temporary file of the run remains."""
    return [f"left: {thing}" for thing in seen.left]


def no_line_lost(seen: Seen) -> list[str]:
    """Each line that a rank wrote and flushed is in its log, once and in order; the terminal shows the log."""
    wrong = []
    logs = _numbers([line for lines in seen.logs.values() for line in lines])
    for key, own in seen.own.items():
        log = logs.pop(key, [])
        # the rank may be killed between both writes
        if log not in (own, [*own, len(own)]):
            wrong.append(f"rank {key[0]} ({key[1]}) wrote {len(own)} lines, and its log has {_in_words(log)}")
        shown = _numbers(seen.said.splitlines()).get(key, [])
        complete = seen.code is not None and seen.outcome is not None
        # `attach` shows no output of a run that has ended before
        complete = complete and not (seen.scenario.place.detached and not _numbers(seen.said.splitlines()))
        if shown != (log if complete else list(range(len(shown)))) or len(shown) > len(log):
            wrong.append(f"rank {key[0]} ({key[1]}) logged {len(log)} lines, and the terminal shows {_in_words(shown)}")
    if logs:
        wrong.append(f"there are lines of processes that wrote none: {sorted(logs)}")
    return wrong


def _in_words(numbers: Sequence[int]) -> str:
    wrong = next((at for at, number in enumerate(numbers) if at != number), None)
    return f"{len(numbers)}" + (f", where line {wrong} is {numbers[wrong]}" if wrong is not None else "")


def usual_ends(scenario: Scenario) -> tuple[End, ...]:
    """Return how the run ends if nothing strikes it."""
    if scenario.ending is Ending.INTERRUPT:
        return (End("interrupted", 130),)
    if scenario.ending is Ending.KILL:
        return (End("killed", 137),)
    return (End("failed", 1, "ValueError: bad batch 17"),) if scenario.job == "fails" else (End("succeeded", 0),)


def expected_ends(scenario: Scenario, struck: str) -> tuple[End, ...]:
    """Return all ends that the documentation allows."""
    usual, fault = usual_ends(scenario), FAULTS[scenario.fault]
    if not struck:
        return usual
    leads = fault.leads(scenario)
    if fault.certain and scenario.moment is Moment.WHILE and not scenario.restarts:
        return leads
    return usual + leads


def as_documented(seen: Seen) -> list[str]:
    """The run ended in a way that the fault explains, and the report names what struck."""
    allowed = expected_ends(seen.scenario, seen.struck)
    if not seen.began or (seen.outcome is None and seen.code in (2, 3)):
        state, code = "refused", seen.code
    elif seen.outcome is None:
        state, code = str(seen.show.get("state")), seen.waited
    else:
        state, code = seen.outcome["state"], seen.outcome["code"]
    fitting = [end for end in allowed if end.state == state and end.code in (None, code)]
    wrong = []
    if not fitting and not (state == "refused" and code is None):
        words = ", ".join(f"{end.state} ({end.code})" for end in allowed)
        wrong.append(f"it is {state} with exit code {code}; documented: {words}")
    report = f"{seen.said}\n{seen.report}"
    if fitting and not any(re.search(end.says, report) for end in fitting):
        wrong.append(f"the report does not say {' or '.join(end.says for end in fitting)!r}")
    root = (seen.outcome or {}).get("root_cause") or {}
    if fitting and all(end.root for end in fitting) and root.get("rank") != seen.scenario.rank:
        wrong.append(f"the root cause is rank {root.get('rank')}")
    if re.search(r"^(muster: )?Traceback", seen.said, re.M) and "ValueError: bad batch 17" not in seen.said:
        wrong.append("a traceback")
    return wrong


INVARIANTS = (ends, agrees, nothing_left, no_line_lost, as_documented)
