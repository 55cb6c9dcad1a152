"""A run with a scheduler: write the batch script and submit it, or start the run in an existing allocation."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from muster import bundle, code_sync
from muster.agent import code_tree, facts
from muster.agent.controller_process import ARCHIVE
from muster.client import remote
from muster.client.attach import AttachedClient
from muster.config.options import RunOptions
from muster.config.resolve import JobRequest
from muster.config.sessions import options_of_session
from muster.controller.connections import captured_signals
from muster.controller.job_records import RECORD_OF_JOB, REQUEST
from muster.controller.node_claims import Claims
from muster.controller.unsent_output import show_rest
from muster.core.controller_config import RECORD
from muster.core.env_forwarding import is_secret, stands_open
from muster.core.hostlist import HostSpec, assign_slots, fold_hostlist, parse_nodelist
from muster.core.layout import check_sizes, layout
from muster.core.model import Host, Job, Node, Role, as_json
from muster.core.plurals import plural
from muster.core.results import SIGTERM, RunResult
from muster.core.roles import roles_record, secret_of_role
from muster.errors import ControlError, InvalidRequest
from muster.linux.eventloop import EventLoop
from muster.linux.shell import quote
from muster.rundir.job_record import Scheduled
from muster.rundir.run import Run
from muster.rundir.start_notes import StartNotes
from muster.rundir.store import remove_run, writing
from muster.runner.context import RunContext, Say, refuse_stdin, run_record
from muster.runner.detached import DetachedRun
from muster.runner.handle import RunHandle, Views
from muster.runner.roles import Parts, members_of, plan_of
from muster.schedulers import get_scheduler, title, typed
from muster.schedulers.client import SchedulerClient, client
from muster.schedulers.scheduler import After, Allocation, Request, Wish

_TICK = 0.05
"""Seconds between checks for the controller, which appears as a file."""
_STEP_ENDS = 60.0
"""Seconds for the controller's step to exit: the controller itself waits for the steps of its agents."""


