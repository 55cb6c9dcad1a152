"""The controller of a run inside a scheduler's job, to which the batch script execs.

`python muster.pyz inside RUN_DIR` starts one agent per node with a single job step, plans from their facts, and
supervises.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from muster import code_sync
from muster.agent import code_tree, facts
from muster.code_sync import Tree
from muster.config.nodes import nodes_of
from muster.controller.batch_roles import groups_of, plan_of_roles, roles_in_job
from muster.controller.bootstrap import Bootstrap, Need, RunPlace, need_of
from muster.controller.connections import TcpConnection
from muster.controller.detached import DetachedController, tell_of_end
from muster.controller.job_records import REQUEST, keep_record, run_of_task
from muster.controller.job_steps import END, END_WELL, AgentSteps, is_stopped
from muster.controller.job_time import BatchJob
from muster.controller.joining_agents import JoiningAgents
from muster.core.controller_config import RECORD, config_as_json
from muster.core.env_forwarding import redact
from muster.core.events import Configured
from muster.core.hostlist import HostSpec, assign_slots, fold_hostlist, fold_reasons
from muster.core.json_records import job_from_json
from muster.core.model import Host, Job, Plan, as_json
from muster.core.plurals import plural
from muster.core.printable import guard
from muster.core.printable import line as safe
from muster.core.results import Replaced, RunResult, RunState, StopKind, StopReason
from muster.core.roles import roles_record
from muster.core.spares import arrange, unfit_hosts
from muster.core.sweep import goes_on
from muster.errors import InvalidRequest, MusterError, Unreachable
from muster.launchers import make_plan
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals, not_ignored
from muster.notification import notify
from muster.protocol.local_sockets import SUPERVISOR, Sockets, keep, new_token
from muster.rundir.accounting import GRANTED
from muster.rundir.output_files import OutputFiles
from muster.rundir.run import Run
from muster.rundir.session import write_session
from muster.rundir.start_notes import clear_notes, note
from muster.schedulers import get_scheduler
from muster.schedulers.client import client
from muster.schedulers.scheduler import Allocation, JobTerms
from muster.ui.text import outcome_as_json

_END = 120.0


class BatchRun:
    """The controller of a run in an allocation, from before there is a plan to its end."""

    def __init__(
        self,
        loop: EventLoop,
        signals: CapturedSignals,
        run: Run,
        asked: Mapping[str, Any],
        allocation: Allocation,
        steps: AgentSteps,
    ):
        self.loop, self.signals, self.run, self.allocation = loop, signals, run, allocation
        job = job_from_json(asked["job"])
        self.client, self.scheduler = steps.client, steps.client.scheduler
        own = {} if asked["allocated"] else self.scheduler.exported(os.environ)
        self.exported: Mapping[str, str] = {**asked["exported"], **own}
        """Variables of the job that ranks have, beside those of a task."""
        self.job: Job = job._replace(allocation=allocation.job, env={**self.exported, **job.env})
        self.cpus = asked["cpus"] or self.scheduler.cpus(os.environ, allocation.hosts)
        self.asked, self.steps = asked, steps
        self.sync: Mapping[str, Any] | None = asked["sync"]
        """Location of the code, and of its copy in the run directory (`--sync`)."""
        self.each, self.np, self.threads_chosen = asked["each"], asked["np"], asked["threads_chosen"]
        self.began = time.monotonic()
        self.terms = JobTerms(**asked["terms"])
        self.batch = BatchJob(
            self.client,
            allocation.job,
            self.terms,
            signalled=not asked["allocated"],
            logs=[
                run.path / name.replace("%j", allocation.job)
                for name in ("agents.log", "controller.log", *self.scheduler.outputs)
            ],
        )
        task = {**self.scheduler.task._asdict(), "stop": self.scheduler.signals.stop}
        self.roles = roles_in_job(asked, allocation, self.exported)
        """The roles of a run with several programs."""
        hosts = allocation.hosts
        self.spares = max(0, len(hosts) - asked["nodes"]) if self.job.spare_nodes else 0
        """The number of nodes that get no ranks at first: the last ones."""
        self.replaced: tuple[Replaced, ...] = ()
        self.warnings: list[str] = []
        """What to tell once the run has begun."""
        self.agents = JoiningAgents(loop, run, hosts, self.job.lease, task, steps, _complain, self.spares)
        self.bootstrap = Bootstrap(self.agents, self._need())

    def _need(self) -> Need:
        """Return what the nodes need."""
        return need_of(self.job, [role.job for role in self.roles for _ in role.hosts])

    def bring_agents(self) -> None:
        """Start agents on all nodes, and check that the run can start there. Raises `Unreachable`, `InvalidRequest`."""
        self._list_code()
        self.bootstrap.facts(str(self.run.path))
        if self.spares:
            self._choose_nodes()
        self.bootstrap.check_storage(str(self.run.path))
        self.take_code()
        self.bootstrap.check()

    def _choose_nodes(self) -> None:
        """Leave out the nodes that cannot be used, and give their places to spares. Raises `Unreachable`."""
        path, links = self.job.program.path, self.agents.links
        told = {link.host: link.facts for link in links if link.facts}
        own = facts.file_digest(os.path.join(self.job.cwd, path)) if path else ""
        ranks = int(self.each) if self.each is not None and self.each.isdigit() else None
        unfit = {
            **self.agents.failed,
            **unfit_hosts(told, path, own, dict.fromkeys(told, ranks), self.sync is not None),
        }
        hosts, count = [link.host for link in links], len(links) - self.spares
        if hosts[0] in unfit:
            raise Unreachable(f"cannot use {hosts[0]}, on which the controller runs: {unfit[hosts[0]]}", None)
        found = arrange(hosts, count, unfit)
        if found is None:
            usable, reasons = len(hosts) - len(unfit), fold_reasons(unfit.items())
            raise Unreachable(
                f"{plural(count, 'usable node')} required, {usable} found: {reasons}", "use a larger --spare-nodes"
            )
        self.warnings = [f"warning: {one.host} left out: {one.why}; {one.by} takes its place" for one in found.replaced]
        self.warnings += [f"warning: spare node {host} left out: {why}" for host, why in found.unused]
        self.agents.arrange(found.order)
        self.replaced, self.spares = found.replaced, len(found.order) - count

    @property
    def _links(self) -> Sequence[TcpConnection]:
        """The agents of the nodes that get ranks."""
        return self.agents.links[: len(self.agents.links) - self.spares]

    def _list_code(self) -> None:
        """Write the list of files that agents compare."""
        if self.sync is not None:
            names = [name for name, *_ in json.loads((self.run.path / code_tree.LIST).read_bytes())]
            self.agents.code, self.agents.sent = Tree(self.sync["root"], tuple(names)), True
        elif self.asked["check_code"] and len(self.allocation.hosts) > 1 and os.path.isdir(self.job.cwd):
            found = code_sync.sources(self.job, str(self.run.path.parent))
            if found is not None:
                self.agents.code = found
                (self.run.path / code_tree.LIST).write_bytes(code_tree.entries(found.root, found.names))

    def take_code(self) -> None:
        """Make ranks run the copy of the code in the run directory, unless all nodes have identical code in place.

        They start in their own directory if on all nodes it is the one where the run was submitted, otherwise in the
        copy.
        """
        if self.sync is None:
            return
        copy = self.sync["copy"]
        links, every = self.agents.links, [link.facts for link in self.agents.links]
        if self.sync["redirected"]:
            in_place = all(told["cwd"] for told in every)
        else:
            in_place = all(link.facts["cwd"] and not self.agents.other_files(link, copy) for link in links)
        self.agents.code = None  # it is identical, or not used
        if in_place:
            return
        roles = []
        for role in self.roles:
            own, every = every[: len(role.hosts)], every[len(role.hosts) :]
            roles.append(role._replace(job=self._in_copy(role.job, own, role.folder)))
        self.roles = tuple(roles)
        self.job = roles[0].job if roles else self._in_copy(self.job, every, self.sync["folder"])
        self.bootstrap.need = self._need()

    def _in_copy(self, job: Job, every: Sequence[dict[str, Any]], folder: list[Any]) -> Job:
        """Return a job that runs the copy of the code. `every`: the facts of its nodes; `folder`: see `RoleInJob`."""
        assert self.sync is not None
        root, copy, cwd = self.sync["root"], self.sync["copy"], job.cwd
        if not self.sync["redirected"]:
            job = code_sync.redirect(job, root, copy, "--sync")
        if not all(told["cwd"] and code_tree.same_place(told["folder"], folder) for told in every):
            job = job._replace(cwd=code_sync.moved(cwd, root, copy))
            os.makedirs(job.cwd, exist_ok=True)  # git lists no empty directories
        for told in every:
            told.update(cwd=True, script=facts.file_digest(os.path.join(job.cwd, job.program.path)))
        return job

    def _counts(self) -> Sequence[int | None]:
        """Return the number of ranks on each node; None where it follows from the GPUs. Raises `InvalidRequest`."""
        links = self._links
        tasks = tuple(self.asked["tasks"] or self.allocation.tasks)[: len(links)]
        number = int(self.each) if self.each is not None and self.each.isdigit() else None
        counts: Sequence[int | None] = [None] * len(links)
        if number is None and self.np is not None and sum(tasks) == self.np:
            counts = tasks
        elif number is not None:
            counts = assign_slots([HostSpec(link.host) for link in links], number, self.np)
        elif self.np is not None:
            counts = [self.np // len(links) + (index < self.np % len(links)) for index in range(len(links))]
        elif self.each is None and len(tasks) == len(links) and not any(link.facts["gpus"] for link in links):
            counts = tasks  # as the job was requested
        if 0 in counts:
            idle = fold_hostlist(link.host for link, count in zip(links, counts) if count == 0)
            raise InvalidRequest(
                f"-n {self.np} leaves {idle} of job {self.allocation.job} without a rank", "use fewer nodes with -N"
            )
        return counts

    def _plan(self) -> Plan:
        """Return the plan for the nodes, given their facts. Raises `InvalidRequest`."""
        told = self.bootstrap.told
        if self.roles:
            return plan_of_roles(self.roles, [link.host for link in self.agents.links], self.cpus, told, self.run.id)
        every = [Host(link.host, cpus_of_tasks=self.cpus.get(link.host)) for link in self.agents.links]
        hosts, spares = every[: len(self._links)], every[len(self._links) :]
        nodes = nodes_of(self.job, hosts, self._counts(), self.each, told, threads_chosen=self.threads_chosen)
        return make_plan(self.job, nodes, self.run.id)._replace(spares=tuple(spares))

    def _outputs(self, plan: Plan, first: int) -> OutputFiles:
        """Return the files named by `--output` and `--error`. Raises `InvalidRequest`."""
        output, error = self.terms.output, self.terms.error or self.terms.output
        names = self.scheduler.file_names
        targets: dict[tuple[int, str], str] = {}
        if names is None:
            return OutputFiles(targets, first)
        job = names.of_job(os.environ)
        for node in plan.nodes:
            for rank in node.ranks:
                values = names.of_rank(job, rank, node.host.name, self.agents.links[node.number].facts["step"])
                for stream, pattern in (("out", output), ("err", error)):
                    if pattern:
                        targets[rank.rank, stream] = os.path.join(self.job.cwd, names.fill(pattern, values))
        return OutputFiles(targets, first)

    def serve(self) -> int:
        """Plan, and supervise the run until it ends; return the exit code."""
        plan, met, links = self._plan(), self.bootstrap.find_rendezvous(), self.agents.links
        where = RunPlace(self.run.id, str(self.run.path), new_token())
        owned, restarts = bool(self.asked["attached"]), self.allocation.restarts
        config, parts = self.bootstrap.configure(
            *(plan, where, met, self.began),
            owned=owned,
            reads=owned,
            first_attempt=max(self.run.attempts(), default=-1) + 1 if restarts else 0,
            again=bool(restarts),
            replaced=self.replaced,
        )
        self.run.write("plan.json", redact(as_json(plan)))
        self.run.write("environment.json", redact({"env": dict(sorted(os.environ.items()))})["env"])
        outputs = self._outputs(plan, config.first_attempt)
        of_roles = roles_record(plan.roles)
        self.run.write("job.json", {**self.run.job, "ranks": plan.world_size, "host": links[0].host, **of_roles})
        keep(str(self.run.path), where.token)
        viewers = Sockets(self.run.id, where.token).listen(SUPERVISOR)
        if self.job.hold is not None:
            write_session(self.run, self.asked["session"], config, [link.facts for link in links], self.exported)
        self.run.write(RECORD, config_as_json(config))  # from now on, its controller is asked for the run's state
        agents = self.agents
        world = DetachedController(self.loop, plan, self.run, config, agents.secret, links, agents.incarnation, outputs)
        for link, part in zip(links, parts):
            if "parts" in part:
                world.send_message(link.node, "stand_by", **part)
            else:
                world.send_message(link.node, "configure", **part)
        if self.job.hold is None:
            world.handle(Configured(world.now()))
        for finding in (*self.warnings, *self.bootstrap.findings()):
            world.notify(finding)
        job_end = world.watch_job(self.batch, self.signals)
        with suppress(OSError):  # no thread can be started: this is not worth an error
            processes.start_thread(self._note_granted)  # the scheduler may not answer for a while
        outcome = world.go(-1, viewers.detach(), agents.listener.detach())
        interrupted = (job_end.warned or job_end.ending or world.nodes_lost) and job_end.cause != "cancelled"
        comes_again = False
        if interrupted and outcome.code != 0 and self.allocation.restarts < self.terms.requeue:
            comes_again = self._requeue(over=job_end.ending and job_end.cause == "time limit")
        elif job_end.ending and job_end.cause in ("preempted", "requeued", "node failure"):
            comes_again = self.terms.requeue > 0  # perhaps: who looks at the run when the scheduler has decided, knows
        if not comes_again:
            tell_of_end(self.run, outcome)
        self.steps.see_end(END if world.nodes_lost else END_WELL)
        return outcome.code

    def _note_granted(self) -> None:
        """Record what the scheduler gave the job, to be compared with what the run used."""
        with suppress(OSError):
            if granted := self.client.granted(self.allocation.job):
                self.run.write(GRANTED, as_json(granted))

    def _requeue(self, over: bool) -> bool:
        """Requeue the job, unless the scheduler has already requeued it on preemption, or a user has cancelled it.

        Return whether there may be another attempt.
        `over`: the time limit is reached, so the scheduler is terminating the job already, and requeues it after that.
        """
        deadline = time.monotonic() + _END
        while time.monotonic() < deadline:
            done = self.client.requeue(self.allocation.job, ending=over)
            if done.code == 0:
                break
            if self.scheduler.refuses_requeue(done.err):
                return True  # usually the job is ending already, and the scheduler knows whether it is requeued
            time.sleep(1.0)
        else:
            _complain(f"cannot requeue the job: {done.err.strip()}")
            return False
        # wait for the scheduler to kill this process; if it exited by itself, the job would be finished
        while not over and time.monotonic() < deadline:
            time.sleep(1.0)
            self.client.start_now(self.allocation.job)
        return True


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


CANCELLED = 137
"""The exit code of a part of a chain that does not start, because one before it failed."""


def _state_of(run: Run) -> RunState:
    """Return how a run has ended; `lost` if it has recorded no result."""
    os.listdir(run.path)  # over NFS, this fetches what another node has written
    outcome = run.outcome
    return RunState.LOST if outcome is None else outcome.state


def run_batch(words: list[str]) -> int:
    """Run the program `inside RUN_DIR`, or `inside SWEEP_DIR SCHEDULER FILE` for a job array; return its exit code."""
    guard()
    run = Run(Path(words[0]))
    if len(words) > 1:
        scheduler, name = words[1:]
        arrays = get_scheduler(scheduler).arrays
        assert arrays is not None
        run = run_of_task(run, arrays, name, os.environ)
    request = run.read(REQUEST)
    assert request is not None
    asked: Mapping[str, Any] = request
    if previous := asked.get("previous"):
        state = _state_of(Run(run.path.parent / previous))
        if not goes_on(state):
            why = StopReason(StopKind.OTHER, message=f"the part before it, {previous}, did not succeed ({state})")
            run.write_outcome(outcome_as_json(RunResult(RunState.KILLED, CANCELLED, 0.0, 0, why)))
            return CANCELLED
    asks = client(asked["job"]["scheduler"])
    allocation = asks.own_allocation(os.environ)
    assert allocation is not None
    if allocation.restarts:
        for name in ("outcome.json", RECORD):  # left by an attempt that the scheduler ended
            (run.path / name).unlink(missing_ok=True)
        clear_notes(run)
    spares = asked["job"].get("spare_nodes", 0)
    count = asked["nodes"] and asked["nodes"] + spares
    hosts = tuple(asked["hosts"] or allocation.hosts[:count])
    # in an allocation this is a step of one task, whose variables do not tell those of the job
    allocation = allocation._replace(hosts=hosts, tasks=tuple(asked["tasks"] or allocation.tasks))
    keep_record(run, asked, allocation.job)
    loop = EventLoop()
    signals = CapturedSignals(loop, not_ignored())
    signals.start()  # never stopped: the job may be ended at any time, and the exit code must be that of the run
    processes.hear_signals()
    steps, told = None, list[str]()

    def tell(text: str) -> None:
        told.append(safe(text))
        note(run, text)

    try:
        if asked.get("ship_env") is None:
            groups = groups_of(asked, allocation, os.environ)
        else:
            from muster.controller.batch_shipping import with_environment  # imported late: few jobs need it

            ends = partial(is_stopped, signals, asks)
            asked, groups = with_environment(loop, run, asked, asks, allocation, os.environ, ends, tell)
        job = job_from_json(asked["job"])
        steps = AgentSteps(signals, run, asks, allocation, os.environ, job, apart=bool(spares), groups=groups)
        here = BatchRun(loop, signals, run, asked, allocation, steps)
        here.bring_agents()
        here.warnings = [*told, *here.warnings]
        return here.serve()
    except MusterError as error:
        _complain(str(error))
        if not is_stopped(signals, asks):  # the scheduler may start a job again that it ends
            notification = notify(run, RunState.ERROR, None, error.sentence)
            if notification is not None:
                notification.wait()
        if steps is not None:
            steps.terminate()
        return error.exit_code
