"""`muster wait`, `kill`, `stacks`: reach a run that is running."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from muster import runs
from muster.agent.system import hint_for
from muster.commands.asking import agreed
from muster.commands.common import end_in_words, living_in_words, one, read
from muster.errors import Impossible, MusterError, RunFailed, Unreachable
from muster.model import GRACE
from muster.plurals import plural
from muster.report import seconds, table
from muster.world import contact, usage

_SILENT = 1.0
"""Seconds for which `kill` waits without a word."""
_CANCELLED_WITHIN = 60.0
"""Seconds in which Slurm has to end a job."""


def wait(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Wait for the end of a run; its exit status is ours, 124 when `--timeout` is over first, 125 if none is known."""
    asked = read("wait", words, env, "wait for the end of a run, and give its exit status")
    if asked is None:
        return 0
    given, rest, store = asked
    run = one(store, rest, "wait")
    state = contact.wait(
        run, given.get("timeout"), lambda why: print(f"muster: {why}; asking again for a minute", file=sys.stderr)
    )
    outcome = run.outcome
    if outcome is not None:
        print(f"{run.id}: {end_in_words(run, outcome)}")
        return outcome.code
    if state == "unknown" and (given.get("timeout") is None or not contact.goes_on(run, state)):
        contact.require_known(run, state)
    told = _told(run, state)
    print(f"{run.id} is {told}", file=sys.stderr)
    if hint := hint_for(told, ""):
        print(f"hint: {hint}", file=sys.stderr)
    return 124 if contact.goes_on(run, state) else 125


def _told(run: runs.Run, state: str) -> str:
    why = contact.why(run, state)
    return state + (f": {why}" if why else "")


def kill(words: list[str], env: Mapping[str, str], began: float) -> int:
    """End runs, and see that they have ended."""
    says = "end runs: SIGTERM, their --grace, SIGKILL; then see that nothing of them is left"
    asked = read("kill", words, env, says, "RUN…")
    if asked is None:
        return 0
    given, rest, store = asked
    by = f"{env.get('USER') or f'user {os.getuid()}'} (pid {os.getpid()})"
    if given.get("all"):
        if rest:
            raise Impossible(f"--all together with {' '.join(rest)}", "name runs, or say `--all`")
        return _kill_all(store, bool(given.get("yes")), by)
    if not rest:
        raise Impossible("`muster kill` wants a run", "`muster ps` lists them; `last` is the newest; `--all` is all")
    chosen = {run.id: run for run in (one(store, [word], "kill") for word in rest)}
    over = not any(map(contact.has_not_ended, chosen.values()))
    status = _end_all(list(chosen.values()), by)
    if over and (living := living_in_words(store)):
        print(living)  # it may be another one that was meant
    return status


def _kill_all(store: runs.Store, agreed_already: bool, by: str) -> int:
    """End all runs of this user that live, if the person agrees; a host that does not answer is told."""
    own = [run for run in runs.all_of(store) if not contact.is_anothers(run)]
    states = dict(zip((run.id for run in own), contact.states(own, contact.ANSWERS_WITHIN)))
    living = [run for run in own if states[run.id] in ("running", "pending")]
    silent = [run for run in own if states[run.id] == "unknown"]
    for run in silent:
        print(f"{run.id}: it is unknown whether it still runs: {contact.why(run, 'unknown')}", file=sys.stderr)
    if living and not agreed_already:
        rows = [
            (run.id, str(run.job.get("name", "")), states[run.id], str(run.job.get("started", ""))) for run in living
        ]
        print(table(rows))
        if not agreed(f"end {plural(len(living), 'run')}", "say `--yes`, or name the runs"):
            print("ended 0 runs")
            return 1
    if not living:
        print("no run to end")
    return max(_end_all(living, by), Unreachable.exit_code if silent else 0)


def _end_all(chosen: Sequence[runs.Run], by: str) -> int:
    """End these runs, all at the same time; the status is that of the worst."""
    if len(chosen) == 1:
        return _end(chosen[0], by)
    statuses = dict.fromkeys((run.id for run in chosen), 1)

    def end(run: runs.Run) -> None:
        try:
            statuses[run.id] = _end(run, by)
        except MusterError as error:
            print(f"muster: {error}", file=sys.stderr)
            statuses[run.id] = error.exit_code

    # no pool: after Ctrl-C nobody waits for these
    ending = [threading.Thread(target=end, args=(run,), daemon=True) for run in chosen]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join()
    return max(statuses.values(), default=0)