class StepRun(RunHandle):
    """A run in an existing allocation.

    Its controller is a job step on the first node, and ends with this process.
    """

    def __init__(
        self, run: Run, views: Views, connection: AttachedClient, step: Popen[bytes], resources: ExitStack[None]
    ):
        super().__init__(run, views)
        self._views, self._connection, self._step, self._resources = views, connection, step, resources

    def _drive(self) -> RunResult | None:
        try:
            with self._resources:
                outcome = self._connection.go()
        finally:
            _end(self._step, self.run)
        if outcome is None and (outcome := self.run.outcome) is not None:
            show_rest(self.run, self._views, self._connection.offsets)
            self._views.finish(outcome)
        return outcome

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run gracefully."""
        self._connection.stop(number)


def request(
    asked: JobRequest, options: RunOptions, run_dir: Path, array: str = "", after: tuple[After, ...] = ()
) -> Request:
    """Return the request to the scheduler. Raises `InvalidRequest`.

    `array`: the numbers of the tasks of a job array. `after`: the jobs to wait for.
    """
    wish = Wish(
        name=asked.job.name or asked.job.program.title,
        nodes=options.nodes,
        each=asked.ranks_per_node,
        ranks=options.np,
        gpus=options.gpus,
        run_dir=str(run_dir),
        spares=asked.job.spare_nodes,
        array=array,
        after=after,
    )
    return get_scheduler(asked.job.scheduler).request(wish, options)


def nodes_to_come(asked: JobRequest, options: RunOptions, run_dir: Path) -> tuple[Node, ...]:
    """Return the nodes and ranks of a job that is not submitted yet, as far as the options tell.

    Nodes not named by `--nodelist` are named by their number. Raises `InvalidRequest`.
    """
    wanted, each = request(asked, options, run_dir), asked.ranks_per_node
    number = int(each) if each is not None and each.isdigit() else None
    ranks = options.np
    if number is None and wanted.nodes == 1:
        number = ranks
    if number is None or wanted.nodes is None:
        raise InvalidRequest(
            f"the number of ranks per node is unknown until {title(asked.job.scheduler)} allocates the nodes",
            "set it for the plan, for example `-N 2 -g 8`",
        )
    names, nodes = list(wanted.nodelist), wanted.nodes - asked.job.spare_nodes
    names = names[:nodes] if len(names) == wanted.nodes else [f"node-{index}" for index in range(nodes)]
    counts = assign_slots([HostSpec(name) for name in names], number, ranks)
    threads = 0 if asked.threads_chosen else None
    return layout((Host(name, threads=threads), count or 0) for name, count in zip(names, counts))


def parts_to_come(context: RunContext) -> Parts:
    """Return the nodes of each role of a job that is not submitted yet; see `nodes_to_come`."""
    run_dir, members = context.store.path(context.run_id), members_of(context)
    every = nodes_to_come(context.asked, context.options, run_dir)
    if len(members) == 1:
        return [every]
    parts: list[tuple[Node, ...]] = []
    for own, options in members:
        hosts = [node.host for node in every[sum(map(len, parts)) :][: options.nodes or 1]]
        number = int(own.ranks_per_node) if own.ranks_per_node is not None else 0
        counts = assign_slots([HostSpec(host.name) for host in hosts], number, options.np)
        parts.append(layout((host, count or 0) for host, count in zip(hosts, counts)))
    return parts


def script_of(wanted: Request, asked: JobRequest, options: RunOptions, run_dir: Path, more: Sequence[str] = ()) -> str:
    """Return the batch script. `more` are further words of its command, see `batch.run_batch`."""
    command = (asked.job.python, "-I", "-S", str(run_dir / ARCHIVE), "inside", str(run_dir), *more)
    setup = asked.job.setup if _same_setup(asked) else ()  # otherwise each role runs its own in its steps
    return get_scheduler(asked.job.scheduler).script(wanted, setup, command, bool(options.python))


def start(context: RunContext) -> StepRun | DetachedRun:
    """Submit the run, or start it on the nodes of the current allocation.

    Raises `MusterError`; everything started so far is cleaned up then.
    """
    claimed: ExitStack[None] = ExitStack()
    with claimed:
        return _start(context, claimed)


def _start(context: RunContext, claimed: ExitStack[None]) -> StepRun | DetachedRun:
    refuse_stdin(context)
    options, env, run_id, store = context.options, context.env, context.run_id, context.store
    asked = context.asked
    found = client(asked.job.scheduler)
    of = found.scheduler
    allocation = found.allocation(env, store.root)
    claims, cpus = None, {}
    if allocation is not None:
        cpus = of.cpus(env, allocation.hosts)
        if options.nodes is not None:
            check_sizes(options.nodes, asked.ranks_per_node, options.np, f"-N {options.nodes}")
        of.check_inside(allocation, options)
        if asked.job.spare_nodes:
            raise InvalidRequest(
                f"--spare-nodes: not available inside job {allocation.job}, which {found.title} may end when it loses "
                "a node",
                "submit the run from outside the job",
            )
        if options.detach and asked.job.stdin is not None:
            raise InvalidRequest(
                "--stdin cannot be combined with --detach: no terminal to read from", "leave out one of them"
            )
        # a program that starts runs may live for long after one that cannot start
        claims = claimed.enter_context(Claims(store.root, found.name, f"{of.cluster(env)}-{allocation.job}"))
        allocation = _choose_nodes(allocation, claims, options, context.warn)
    if allocation is None:
        check_queued(context)
    # report errors now, not when the job starts
    plan_of(members_of(context), [layout([(Host("node"), 1)])] * len(members_of(context)), run_id)
    if options.sync:
        asked = with_copy(context, store.path(run_id))
    context = context._replace(asked=asked)
    kept = context.new_directory()
    try:
        with writing(kept.path), ExitStack() as submitted:
            facts.write_marker(str(kept.path))
            context.make_copy()
            if options.sync and asked.snapshot is not None:
                copied = asked.snapshot[0]
                (kept.path / code_tree.LIST).write_bytes(code_tree.entries(copied.root, copied.names))
            (kept.path / ARCHIVE).write_bytes(bundle.kept(store.home))
            # the scheduler passes its own copy of the environment, so no secret needs to be in a file of the run
            secrets = secrets_of_roles(asked)
            terms = of.terms(options)
            request_of_job = request_record(context, allocation, cpus)
            if allocation is None:
                # if this process is killed before it writes job.json, the job does
                request_of_job[RECORD_OF_JOB] = job_record(
                    kept, asked, context.argv, "", False, terms.requeue, after=context.after
                )
            kept.write(REQUEST, request_of_job)
            if allocation is None:
                wanted = found.complete(request(asked, options, kept.path, after=context.after))
                check_nodes(context, found, wanted)
                submit_env = {**env, **secrets}
                if of.publishes_env:
                    wanted = wanted._replace(env_file=write_environment(kept, of.submit_env(submit_env)))
                script = write_script(kept, script_of(wanted, asked, options, kept.path))
                number = found.submit(wanted, script, submit_env)
                submitted.enter_context(found.cancels_unless_recorded(number))
            else:
                number = allocation.job
            remote.remember_way(kept, remote.way_of(asked.job))
            inside, after = allocation is not None, () if allocation is not None else context.after
            kept.write("job.json", job_record(kept, asked, context.argv, number, inside, terms.requeue, after=after))
    except BaseException:
        remote.forget_way(kept)
        remove_run(store, kept)
        raise
    if allocation is not None and claims is not None:
        return _start_step(kept, context, allocation, claims)
    context.progress(f"{run_id} submitted to {found.title} as job {number}")
    return DetachedRun(kept)


def with_copy(context: RunContext, run_dir: Path) -> JobRequest:
    """Return the request with a copy of the code in the run directory, which all nodes share.

    Ranks run that copy, unless all nodes have the same code in their start directory. Raises `InvalidRequest`.
    """
    asked = context.asked.with_jobs([code_sync.real(job) for job in context.asked.jobs])
    if asked.snapshot is not None:  # there is one already, because of --snapshot
        return asked
    found = code_sync.tree_of(asked.jobs, str(run_dir.parent))
    code_sync.guard(found, context.code_limit, "--sync")
    copy = run_dir / "code"
    for job in asked.jobs:
        code_sync.redirect(job, found.root, str(copy), "--sync")  # report errors now
    return asked._replace(snapshot=(found, copy))


def _sync(asked: JobRequest, options: RunOptions) -> dict[str, Any] | None:
    """Return what nodes need to find the code (`controller/batch.py`); None if they share it."""
    if not options.sync or asked.snapshot is None:
        return None
    found, copy = asked.snapshot
    return {
        "root": found.root,
        "copy": str(copy),
        "folder": code_tree.place(asked.job.cwd),
        "redirected": options.snapshot,
    }


def check_queued(context: RunContext) -> None:
    """Raise `InvalidRequest` for what a job that waits in a queue cannot do."""
    job, options = context.asked.job, context.options
    of, flag = get_scheduler(job.scheduler), typed(job.scheduler)
    if job.launcher == "srun" and options.gpus is not None and options.nnodes != "1":
        raise InvalidRequest(
            f"--launcher srun with --gpus: {of.title} may allocate unequal numbers of GPUs, and srun cannot "
            "start one job step on such nodes",
            "use --gpus-per-node, or one node (-N 1)",
        )
    if job.stdin is not None:
        inner = of.interactive
        raise InvalidRequest(
            f"--stdin cannot be combined with {flag}: a queued job has no terminal to read from",
            "leave out --stdin" + (f", or run inside `{inner}`, which has a terminal" if inner else ""),
        )


def check_nodes(context: RunContext, asks: SchedulerClient, wanted: Request) -> None:
    """Check that nodes see muster's directory, and the environment that they are to send. Raises `InvalidRequest`."""
    pythons, root = [job.python for job in context.asked.jobs], context.store.root
    here = (python for python in pythons if code_tree.on_one_machine(os.path.dirname(python)))
    local = next(here, "") if context.options.ship_env else ""
    if not asks.try_folder(root, wanted, context.env, local) and local:
        context.warn(f"warning: {local} is on a disk of this machine; the job fails if its nodes do not see it")


