"""`muster run --slurm`: write the batch script, hand it in, and watch what becomes of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import archive, runs
from muster.agent.keep import ARCHIVE
from muster.commands.run import make_copy, make_view
from muster.errors import RunFailed
from muster.inside import ASKED
from muster.job import Asked
from muster.model import as_json, plan_from_json
from muster.schedulers import slurm
from muster.world import contact, queue
from muster.world.serve import RECORD
from muster.world.watch import Watch, show_rest

_OWN = ("partition", "account", "qos", "time", "mem", "nodelist", "constraint", "comment")
_MORE = ("gpus_per_node", "gres", "cpus_per_task", "reservation")
"""Options that are sbatch's, by its own names."""

_SETTLES = 60.0
"""Seconds in which a job whose supervisor has ended must be over, or be waiting again."""
_LOOK = 2.0
"""Seconds between two looks at the queue."""


def request(asked: Asked, given: Mapping[str, Any], run_dir: Path) -> slurm.Request:
    """What is asked of Slurm; raises `Impossible`."""
    options = [(name.replace("_", "-"), str(given[name])) for name in (*_OWN, *_MORE) if name in given]
    if given.get("exclusive"):
        options.append(("exclusive", ""))
    for item in given.get("slurm_opt", ()):
        name, _, value = item.partition("=")
        options.append((name.lstrip("-"), value))
    names = {name for name, _ in options}
    if not names & {"cpus-per-task", "exclusive"} and asked.each is not None and asked.each.isdigit():
        options.append(("cpus-per-task", asked.each))  # a core for each rank, where nobody says more
    nodes = str(given.get("nnodes", "1")).partition(":")[0]
    return slurm.Request(
        name=asked.job.name or asked.job.program.title,
        nodes=int(nodes),
        options=tuple(options),
        output=str(run_dir / "slurm-%j.out"),
        before=int(given.get("signal_before", 120)),
        requeue=bool(given.get("requeue", 0)),
    )


def script_of(asked: Asked, given: Mapping[str, Any], run_dir: Path) -> str:
    """The batch script."""
    command = (asked.job.python, "-I", "-S", str(run_dir / ARCHIVE), "inside", str(run_dir))
    return slurm.batch_script(request(asked, given, run_dir), asked.job.setup, command)


def submit(
    words: list[str],
    asked: Asked,
    given: Mapping[str, Any],
    env: Mapping[str, str],
    run_id: str,
    root: Path,
) -> int:
    """Hand the run in, or start it on the nodes of the allocation that this is; watch it unless it is detached.

    Raises `Impossible`.
    """
    allocation = slurm.allocation(env)
    kept = runs.create(root, run_id)
    try:
        (kept.path / "here").touch()
        make_copy(asked, given)
        (kept.path / ARCHIVE).write_bytes(archive.build())
        ask = {
            "job": as_json(asked.job),
            "nodes": int(str(given["nnodes"]).partition(":")[0]) if "nnodes" in given else None,
            "each": asked.each,
            "np": given.get("np"),
            "threads_chosen": asked.threads_chosen,
            "before": int(given.get("signal_before", 120)),
            "requeue": given.get("requeue", 0),
            "attached": allocation is not None,
        }
        kept.write(ASKED, ask)
        if allocation is None:
            script = kept.path / "batch.sh"
            script.write_text(script_of(asked, given, kept.path))
            number = queue.hand_in(script, env)
        else:
            number = allocation.job
        kept.write("job.json", _record(kept, asked, words, number))
    except BaseException:
        runs.remove(kept)
        raise
    if allocation is not None:
        return _here(kept, asked, allocation, given, env)
    print(f"muster: {run_id} is job {number} of Slurm", file=sys.stderr)
    if given.get("detach"):
        print(run_id)
        return 0
    return follow(kept, given, env)


def _record(kept: runs.Run, asked: Asked, words: list[str], number: str) -> dict[str, Any]:
    """What job.json says of a run whose nodes are not known yet."""
    return {
        "id": kept.id,
        "name": asked.job.name,
        "argv": ["muster", "run", *words],
        "cwd": asked.job.cwd,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "time": time.time(),
        "ranks": 0,
        "host": "",
        "pid": 0,
        "served": {"name": "", "user": ""},
        "there": str(kept.path),
        "shared": True,
        "slurm": number,
        "job": as_json(asked.job),
    }


