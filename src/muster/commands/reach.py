"""`muster wait`, `kill`, `stacks`: reach a run that is running."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from muster import runs
from muster.commands.common import end_in_words, one, read
from muster.errors import Impossible, RunFailed, Unreachable
from muster.model import GRACE
from muster.world import contact


def wait(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Wait for the end of a run; its exit status is ours, 124 when `--timeout` is over first, 125 if none is known."""
    asked = read("wait", words, env, "wait for the end of a run, and give its exit status")
    if asked is None:
        return 0
    given, rest, root = asked
    run = one(root, rest, "wait")
    state = contact.wait(
        run, given.get("timeout"), lambda why: print(f"muster: {why}; asking again for a minute", file=sys.stderr)
    )
    outcome = run.outcome
    if outcome is not None:
        print(f"{run.id}: {end_in_words(run, outcome)}")
        return outcome.code
    if state == "unknown" and (given.get("timeout") is None or not contact.goes_on(run, state)):
        contact.require_known(run, state)
    print(f"{run.id} is {_told(run, state)}", file=sys.stderr)
    return 124 if contact.goes_on(run, state) else 125


def _told(run: runs.Run, state: str) -> str:
    why = contact.why(run, state)
    return state + (f": {why}" if why else "")


def kill(words: list[str], env: Mapping[str, str], began: float) -> int:
    """End a run, and see that it has ended."""
    asked = read("kill", words, env, "end a run: SIGTERM, its --grace, SIGKILL; then see that nothing of it is left")
    if asked is None:
        return 0
    _, rest, root = asked
    if not rest:
        raise Impossible("`muster kill` wants a run", "`muster ps` lists them; `last` is the newest")
    run = one(root, rest, "kill")
    state = contact.state(run)
    in_slurm = bool(run.job.get("slurm")) and not run.job.get("allocated")
    if state == "pending":
        contact.cancel(run)
        print(f"{run.id}: taken out of the queue")
        return 0
    if state == "running" and in_slurm and run.read("serve.json") is None:  # nobody there to ask yet
        contact.cancel(run)
        state = contact.wait(run, 60)
        contact.require_known(run, state)
        print(f"{run.id}: cancelled, {_told(run, state)}")
        return 0 if state != "running" else 1
    contact.require_known(run, state)
    if state != "running":
        print(f"{run.id} is {_told(run, state)}; nothing to end")
        return 0
    grace = float(run.job.get("job", {}).get("grace", GRACE))
    by = f"{env.get('USER') or f'user {os.getuid()}'} (pid {os.getpid()})"
    try:
        contact.ask(run, "kill", by=by)
        state = contact.wait(run, grace + 5)
    except (RunFailed, Unreachable):
        if not in_slurm:
            raise
    if state == "running" and in_slurm:
        # its supervisor does not answer or does not end: Slurm can end both
        contact.cancel(run)
        state = contact.wait(run, 60)
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


def stacks(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print where in the Python code each rank is now. The ranks go on."""
    asked = read("stacks", words, env, "where in the Python code each rank is now, without stopping it")
    if asked is None:
        return 0
    given, rest, root = asked
    run = one(root, rest, "stacks")
    state = contact.state(run)
    contact.require_known(run, state)
    if state != "running":
        raise Impossible(f"{run.id} is not running, so its ranks are nowhere", "`muster show` tells how it ended")
    answer = contact.ask(run, "stacks", ranks=given.get("rank"))
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