def _end(run: runs.Run, by: str) -> int:
    """End one run, and print how that went; 1 when something of it still lives. `by` says who asks for it."""
    state = contact.state(run)
    in_slurm = bool(run.job.get("slurm")) and not run.job.get("allocated")
    if state == "pending":
        contact.cancel(run)
        print(f"{run.id}: taken out of the queue")
        return 0
    if state == "running" and in_slurm and run.read("serve.json") is None:  # nobody there to ask yet
        contact.cancel(run)
        state = _wait(run, f"asked Slurm to cancel job {run.job['slurm']}", _CANCELLED_WITHIN)
        contact.require_known(run, state)
        print(f"{run.id}: cancelled, {_told(run, state)}")
        return 0 if state != "running" else 1
    contact.require_known(run, state)
    if state != "running":
        print(f"{run.id} is {_told(run, state)}; nothing to end")
        return 0
    grace = float(run.job.get("job", {}).get("grace", GRACE))
    try:
        contact.ask(run, "kill", by=by)
        plan = run.plan
        ranks = plural(plan.world_size, "rank") if plan is not None else "its ranks"
        state = _wait(run, f"asked {ranks} to end", grace, beyond=5.0)
    except (RunFailed, Unreachable):
        if not in_slurm:
            raise
    if state == "running" and in_slurm:
        # its supervisor does not answer or does not end: Slurm can end both
        contact.cancel(run)
        state = _wait(run, f"asked Slurm to cancel job {run.job['slurm']}", _CANCELLED_WITHIN)
    elif state == "running":
        # muster itself does not act on it: it is stopped (Ctrl-Z), or stuck
        contact.ask(run, "end")
        state = contact.wait(run, 10)
    contact.require_known(run, state)
    if state == "running":
        print(f"{run.id} still runs; see {run.path}/node_*/agent.log", file=sys.stderr)
        return 1
    left = run.outcome.left if run.outcome is not None else ()
    alive = [words for words in left if words.startswith(("still alive", "not seen to end"))]
    print(f"{run.id}: {'ended' if not alive else 'ended, but ' + '; '.join(alive)}")
    return 1 if alive else 0


def _wait(run: runs.Run, done: str, most: float, beyond: float = 0.0) -> str:
    """Wait for the end of a run; after a second say what was `done`, and for how many seconds the end may take.

    So many seconds `beyond` that the end is awaited all the same: signals, and a look at what is left, take time.
    """
    state = contact.wait(run, _SILENT)
    if not contact.goes_on(run, state):
        return state
    if most > _SILENT:
        print(f"{run.id}: {done}, waiting up to {seconds(most)}", file=sys.stderr, flush=True)
    return contact.wait(run, most + beyond)


def stacks(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print where in the Python code each rank is now. The ranks go on."""
    asked = read("stacks", words, env, "where in the Python code each rank is now, without stopping it")
    if asked is None:
        return 0
    given, rest, store = asked
    run = one(store, rest, "stacks")
    state = contact.state(run)
    contact.require_known(run, state)
    if state != "running":
        raise Impossible(f"{run.id} is not running, so its ranks are nowhere", "`muster show` tells how it ended")
    answer = contact.ask(run, "stacks", ranks=given.get("rank"))
    for host in usage.silent(run, answer):
        print(f"{host} does not answer", file=sys.stderr)
    texts = {int(rank): text for rank, text in answer.get("texts", {}).items()}
    return _tell_stacks(texts, answer.get("mute", {}))


def _tell_stacks(found: Mapping[int, str], mute: Mapping[str, Any]) -> int:
    if not found and not mute:
        print("there is no rank yet, or none any more", file=sys.stderr)
    for rank, text in sorted(found.items()):
        print(f"rank {rank}:")
        print(text.rstrip() if text else "  no answer within 2 s: it is stopped, or waits in the kernel")
        print()
    for name, pid in mute.items():
        print(
            f"rank {name} (pid {pid}) is no Python that muster prepared, or has only begun; "
            f"try `py-spy dump --pid {pid}`"
        )
    return 0