def secrets_of(job: Job) -> dict[str, str]:
    """Return the variables of ranks that may be secret, which no file of the run contains."""
    return {name: value for name, value in job.env.items() if not stands_open(name, value)}


def secrets_of_roles(asked: JobRequest) -> dict[str, str]:
    """Return the variables that may be secret: with roles under other names, so that no role gets those of another."""
    if not asked.roles:
        return secrets_of(asked.job)
    return {
        secret_of_role(index, name): value
        for index, role in enumerate(asked.roles)
        for name, value in secrets_of(role.asked.job).items()
    }


def _roles_in_request(asked: JobRequest) -> list[dict[str, Any]]:
    """Return what the controller in the job needs of each role (`controller/batch_roles.py`)."""
    found = []
    for (own, options), secrets in ((role, secrets_of(role.asked.job)) for role in asked.roles):
        plain = {name: value for name, value in own.job.env.items() if name not in secrets}
        found.append(
            {
                "job": as_json(own.job._replace(env=plain)),
                "nodes": options.nodes or 1,
                "each": own.ranks_per_node,
                "np": options.np,
                "threads_chosen": own.threads_chosen,
                "main": options.main,
                "setup": not _same_setup(asked),
                "folder": code_tree.place(own.job.cwd),
            }
        )
    return found


