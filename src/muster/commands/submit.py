"""`muster run --slurm`: write the batch script, hand it in, and watch what becomes of it."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster import archive, runs
from muster.agent import meet, tree
from muster.agent.keep import ARCHIVE
from muster.commands.run import code_limit, job_record, make_copy, make_view, new_directory, progress
from muster.environ import is_secret, stands_open
from muster.errors import Impossible, RunFailed
from muster.hosts import fold_hosts, unfold_hosts
from muster.inside import ASKED
from muster.job import Asked, check_sizes
from muster.launchers import make_plan
from muster.model import Host, as_json
from muster.ranks import layout
from muster.schedulers import slurm
from muster.stored import plan_from_json
from muster.world import code, contact, queue
from muster.world.claims import Claims
from muster.world.serve import RECORD
from muster.world.watch import Watch, show_rest

_OWN = ("partition", "account", "qos", "time", "mem", "nodelist", "constraint", "comment")
_MORE = ("gpus_per_node", "gres", "cpus_per_task", "reservation", "dependency", "mail_type", "mail_user")
"""Options that are sbatch's, by its own names."""

_LOOK = 2.0
"""Seconds between two looks at the queue."""
_TICK = 0.1
"""Seconds between two looks at whether the supervisor is there, which is a file."""
_AGAIN = 3.0
"""Seconds in which a second Ctrl-C cancels the job."""


def request(asked: Asked, given: Mapping[str, Any], run_dir: Path) -> slurm.Request:
    """What is asked of Slurm; raises `Impossible`."""
    options = {name: _word(value, f"[slurm] {name}") for name, value in given.get("slurm_table", {}).items()}
    for name in (*_OWN, *_MORE):
        if name in given:
            options[name.replace("_", "-")] = str(given[name])
    if given.get("exclusive"):
        options["exclusive"] = ""
    if "gpus" in given:
        options["gpus"] = str(given["gpus"])
    options.update(_gpus_of_ranks(asked, given))
    for item in given.get("slurm_opt", ()):
        name, _, value = item.partition("=")
        options[name.lstrip("-").replace("_", "-")] = value
    for name in options:
        if name in slurm.OURS:
            own = slurm.OURS[name]
            hint = f"use muster's own `{own}`" if own else "a run is one job, and muster needs that for itself"
            raise Impossible(f"--slurm-opt {name}: muster writes that option of sbatch itself", hint)
    options = {name: value for name, value in options.items() if value is not None}
    _check_warning(given, options.get("time", ""))
    nodes, tasks = _size(asked, given, options.get("nodelist", ""))
    unsaid = tasks is None and not options.keys() & {"cpus-per-task", "exclusive", "cpus-per-gpu"}
    if unsaid and asked.each is not None and asked.each.isdigit():
        options["cpus-per-task"] = asked.each  # a core for each rank, where nobody says more
    return slurm.Request(
        name=asked.job.name or asked.job.program.title,
        nodes=nodes,
        options=tuple(options.items()),
        output=slurm.output_in(str(run_dir)),
        before=math.ceil(_warning(given)[1]),
        requeue=bool(given.get("requeue", 0)),
        tasks=tasks,
    )


def _warning(given: Mapping[str, Any]) -> tuple[str, float]:
    """The signal for ranks that listen, and how many seconds before the end they get it. Raises `Impossible`."""
    found: tuple[str, float] = given.get("signal_before", ("USR1", 120.0))
    if found[1] > slurm.LONGEST_WARNING:
        raise Impossible(
            f"--signal-before {found[1]:g}s: Slurm sends it at most {slurm.LONGEST_WARNING} s before the time limit",
            f"use `--signal-before {slurm.LONGEST_WARNING}s` or less",
        )
    return found


def _check_warning(given: Mapping[str, Any], limit: str) -> None:
    """Raise `Impossible` where ranks would be told to save as soon as they have begun."""
    whole = slurm.seconds_of(limit)
    if "signal_before" in given and whole is not None and _warning(given)[1] >= whole:
        raise Impossible(
            f"--signal-before {_warning(given)[1]:g}s with a time limit of {whole:g} s: the ranks would be told to "
            "save as soon as the job starts",
            f"use less than {whole:g} s, or a longer --time",
        )


def _word(value: Any, what: str) -> Any:
    """A value of muster.toml as sbatch wants it: empty for an option without one, None for one that is left out."""
    if isinstance(value, bool):
        return "" if value else None
    if isinstance(value, (dict, list)):
        raise Impossible(f"{what}: that is not one value", "write it as a text, as after the option of sbatch")
    return str(value)


