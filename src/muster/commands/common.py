"""What the commands about existing runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster import homes, runs
from muster.agent import paths, system
from muster.commands import configuration
from muster.errors import Impossible, NowhereToBe
from muster.options import OTHERS, Option, from_environment, help_text, parse

if TYPE_CHECKING:  # `muster ps` needs none of it
    from muster.hosts import Wanted
    from muster.model import Outcome


def read(
    name: str, words: list[str], env: Mapping[str, str], says: str, operand: str = "RUN"
) -> tuple[dict[str, Any], list[str], runs.Store] | None:
    """(options, operands, where runs are kept), or None when help was shown instead.

    Raises `Impossible` for operands of a command that takes none, which has an empty `operand`.
    """
    options = OTHERS[name]
    parsed = parse(words, options, interleaved=True, command=name)
    if parsed.given.get("help"):
        print(f"{says}\n\n    muster {name} [OPTIONS]{' ' + operand if operand else ''}\n{help_text(options)}")
        return None
    if parsed.rest and not operand:
        raise Impossible(
            f"`muster {name}` takes no operand; it was given {' '.join(parsed.rest)}",
            _INSTEAD.get(name) or _instead_of_hosts(options, parsed.rest) or "leave it out",
        )
    given = {**placed(options, env), **parsed.given}
    return given, parsed.rest, store_of(given, env, alone="run_dir" in parsed.given)


def placed(options: Sequence[Option], env: Mapping[str, str]) -> dict[str, Any]:
    """`run_dir` as the environment or muster.toml sets it, for a command with these options."""
    shared = [option for option in options if option.key == "run_dir"]
    found = from_environment(shared, env)
    configured = configuration.run_dir(env) if shared and not found else None
    return found if configured is None else {"run_dir": configured}


_INSTEAD: Mapping[str, str] = {
    "ps": "`muster show RUN` tells of one run",
    "prune": "`muster rm RUN` deletes one run",
}
"""What does for one run what these commands do for many."""


def _instead_of_hosts(options: Sequence[Option], operands: Sequence[str]) -> str | None:
    """The hint for a command that takes hosts, but as an option."""
    takes_hosts = any(option.key == "hosts" for option in options)
    return f"hosts are named by `--hosts {','.join(operands)}`" if takes_hosts else None


def store_of(given: Mapping[str, Any], env: Mapping[str, str], alone: bool = False) -> runs.Store:
    """Where runs are kept, and found; `alone`: only in the directory that was named."""
    try:
        found = homes.of_muster(env)
        root = Path(paths.expanded(given["run_dir"], env)).absolute() if "run_dir" in given else found[0]
    except OSError as error:
        raise NowhereToBe(system.reason(error)) from None
    return runs.Store(root, found, alone)


def machines(given: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """What `--hosts` or `--hostfile` name; none without them. Raises `Impossible`."""
    from muster.hosts import parse_hostfile, parse_hosts
    from muster.world.here import read_text

    if "hosts" in given:
        return parse_hosts(given["hosts"])
    if "hostfile" in given:
        return parse_hostfile(read_text(given["hostfile"], "--hostfile"), given["hostfile"])
    return ()


def end_in_words(run: runs.Run, outcome: Outcome) -> str:
    """How a run ended, for a person."""
    from muster.report import outcome_in_words

    return outcome_in_words(outcome, run.operand, len(outcome.ends), run.hosts)


def one(store: runs.Store, rest: list[str], name: str) -> runs.Run:
    """The one run that the operands name; the newest when there are none."""
    if len(rest) > 1:
        raise Impossible(f"`muster {name}` takes one run, and was given {len(rest)}: {' '.join(rest)}", "name one")
    host, colon, which = (rest[0] if rest else "").rpartition(":")
    if colon:
        from muster.world.contact import introduce

        return introduce(store, host, which or "last")
    return named(store, rest[0] if rest else "last")


def named(store: runs.Store, which: str) -> runs.Run:
    """The run that a word names; of several of one name the one that lives."""
    from muster.world import contact

    return runs.find(store, which, contact.lives)


def living_in_words(store: runs.Store) -> str:
    """The runs that live, for who named one that is over; empty when there are none."""
    import time

    from muster.plurals import plural
    from muster.report import seconds
    from muster.world import contact

    lines = []
    for run in runs.every(store):
        if not contact.has_not_ended(run):
            continue
        name = f" ({run.job['name']})" if run.job.get("name") else ""
        lines.append(f"    {run.id}{name}, started {seconds(time.time() - run.job['time'])} ago")
    return "\n".join([f"{plural(len(lines), 'run')} not over:", *lines]) if lines else ""