def _same_setup(asked: JobRequest) -> bool:
    """Return whether the batch script runs the lines of `--setup`, because they are those of all roles."""
    return all(role.asked.job.setup == asked.job.setup for role in asked.roles)


def request_record(
    context: RunContext, allocation: Allocation | None, cpus: Mapping[str, int], open_names: Collection[str] = ()
) -> dict[str, Any]:
    """Return the request for the controller in the job (`batch.REQUEST`).

    `open_names`: variables that are no secrets.
    """
    options, asked, secrets = context.options, context.asked, secrets_of(context.asked.job)
    of = get_scheduler(asked.job.scheduler)
    plain = {name: value for name, value in asked.job.env.items() if name not in secrets or name in open_names}
    exported = of.exported(context.env)
    return {
        "job": as_json(asked.job._replace(env=plain)),
        "nodes": options.nodes,
        "hosts": list(allocation.hosts) if allocation is not None else None,
        "tasks": list(allocation.tasks) if allocation is not None else None,
        "each": asked.ranks_per_node,
        "np": options.np,
        "threads_chosen": asked.threads_chosen,
        "terms": of.terms(options)._asdict(),
        "allocated": allocation is not None,
        "attached": allocation is not None and not options.detach,
        "exported": {name: value for name, value in exported.items() if not is_secret(name, value)},
        "cpus": cpus,
        "sync": _sync(asked, options),
        "ship_env": (options.env_dir or "") if options.ship_env else None,
        "check_code": not options.no_code_check,
        "previous": context.previous,
        "roles": _roles_in_request(asked),
        "session": options_of_session(options) if asked.job.hold is not None else None,
    }


