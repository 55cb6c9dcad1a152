"""A run by a scheduler: write the script of its job, hand it in, and watch what becomes of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from muster import archive, runs
from muster.agent import meet, tree
from muster.agent.eventloop import EventLoop
from muster.agent.keep import ARCHIVE
from muster.client import remote
from muster.client.attach import AttachedClient, show_rest
from muster.client.client import Client
from muster.client.follow import Follower, wait
from muster.client.reconcile import cancel, reconcile
from muster.commands.context import tell_progress
from muster.core.controller_config import RECORD
from muster.environ import is_secret, stands_open
from muster.errors import Impossible, RunFailed
from muster.hosts import Wanted, fold_hosts, shares, unfold_hosts
from muster.inside import ASKED
from muster.job import Asked
from muster.launchers import make_plan
from muster.model import Host, Node, as_json
from muster.options import RunOptions
from muster.ranks import check_sizes, layout
from muster.runner.context import RunContext, Viewer, job_record
from muster.runs import Scheduled
from muster.schedulers import get_scheduler, title, typed
from muster.schedulers.scheduler import Allocation, Phase, Request, Wish
from muster.sentences import reason_in_words
from muster.stored import plan_from_json
from muster.world import code
from muster.world.claims import Claims
from muster.world.link import captured_signals
from muster.world.queue import client

_LOOK = 2.0
"""Seconds between two looks at the queue."""
_TICK = 0.1
"""Seconds between two looks at whether the supervisor is there, which is a file."""
_AGAIN = 3.0
"""Seconds in which a second Ctrl-C cancels the job."""


def request(asked: Asked, options: RunOptions, run_dir: Path) -> Request:
    """What is asked of the scheduler; raises `Impossible`."""
    wish = Wish(
        name=asked.job.name or asked.job.program.title,
        nodes=options.nodes,
        each=asked.each,
        ranks=options.np,
        gpus=options.gpus,
        run_dir=str(run_dir),
    )
    return get_scheduler(asked.job.scheduler).request(wish, options)


def nodes_to_come(asked: Asked, options: RunOptions, run_dir: Path) -> tuple[Node, ...]:
    """The nodes and ranks of a job that is not submitted yet, as far as the options tell; raises `Impossible`.

    Nodes that `--nodelist` does not name have their number for a name.
    """
    wanted, each = request(asked, options, run_dir), asked.each
    number = int(each) if each is not None and each.isdigit() else None
    ranks = options.np
    if number is None and wanted.nodes == 1:
        number = ranks
    if number is None or wanted.nodes is None:
        raise Impossible(
            f"how many ranks each node gets is known when {title(asked.job.scheduler)} has given the nodes",
            "say it for a plan: `-N 2 -g 8`",
        )
    names = list(wanted.nodelist)
    if len(names) != wanted.nodes:
        names = [f"node-{index}" for index in range(wanted.nodes)]
    counts = shares([Wanted(name) for name in names], number, ranks)
    threads = 0 if asked.threads_chosen else None
    return layout((Host(name, threads=threads), count or 0) for name, count in zip(names, counts))


def script_of(wanted: Request, asked: Asked, options: RunOptions, run_dir: Path) -> str:
    """The batch script."""
    command = (asked.job.python, "-I", "-S", str(run_dir / ARCHIVE), "inside", str(run_dir))
    return get_scheduler(asked.job.scheduler).script(wanted, asked.job.setup, command, bool(options.python))


def submit(context: RunContext) -> int:
    """Hand the run in, or start it on the nodes of the allocation that this is; watch it unless it is detached.

    Raises `Impossible`.
    """
    options, env, run_id, store = context.options, context.env, context.run_id, context.store
    asked = context.asked
    found = client(asked.job.scheduler)
    of, flag, inner = found.scheduler, typed(found.name), found.scheduler.interactive
    allocation = found.allocation(env, store.root)
    claims, cpus = None, {}
    if allocation is not None:
        cpus = of.cpus(env, allocation.hosts)
        if options.nodes is not None:
            check_sizes(options.nodes, asked.each, options.np, f"-N {options.nodes}")
        of.check_inside(allocation, options)
        if options.detach and asked.job.stdin is not None:
            raise Impossible("--stdin with --detach: there is no terminal to read from", "leave one of them out")
        claims = Claims(store.root, found.name, f"{of.cluster(env)}-{allocation.job}")
        allocation = _choose_nodes(allocation, claims, options)
    if allocation is None and asked.job.launcher == "srun" and options.gpus is not None and options.nnodes != "1":
        raise Impossible(
            f"--launcher srun with --gpus: {found.title} may give the nodes different numbers of GPUs, and srun cannot "
            "start one job step on such nodes",
            "ask for --gpus-per-node, or for one node (-N 1)",
        )
    if allocation is None and asked.job.stdin is not None:
        raise Impossible(
            f"--stdin with {flag}: a job in the queue has no terminal to read from",
            "leave it out" + (f"; or run inside `{inner}`, where the terminal is there" if inner else ""),
        )
    make_plan(asked.job, layout([(Host("node"), 1)]), run_id)  # what cannot be is told now, and not when the job starts
    if options.sync:
        asked = _with_copy(context, store.path(run_id))
    context = context._replace(asked=asked)
    kept = context.new_directory()
    try:
        meet.put_flag(str(kept.path))
        context.make_copy()
        if options.sync and asked.copied is not None:
            copied = asked.copied[0]
            (kept.path / tree.LIST).write_bytes(tree.entries(copied.root, copied.names))
        (kept.path / ARCHIVE).write_bytes(archive.build(compiled=True))
        # the scheduler hands its own copy of the environment to the job, so no secret need lie in a file of the run
        secrets = {name: value for name, value in asked.job.env.items() if not stands_open(name, value)}
        plain = {name: value for name, value in asked.job.env.items() if name not in secrets}
        terms = of.terms(options)
        ask = {
            "job": as_json(asked.job._replace(env=plain)),
            "nodes": options.nodes,
            "hosts": list(allocation.hosts) if allocation is not None else None,
            "tasks": list(allocation.tasks) if allocation is not None else None,
            "each": asked.each,
            "np": options.np,
            "threads_chosen": asked.threads_chosen,
            "terms": terms._asdict(),
            "allocated": allocation is not None,
            "attached": allocation is not None and not options.detach,
            "exported": {name: value for name, value in of.exported(env).items() if not is_secret(name, value)},
            "cpus": cpus,
            "sync": _sync(asked, options),
            "check_code": not options.no_code_check,
        }
        kept.write(ASKED, ask)
        if allocation is None:
            wanted = request(asked, options, kept.path)
            found.try_folder(store.root, wanted, env)
            script = kept.path / "batch.sh"
            with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(os.fsencode(script_of(wanted, asked, options, kept.path)))
            number = found.submit(wanted, script, {**env, **secrets})
        else:
            number = allocation.job
        remote.remember_way(kept, remote.way_of(asked.job))
        kept.write("job.json", _record(kept, asked, context.argv, number, allocation is not None, terms.requeue))
    except BaseException:
        remote.forget_way(kept)
        runs.remove(store, kept)
        raise
    if allocation is not None and claims is not None:
        return _here(kept, context, allocation, claims)
    context.progress(f"{run_id} is submitted to {found.title} as job {number}")
    if options.detach:
        print(run_id)
        return 0
    return follow(kept, context.viewer, options.quiet)


def _with_copy(context: RunContext, run_dir: Path) -> Asked:
    """The same with a copy of the code in the run directory, which all nodes share: ranks run that, unless all nodes
    have the same in the folder where they start. Raises `Impossible`."""
    asked = context.asked
    job = code.real(asked.job)
    if asked.copied is not None:  # there is one, by --snapshot
        return asked._replace(job=job)
    found = code.tree(job.cwd, job.program.path, str(run_dir.parent))
    code.guard(found, context.code_limit, "--sync")
    copy = run_dir / "code"
    code.redirect(job, found.root, str(copy), "--sync")  # what cannot be is told now
    return asked._replace(job=job, copied=(found, copy))


def _sync(asked: Asked, options: RunOptions) -> dict[str, Any] | None:
    """What nodes must know to find the code (`inside.py`); None where they share it."""
    if not options.sync or asked.copied is None:
        return None
    found, copy = asked.copied
    return {
        "root": found.root,
        "copy": str(copy),
        "folder": tree.place(asked.job.cwd),
        "redirected": options.snapshot,
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
        scheduler=Scheduled(
            asked.job.scheduler, number, asked.job.name or asked.job.program.title, allocated, requeue
        )._asdict(),
    )


def _choose_nodes(allocation: Allocation, claims: Claims, options: RunOptions) -> Allocation:
    """The nodes of an allocation that this run gets: those that were named, as many as were asked for, or all.

    Fewer than all are for this run alone: it waits until other runs leave it as many. Raises `Impossible`.
    """
    tasks, hosts = dict(zip(allocation.hosts, allocation.tasks)), allocation.hosts
    of = get_scheduler(options.scheduled)
    naming, inner = options.option(of.nodelist), of.interactive
    if naming is not None and options.typed(naming) and (named := options.value(naming)) is not None:
        what = f"{naming.long_name} {named}"
        hosts = tuple(dict.fromkeys(unfold_hosts(named, what)))
        others = [host for host in hosts if host not in allocation.hosts]
        if others:
            raise Impossible(
                f"{what}: {fold_hosts(others)} is not of job {allocation.job}, inside of which this is",
                f"it has {fold_hosts(allocation.hosts)}",
            )
    count = options.nodes
    if count is not None and count > len(hosts):
        raise Impossible(
            f"--nnodes {count}: job {allocation.job}, in which this is, has {len(hosts)}"
            if hosts == allocation.hosts
            else f"--nnodes {count}: {naming.long_name if naming else 'the list'} names {len(hosts)}",
            f"ask {inner or 'the scheduler'} for more" if hosts == allocation.hosts else "name more of them",
        )
    if count == len(allocation.hosts):
        count = None
    words = f"waiting for {'a free node' if count == 1 else f'{count} free nodes'} of job {allocation.job}"
    say = f"muster: {words}: other runs have the rest of {fold_hosts(hosts)}"
    chosen = claims.take(hosts, count, lambda: print(say, file=sys.stderr, flush=True))
    return allocation._replace(hosts=chosen, tasks=tuple(tasks[host] for host in chosen if host in tasks))


def _here(run: runs.Run, context: RunContext, allocation: Allocation, claims: Claims) -> int:
    """Start the supervisor as a step on the first node of this allocation, and watch it: it ends with this terminal,
    unless it is detached."""
    job = context.asked.job
    command = (job.python, "-I", "-S", str(run.path / ARCHIVE), "inside", str(run.path))
    chosen = {**context.env, **{name: value for name, value in job.env.items() if not stands_open(name, value)}}
    log, locks = run.path / "supervisor.log", list(claims.descriptors.values())
    step = client(job.scheduler).start_step(allocation.job, allocation.hosts[:1], command, log, chosen, keep=locks)
    leaves = False
    try:
        while run.read(RECORD) is None and step.poll() is None:
            time.sleep(0.05)
        if run.read(RECORD) is None:
            said = (run.path / "supervisor.log").read_text(errors="replace").strip()
            why = said.removeprefix("muster: ") or f"{get_scheduler(job.scheduler).task.program} said nothing"
            raise RunFailed(f"the run did not start: {why}", None)
        if context.options.detach:
            leaves = True
            on = fold_hosts(allocation.hosts)
            context.progress(f"{run.id} is started on {on}, and ends with job {allocation.job}")
            print(run.id)
            return 0
        with EventLoop() as loop, captured_signals(loop) as signals:
            watch = AttachedClient(
                loop,
                signals,
                allocation.hosts[0],
                run.operand,
                lambda: remote.connect(run),
                lambda plan, run_id: context.viewer(plan, run_id, run.operand),
                owner=True,
                patience=job.lease + 30,
                files=lambda: run,
                stdin=context.foreground.stdin,
            )
            outcome = watch.go()
    finally:
        if not leaves and step.poll() is None and run.outcome is None:
            step.terminate()
        if not leaves:
            step.wait()
    if outcome is None and run.outcome is not None and (plan := run.read("plan.json")) is not None:
        outcome, view = run.outcome, context.viewer(plan_from_json(plan), run.id, run.operand)
        show_rest(run, view, watch.offsets)
        view.finish(outcome)
    return 125 if outcome is None else outcome.code


def follow(run: runs.Run, viewer: Viewer, quiet: bool = False, attached: bool = False) -> int:
    """Say why it waits, then show it, until it ends. The run is the scheduler's: the first Ctrl-C only leaves.

    `attached`: this terminal is not the one that started it, and no Ctrl-C ends the job.
    """
    leave = _leave_it if attached else _leave
    try:
        watch = _watch(run, viewer, quiet)
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
        view = view or viewer(plan_from_json(plan), run.id, run.operand)
        show_rest(run, view, watch.offsets if watch is not None else {}, watch.tail if watch is not None else None)
    if outcome is None or view is None:
        return _ended_unseen(run)
    view.finish(outcome)
    return outcome.code


def _watch(run: runs.Run, viewer: Viewer, quiet: bool) -> AttachedClient | None:
    """Watch it through all its attempts; gives the last watch, None when there was nothing to watch."""
    scheduled = _job_of(run)
    asks, number, requeues = client(scheduled.name), scheduled.job, scheduled.requeue
    root, since = run.path.parents[1], float(run.job["time"])
    watch: AttachedClient | None = None
    watched: Any = None
    told, next_look, waits = "", 0.0, False
    while True:
        ended = run.outcome
        if ended is not None and (not requeues or ended.code == 0):
            return watch
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK
            os.listdir(run.path)  # over NFS this shows what nodes have written meanwhile
            found = asks.jobs(root, since)
            seen = None if found is None else found.get(number)
            phase = Phase.UNKNOWN if seen is None else asks.phase(seen)
            if found is None:
                words = f"{asks.title} does not answer; waiting"
            elif seen is None or not (phase is Phase.PENDING or phase.lives):
                if waits:
                    how = f"{asks.title} knows it no more" if seen is None else f"{seen.state}, {seen.reason}"
                    tell_progress(
                        f"job {number} was requeued, and ended before its ranks were started again: {how}", quiet
                    )
                return watch
            elif phase is Phase.PENDING:
                waits = watched is not None
                if seen.delayed and requeues and run.attempts():
                    asks.start_now(number)
                again = f" again (requeued, attempt {asks.restarts(number) + 1} of {requeues + 1})" if watched else ""
                words = f"job {number} is pending{again}" + (f": {seen.why}" if seen.why else "")
            elif phase is Phase.COMPLETING:
                words = f"job {number} is completing on {fold_hosts(seen.hosts)}"
            else:
                words = f"job {number} is running on {fold_hosts(seen.hosts)}"
            if words != told:
                told = words
                tell_progress(words, quiet)
        record = run.read(RECORD)
        if record is not None and record != watched and run.read("plan.json") is not None:
            watched, waits = record, False
            with EventLoop() as loop, captured_signals(loop) as signals:
                watch = AttachedClient(
                    loop,
                    signals,
                    run.job["host"],
                    run.operand,
                    lambda: remote.connect(run),
                    lambda plan, run_id: viewer(plan, run_id, run.operand),
                    owner=False,
                    patience=600.0,
                    files=lambda: run,
                    lives=lambda: _lives(run),
                    after=watch,
                )
                watch.go()
            if watch.left or (watch.outcome is not None and (not requeues or watch.outcome.code == 0)):
                return watch
            next_look = 0.0
        time.sleep(_TICK)


def _job_of(run: runs.Run) -> Scheduled:
    """The job of a run that is a scheduler's."""
    found = run.scheduled
    assert found is not None
    return found