def _here(
    run: runs.Run, asked: Asked, allocation: slurm.Allocation, given: Mapping[str, Any], env: Mapping[str, str]
) -> int:
    """Start the supervisor as a step on the first node of this allocation, and watch it: it ends with this terminal."""
    command = (asked.job.python, "-I", "-S", str(run.path / ARCHIVE), "inside", str(run.path))
    step = queue.start_step(allocation, allocation.hosts[:1], command, run.path / "supervisor.log", env)
    try:
        while run.read(RECORD) is None and step.poll() is None:
            time.sleep(0.05)
        if run.read(RECORD) is None:
            said = (run.path / "supervisor.log").read_text(errors="replace").strip()
            raise RunFailed(f"the run did not start: {said.removeprefix('muster: ') or 'srun said nothing'}", None)
        watch = Watch(
            allocation.hosts[0],
            lambda: contact.way_to(run),
            lambda plan, run_id: make_view(plan, run_id, given, env),
            owner=True,
            patience=asked.job.lease + 30,
            files=run,
        )
        outcome = watch.go()
    finally:
        if step.poll() is None and run.outcome is None:
            step.terminate()
        step.wait()
    if outcome is None and run.outcome is not None and (plan := run.read("plan.json")) is not None:
        outcome, view = run.outcome, make_view(plan_from_json(plan), run.id, given, env)
        show_rest(run, view, watch.offsets)
        view.finish(outcome)
    return 125 if outcome is None else outcome.code


def follow(run: runs.Run, given: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """Say why it waits, then show it, until it ends. The run is Slurm's: the first Ctrl-C only leaves."""
    number, told = str(run.job["slurm"]), ""
    watch: Watch | None = None
    try:
        while run.outcome is None or _comes_again(number):
            found = queue.look([number])
            seen = None if found is None else found.get(number)
            if found is None:
                words = "Slurm does not answer; waiting"
            elif seen is None or seen.state not in slurm.PENDING | slurm.LIVING:
                break
            elif seen.state in slurm.PENDING:
                if seen.reason == "BeginTime" and given.get("requeue"):
                    queue.start_now(number)
                words = f"job {number} waits: {slurm.why_pending(seen)}"
            else:
                words = f"job {number} runs on {','.join(seen.hosts)}"
            if words != told:
                told = words
                print(f"muster: {words}", file=sys.stderr)
            if seen is not None and seen.state in slurm.LIVING and run.read(RECORD) is not None:
                watch = Watch(
                    seen.hosts[0],
                    lambda: contact.way_to(run),
                    lambda plan, run_id: make_view(plan, run_id, given, env),
                    owner=False,
                    patience=600.0,
                    files=run,
                    lives=lambda: _state(number) in slurm.LIVING,
                    after=watch,
                )
                outcome = watch.go()
                if outcome is not None and not _comes_again(number):
                    return outcome.code
                if watch.left:
                    raise KeyboardInterrupt
            time.sleep(_LOOK if run.read(RECORD) is None else 0.2)
    except KeyboardInterrupt:
        print(
            f"\nmuster: {run.id} goes on as job {number}; `muster attach {run.id}`, `muster kill {run.id}`",
            file=sys.stderr,
        )
        return 0
    outcome, plan = run.outcome, run.read("plan.json")
    if outcome is not None and plan is not None:  # it was over before anybody could watch, or watch again
        view = make_view(plan_from_json(plan), run.id, given, env)
        show_rest(run, view, watch.offsets if watch is not None else {})
        view.finish(outcome)
        return outcome.code
    return _ended_unseen(run, number)


def _state(number: str) -> str:
    """The state of the job; RUNNING when Slurm does not answer."""
    found = queue.look([number])
    return "RUNNING" if found is None else found[number].state if number in found else ""


def _comes_again(number: str) -> bool:
    """Slurm has the job in its queue, or will in a moment: an end of its supervisor is not the end."""
    deadline = time.monotonic() + _SETTLES
    while time.monotonic() < deadline:
        found = queue.look([number])
        seen = None if found is None else found.get(number)
        if found is not None and (seen is None or seen.state not in slurm.LIVING):
            return seen is not None and seen.state in slurm.PENDING
        time.sleep(0.3)
    return True


def _ended_unseen(run: runs.Run, number: str) -> int:
    """Slurm says that the job is over, and no supervisor wrote how."""
    contact.state(run)
    outcome = run.outcome
    how = outcome.reason if outcome is not None else "Slurm knows it no more"
    print(f"muster: job {number} is over: {how}", file=sys.stderr)
    for path in sorted(run.path.glob("slurm-*.out")):
        for line in path.read_text(errors="replace").splitlines()[-6:]:
            print(f"    {line}", file=sys.stderr)
    return 125 if outcome is None else outcome.code