def write_script(kept: Run, text: str) -> Path:
    """Write the batch script of a run, and return its path."""
    return _write_private(kept.path / "batch.sh", text)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names of variables that a shell can set; others are functions that bash exports."""


def write_environment(kept: Run, env: Mapping[str, str]) -> str:
    """Write shell lines that set the variables of a job, for its owner alone, and return the path of the file."""
    lines = [f"export {name}={quote(value)}\n" for name, value in env.items() if _NAME.fullmatch(name)]
    return str(_write_private(kept.path / "environment.sh", "".join(lines)))


def _write_private(path: Path, text: str) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(os.fsencode(text))
    return path


def job_record(
    kept: Run,
    asked: JobRequest,
    words: list[str],
    number: str,
    allocated: bool,
    requeue: int,
    job_name: str = "",
    after: Sequence[After] = (),
) -> dict[str, Any]:
    """Return the contents of job.json for a run whose nodes are not known yet.

    `job_name`: the name of the job, if it is not that of the run. `after`: the jobs that it waits for.
    """
    return run_record(
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
            asked.job.scheduler,
            number,
            job_name or asked.job.name or asked.job.program.title,
            allocated,
            requeue,
            tuple(f"{one.job}:{one.how}" for one in after),
        )._asdict(),
        **roles_record(Role(role.asked.job.role, role.asked.job, 0, 0, 0, 0) for role in asked.roles),
    )


def _choose_nodes(allocation: Allocation, claims: Claims, options: RunOptions, tell: Say) -> Allocation:
    """Return the allocation reduced to the nodes for this run: those named, as many as requested, or all.

    A subset is exclusive to this run: it waits until other runs leave enough nodes. Raises `InvalidRequest`.
    """
    tasks, hosts = dict(zip(allocation.hosts, allocation.tasks)), allocation.hosts
    of = get_scheduler(options.scheduled)
    naming, inner = options.option(of.nodelist), of.interactive
    if naming is not None and options.typed(naming) and (named := options.value(naming)) is not None:
        what = f"{naming.long_name} {named}"
        hosts = tuple(dict.fromkeys(parse_nodelist(named, what)))
        others = [host for host in hosts if host not in allocation.hosts]
        if others:
            raise InvalidRequest(
                f"{what}: {fold_hostlist(others)} not in the allocation of job {allocation.job}",
                f"its nodes are {fold_hostlist(allocation.hosts)}",
            )
    count = options.nodes
    if count is not None and count > len(hosts):
        raise InvalidRequest(
            f"--nnodes {count}: job {allocation.job} has {plural(len(hosts), 'node')}"
            if hosts == allocation.hosts
            else f"--nnodes {count}: {naming.long_name if naming else 'the list'} names {len(hosts)}",
            f"request more with {inner or 'the scheduler'}" if hosts == allocation.hosts else "name more nodes",
        )
    if count == len(allocation.hosts):
        count = None
    words = f"waiting for {'a free node' if count == 1 else f'{count} free nodes'} of job {allocation.job}"
    chosen = claims.take(hosts, count, lambda: tell(f"{words}: other runs use the rest of {fold_hostlist(hosts)}"))
    return allocation._replace(hosts=chosen, tasks=tuple(tasks[host] for host in chosen if host in tasks))


def _start_step(run: Run, context: RunContext, allocation: Allocation, claims: Claims) -> StepRun | DetachedRun:
    """Start the controller as a step on the first node of this allocation."""
    job = context.asked.job
    command = (job.python, "-I", "-S", str(run.path / ARCHIVE), "inside", str(run.path))
    chosen = {**context.env, **secrets_of_roles(context.asked)}
    log, locks = run.path / "controller.log", list(claims.descriptors.values())
    step = client(job.scheduler).start_step(allocation.job, allocation.hosts[:1], command, log, chosen, keep=locks)
    resources: ExitStack[None] = ExitStack()
    notes = StartNotes(run, context.progress)
    try:
        while (run.read(RECORD) is None or run.plan is None) and step.poll() is None:
            notes.look()
            time.sleep(_TICK)
        notes.look()
        plan = run.plan
        if run.read(RECORD) is None or plan is None:
            said = log.read_text(errors="replace").strip()
            why = said.removeprefix("error: ") or f"no error message from {get_scheduler(job.scheduler).task.program}"
            raise ControlError(f"cannot start the run: {why}", None)
        if context.options.detach:
            on = fold_hostlist(allocation.hosts)
            context.progress(f"{run.id} started on {on}; it ends with job {allocation.job} at the latest")
            return DetachedRun(run)
        views = Views(context.viewer(plan, run.id, run.operand), context.warn)
        loop = resources.enter_context(EventLoop())
        signals = resources.enter_context(captured_signals(loop, ours=context.foreground.signals))
        connection = AttachedClient(
            loop,
            signals,
            allocation.hosts[0],
            run.operand,
            lambda: remote.connect(run),
            lambda made, name: views,
            owner=True,
            patience=job.lease + 30,
            view=views,
            files=lambda: run,
            stdin=context.foreground.stdin,
            told=notes.told,
        )
        return StepRun(run, views, connection, step, resources)
    except BaseException:
        resources.close()
        _end(step, run)
        raise


def _end(step: Popen[bytes], run: Run) -> None:
    """Wait for the controller's step to exit; terminate it if the run has not ended.

    The scheduler's command may wait for a node that has crashed, or for ever (`AgentSteps.see_end`): it is killed then.
    """
    if step.poll() is None and run.outcome is None:
        step.terminate()
    try:
        step.wait(_STEP_ENDS)
    except TimeoutExpired:
        step.kill()
        step.wait()