def _lives(run: runs.Run) -> bool:
    """The job runs, as far as anybody knows, and its supervisor has not written how it ended."""
    outcome, scheduled = run.outcome, _job_of(run)
    if outcome is not None and (not scheduled.requeue or outcome.code == 0):
        return False
    asks = client(scheduled.name)
    found = asks.jobs(run.path.parents[1])
    return found is None or (scheduled.job in found and asks.phase(found[scheduled.job]).lives)


def _leave(run: runs.Run) -> int:
    """Ctrl-C: leave, and say how to kill it; a second one soon after cancels the job."""
    number = _job_of(run).job
    say = f"muster: {run.id} goes on as job {number}; Ctrl-C again within {_AGAIN:g} s cancels it"
    print(
        f"\n{say}\nmuster: later: muster attach {run.operand}, muster kill {run.operand}", file=sys.stderr, flush=True
    )
    try:
        time.sleep(_AGAIN)
    except KeyboardInterrupt:
        cancel(run)
        with Client(run) as client:
            found = wait(Follower(run, client), 60).status
        print(f"muster: job {number} is cancelled: {found.state}", file=sys.stderr)
        return 130
    return 0


def _leave_it(run: runs.Run) -> int:
    """Ctrl-C in a terminal that watched a run of another one."""
    say = f"{run.id} goes on as job {_job_of(run).job}; `muster attach {run.operand}`, `muster kill {run.operand}`"
    print(f"\nmuster: {say}", file=sys.stderr, flush=True)
    return 0


def _ended_unseen(run: runs.Run) -> int:
    """The scheduler says that the job is over, and no supervisor wrote how."""
    scheduled, outcome = _job_of(run), reconcile(run).outcome
    how = reason_in_words(outcome.stopped) if outcome is not None else f"{title(scheduled.name)} knows it no more"
    print(f"muster: job {scheduled.job} is over: {how}", file=sys.stderr)
    names = get_scheduler(scheduled.name).outputs
    for path in (run.path / name.replace("%j", scheduled.job) for name in names):
        if not path.exists():
            continue
        for line in path.read_text(errors="replace").splitlines()[-6:]:
            print(f"    {line}", file=sys.stderr)
    return 125 if outcome is None else outcome.code