def _gpus_of_ranks(asked: Asked, given: Mapping[str, Any]) -> dict[str, str]:
    """sbatch's options for `--gpus-per-task 1`: to sbatch one task is a node's agent, to the user it is a rank."""
    if "gpus_per_task" not in given:
        return {}
    if given["gpus_per_task"] != 1:
        raise Impossible(
            f"--gpus-per-task {given['gpus_per_task']}: each rank has one GPU",
            "write `-g RANKS --gpus-per-node GPUS`: every rank sees all GPUs of its node",
        )
    if asked.each is not None and asked.each.isdigit():
        return {"gpus-per-node": asked.each}
    if "np" in given:
        return {"gpus": str(given["np"])}
    raise Impossible("--gpus-per-task 1: the number of ranks is missing", "add `-g RANKS_PER_NODE` or `-n RANKS`")


def _size(asked: Asked, given: Mapping[str, Any], nodelist: str) -> tuple[int | None, int | None]:
    """(nodes, tasks) to ask for; None for what Slurm is to choose."""
    nodes = int(str(given["nnodes"]).partition(":")[0]) if "nnodes" in given else None
    if nodes is None and nodelist and "/" not in nodelist:  # sbatch takes a path for a file with names
        nodes = len(unfold_hosts(nodelist))
    ranks, each = given.get("np"), asked.each
    if nodes is not None:
        check_sizes(nodes, each, ranks, f"-N {nodes}" if "nnodes" in given else f"--nodelist {nodelist}")
    if nodes is None and ranks is not None and each is not None and each.isdigit():
        return -(-ranks // int(each)), None
    if ranks is not None and each is None:
        return nodes, ranks
    if nodes is None and "gpus" in given:
        return None, None
    return nodes or 1, None


def script_of(wanted: slurm.Request, asked: Asked, given: Mapping[str, Any], run_dir: Path) -> str:
    """The batch script."""
    command = (asked.job.python, "-I", "-S", str(run_dir / ARCHIVE), "inside", str(run_dir))
    return slurm.batch_script(wanted, asked.job.setup, command, bool(given.get("python")))


def submit(
    words: list[str],
    asked: Asked,
    given: Mapping[str, Any],
    env: Mapping[str, str],
    run_id: str,
    store: runs.Store,
    typed: Mapping[str, Any],
) -> int:
    """Hand the run in, or start it on the nodes of the allocation that this is; watch it unless it is detached.

    `typed` are the options of the command line. Raises `Impossible`.
    """
    allocation = queue.allocation(env, store.root)
    claims, cpus = None, {}
    if allocation is not None:
        cpus = slurm.cpus_by_host(env, allocation.hosts)
        if "nnodes" in given:
            few = int(str(given["nnodes"]).partition(":")[0])
            check_sizes(few, asked.each, given.get("np"), f"-N {few}")
        _check_in_allocation(allocation, asked, given, typed)
        claims = Claims(store.root, f"{env.get('SLURM_CLUSTER_NAME', '')}-{allocation.job}")
        allocation = _choose_nodes(allocation, claims, given, typed)
    if allocation is None and asked.job.launcher == "srun" and "gpus" in given and str(given.get("nnodes")) != "1":
        raise Impossible(
            "--launcher srun with --gpus: Slurm may give the nodes different numbers of GPUs, and srun cannot start "
            "one job step on such nodes",
            "ask for --gpus-per-node, or for one node (-N 1)",
        )
    if allocation is None and asked.job.stdin is not None:
        raise Impossible(
            "--stdin with --slurm: a job in the queue has no terminal to read from",
            "leave it out; or run inside `salloc`, where the terminal is there",
        )
    make_plan(asked.job, layout([(Host("node"), 1)]), run_id)  # what cannot be is told now, and not when the job starts
    if given.get("sync"):
        asked = _with_copy(asked, given, store.path(run_id))
    kept = new_directory(store, run_id, given)
    try:
        meet.put_flag(str(kept.path))
        make_copy(asked, given)
        if given.get("sync") and asked.copied is not None:
            found = asked.copied[0]
            (kept.path / tree.LIST).write_bytes(tree.entries(found.root, found.names))
        (kept.path / ARCHIVE).write_bytes(archive.build(compiled=True))
        # Slurm hands its own copy of the environment to the job, so no secret need lie in a file of the run
        secrets = {name: value for name, value in asked.job.env.items() if not stands_open(name, value)}
        plain = {name: value for name, value in asked.job.env.items() if name not in secrets}
        ask = {
            "job": as_json(asked.job._replace(env=plain)),
            "nodes": int(str(given["nnodes"]).partition(":")[0]) if "nnodes" in given else None,
            "hosts": list(allocation.hosts) if allocation is not None else None,
            "tasks": list(allocation.tasks) if allocation is not None else None,
            "output": given.get("output", ""),
            "error": given.get("error", ""),
            "each": asked.each,
            "np": given.get("np"),
            "threads_chosen": asked.threads_chosen,
            "before": _warning(given)[1],
            "before_chosen": "signal_before" in given,
            "signal": _warning(given)[0],
            "requeue": given.get("requeue", 0),
            "allocated": allocation is not None,
            "attached": allocation is not None and not given.get("detach"),
            "exported": {name: value for name, value in slurm.exported(env).items() if not is_secret(name, value)},
            "cpus": cpus,
            "sync": _sync(asked, given),
            "check_code": not given.get("no_code_check"),
        }
        kept.write(ASKED, ask)
        if allocation is None:
            wanted = request(asked, given, kept.path)
            queue.try_folder(store.root, wanted, env)
            script = kept.path / "batch.sh"
            with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(os.fsencode(script_of(wanted, asked, given, kept.path)))
            number = queue.hand_in(wanted, script, {**env, **secrets})
        else:
            number = allocation.job
        contact.remember_way(kept, asked.job)
        kept.write("job.json", _record(kept, asked, words, number, allocation is not None, ask["requeue"]))
    except BaseException:
        contact.forget_way(kept)
        runs.remove(store, kept)
        raise
    if allocation is not None and claims is not None:
        return _here(kept, asked, allocation, claims, given, env)
    progress(given)(f"{run_id} is submitted to Slurm as job {number}")
    if given.get("detach"):
        print(run_id)
        return 0
    return follow(kept, given, env)


def _with_copy(asked: Asked, given: Mapping[str, Any], run_dir: Path) -> Asked:
    """The same with a copy of the code in the run directory, which all nodes share: ranks run that, unless all nodes
    have the same in the folder where they start. Raises `Impossible`."""
    job = code.real(asked.job)
    if asked.copied is not None:  # there is one, by --snapshot
        return asked._replace(job=job)
    found = code.tree(job.cwd, job.program.path, str(run_dir.parent))
    code.guard(found, code_limit(given), "--sync")
    copy = run_dir / "code"
    code.redirect(job, found.root, str(copy), "--sync")  # what cannot be is told now
    return asked._replace(job=job, copied=(found, copy))


def _sync(asked: Asked, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What nodes must know to find the code (`inside.py`); None where they share it."""
    if not given.get("sync") or asked.copied is None:
        return None
    found, copy = asked.copied
    return {
        "root": found.root,
        "copy": str(copy),
        "folder": tree.place(asked.job.cwd),
        "redirected": bool(given.get("snapshot")),
    }


def _record(
    kept: runs.Run, asked: Asked, words: list[str], number: str, allocated: bool, requeue: int
) -> dict[str, Any]:
    """What job.json says of a run whose nodes are not known yet."""
    return job_record(
        asked.job,
        0,
        kept.id,
        words,
        host="",
        boot="",
        pid=0,
        pid_started="",
        served={"name": "", "user": ""},
        there=str(kept.path),
        shared=True,
        slurm=number,
        slurm_name=asked.job.name or asked.job.program.title,
        requeue=requeue,
        allocated=allocated,
    )


_MADE = (*_OWN, *_MORE, "gpus", "exclusive", "slurm_opt")
"""Options that ask Slurm for nodes, which an allocation has."""


def _check_in_allocation(
    allocation: slurm.Allocation, asked: Asked, given: Mapping[str, Any], typed: Mapping[str, Any]
) -> None:
    """Raise `Impossible` for options that say how a job is to be, inside of one that is there already."""
    made = [name for name in _MADE if name in typed and name != "nodelist"]
    if made:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in made)
        hint = "leave them out" if len(made) > 1 else "leave it out"
        if "time" in made:
            hint += "; `--timeout 1h` ends the run after that time"
        raise Impossible(f"{names}: job {allocation.job}, inside of which this is, has its nodes already", hint)
    if "requeue" in typed:
        raise Impossible(
            f"--requeue: job {allocation.job}, inside of which this is, is not muster's to put back into the queue",
            "submit the run from outside of a job, or use `#SBATCH --requeue`",
        )
    if given.get("detach") and asked.job.stdin is not None:
        raise Impossible("--stdin with --detach: there is no terminal to read from", "leave one of them out")


def _choose_nodes(
    allocation: slurm.Allocation, claims: Claims, given: Mapping[str, Any], typed: Mapping[str, Any]
) -> slurm.Allocation:
    """The nodes of an allocation that this run gets: those that were named, as many as were asked for, or all.

    Fewer than all are for this run alone: it waits until other runs leave it as many. Raises `Impossible`.
    """
    tasks, hosts = dict(zip(allocation.hosts, allocation.tasks)), allocation.hosts
    if "nodelist" in typed:
        hosts = tuple(dict.fromkeys(unfold_hosts(typed["nodelist"])))
        others = [host for host in hosts if host not in allocation.hosts]
        if others:
            raise Impossible(
                f"--nodelist {typed['nodelist']}: {fold_hosts(others)} is not of job {allocation.job}, "
                "inside of which this is",
                f"it has {fold_hosts(allocation.hosts)}",
            )
    count = int(str(given["nnodes"]).partition(":")[0]) if "nnodes" in given else None
    if count is not None and count > len(hosts):
        raise Impossible(
            f"--nnodes {count}: job {allocation.job}, in which this is, has {len(hosts)}"
            if hosts == allocation.hosts
            else f"--nnodes {count}: --nodelist names {len(hosts)}",
            "ask salloc for more" if hosts == allocation.hosts else "name more of them",
        )
    if count == len(allocation.hosts):
        count = None
    words = f"waiting for {'a free node' if count == 1 else f'{count} free nodes'} of job {allocation.job}"
    say = f"muster: {words}: other runs have the rest of {fold_hosts(hosts)}"
    chosen = claims.take(hosts, count, lambda: print(say, file=sys.stderr, flush=True))
    return allocation._replace(hosts=chosen, tasks=tuple(tasks[host] for host in chosen if host in tasks))


def _here(
    run: runs.Run,
    asked: Asked,
    allocation: slurm.Allocation,
    claims: Claims,
    given: Mapping[str, Any],
    env: Mapping[str, str],
) -> int:
    """Start the supervisor as a step on the first node of this allocation, and watch it: it ends with this terminal,
    unless it is detached."""
    command = (asked.job.python, "-I", "-S", str(run.path / ARCHIVE), "inside", str(run.path))
    chosen = {**env, **{name: value for name, value in asked.job.env.items() if not stands_open(name, value)}}
    log, locks = run.path / "supervisor.log", list(claims.descriptors.values())
    step = queue.start_step(allocation.job, allocation.hosts[:1], command, log, chosen, keep=locks)
    leaves = False
    try:
        while run.read(RECORD) is None and step.poll() is None:
            time.sleep(0.05)
        if run.read(RECORD) is None:
            said = (run.path / "supervisor.log").read_text(errors="replace").strip()
            raise RunFailed(f"the run did not start: {said.removeprefix('muster: ') or 'srun said nothing'}", None)
        if given.get("detach"):
            leaves = True
            on = fold_hosts(allocation.hosts)
            progress(given)(f"{run.id} is started on {on}, and ends with job {allocation.job}")
            print(run.id)
            return 0
        watch = Watch(
            allocation.hosts[0],
            run.operand,
            lambda: contact.way_to(run),
            lambda plan, run_id: make_view(plan, run_id, given, env, run.operand),
            owner=True,
            patience=asked.job.lease + 30,
            files=lambda: run,
        )
        outcome = watch.go()
    finally:
        if not leaves and step.poll() is None and run.outcome is None:
            step.terminate()
        if not leaves:
            step.wait()
    if outcome is None and run.outcome is not None and (plan := run.read("plan.json")) is not None:
        outcome, view = run.outcome, make_view(plan_from_json(plan), run.id, given, env, run.operand)
        show_rest(run, view, watch.offsets)
        view.finish(outcome)
    return 125 if outcome is None else outcome.code


def follow(run: runs.Run, given: Mapping[str, Any], env: Mapping[str, str], attached: bool = False) -> int:
    """Say why it waits, then show it, until it ends. The run is Slurm's: the first Ctrl-C only leaves.

    `attached`: this terminal is not the one that started it, and no Ctrl-C ends the job.
    """
    leave = _leave_it if attached else _leave
    try:
        watch = _watch(run, given, env)
    except KeyboardInterrupt:
        return leave(run)
    if watch is not None and watch.left:
        return leave(run)
    if watch is not None and watch.outcome is not None:
        return watch.outcome.code
    # it was over before anybody could watch, or watch again; or its supervisor was killed
    outcome, plan = run.outcome, run.read("plan.json")
    view = watch.view if watch is not None and watch.view is not None else None
    if plan is not None:
        view = view or make_view(plan_from_json(plan), run.id, given, env, run.operand)
        show_rest(run, view, watch.offsets if watch is not None else {}, watch.tail if watch is not None else None)
    if outcome is None or view is None:
        return _ended_unseen(run, str(run.job["slurm"]))
    view.finish(outcome)
    return outcome.code


def _watch(run: runs.Run, given: Mapping[str, Any], env: Mapping[str, str]) -> Watch | None:
    """Watch it through all its attempts; gives the last watch, None when there was nothing to watch."""
    number, root, since = str(run.job["slurm"]), run.path.parents[1], float(run.job["time"])
    requeues = int((run.read(ASKED) or {}).get("requeue", 0))
    watch: Watch | None = None
    watched: Any = None
    told, next_look, waits = "", 0.0, False
    while True:
        ended = run.outcome
        if ended is not None and (not requeues or ended.code == 0):
            return watch
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK
            os.listdir(run.path)  # over NFS this shows what nodes have written meanwhile
            found = queue.look(root, since)
            seen = None if found is None else found.get(number)
            if found is None:
                words = "Slurm does not answer; waiting"
            elif seen is None or seen.state not in slurm.PENDING | slurm.LIVING:
                if waits:
                    how = "Slurm knows it no more" if seen is None else f"{seen.state}, {seen.reason}"
                    progress(given)(f"job {number} was requeued, and ended before its ranks were started again: {how}")
                return watch
            elif seen.state in slurm.PENDING:
                waits = watched is not None
                if seen.reason == "BeginTime" and requeues and run.attempts():
                    queue.start_now(number)
                again = f" again (requeued, attempt {queue.restarts(number) + 1} of {requeues + 1})" if watched else ""
                words = f"job {number} is pending{again}: {slurm.why_pending(seen)}"
            elif seen.state == "COMPLETING":
                words = f"job {number} is completing on {fold_hosts(seen.hosts)}"
            else:
                words = f"job {number} is running on {fold_hosts(seen.hosts)}"
            if words != told:
                told = words
                progress(given)(words)
        record = run.read(RECORD)
        if record is not None and record != watched and run.read("plan.json") is not None:
            watched, waits = record, False
            watch = Watch(
                run.job["host"],
                run.operand,
                lambda: contact.way_to(run),
                lambda plan, run_id: make_view(plan, run_id, given, env, run.operand),
                owner=False,
                patience=600.0,
                files=lambda: run,
                lives=lambda: _lives(run, number, requeues),
                after=watch,
            )
            watch.go()
            if watch.left or (watch.outcome is not None and (not requeues or watch.outcome.code == 0)):
                return watch
            next_look = 0.0
        time.sleep(_TICK)


def _lives(run: runs.Run, number: str, requeues: int) -> bool:
    """The job runs, as far as anybody knows, and its supervisor has not written how it ended."""
    outcome = run.outcome
    if outcome is not None and (not requeues or outcome.code == 0):
        return False
    found = queue.look(run.path.parents[1])
    return found is None or (number in found and found[number].state in slurm.LIVING)


def _leave(run: runs.Run) -> int:
    """Ctrl-C: leave, and say how to kill it; a second one soon after cancels the job."""
    number = run.job["slurm"]
    say = f"muster: {run.id} goes on as job {number}; Ctrl-C again within {_AGAIN:g} s cancels it"
    print(
        f"\n{say}\nmuster: later: muster attach {run.operand}, muster kill {run.operand}", file=sys.stderr, flush=True
    )
    try:
        time.sleep(_AGAIN)
    except KeyboardInterrupt:
        contact.cancel(run)
        state = contact.wait(run, 60)
        print(f"muster: job {number} is cancelled: {state}", file=sys.stderr)
        return 130
    return 0


def _leave_it(run: runs.Run) -> int:
    """Ctrl-C in a terminal that watched a run of another one."""
    say = f"{run.id} goes on as job {run.job['slurm']}; `muster attach {run.operand}`, `muster kill {run.operand}`"
    print(f"\nmuster: {say}", file=sys.stderr, flush=True)
    return 0


def _ended_unseen(run: runs.Run, number: str) -> int:
    """Slurm says that the job is over, and no supervisor wrote how."""
    contact.state(run)
    outcome = run.outcome
    how = outcome.reason if outcome is not None else "Slurm knows it no more"
    print(f"muster: job {number} is over: {how}", file=sys.stderr)
    for path in sorted(run.path.glob("slurm*.out")):
        for line in path.read_text(errors="replace").splitlines()[-6:]:
            print(f"    {line}", file=sys.stderr)
    return 125 if outcome is None else outcome.code
