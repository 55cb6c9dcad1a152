"""The supervisor of a run inside an allocation of Slurm: what the batch script becomes.

`python muster.pyz inside RUN_DIR`: it starts one agent a node by a single srun, plans with what they tell, and serves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.agent import machine, meet, system, trace, tree
from muster.agent.dial import Met
from muster.agent.eventloop import EventLoop
from muster.agent.handshake import Terms, new_nonce
from muster.agent.keep import ARCHIVE
from muster.agent.listener import guarded
from muster.agent.local import SUPERVISOR, Sockets, keep, new_token
from muster.agent.messages import TO_CONTROLLER
from muster.agent.protocol import Dispatcher, handlers
from muster.agent.signals import CapturedSignals, not_ignored
from muster.agent.step import RENDEZVOUS
from muster.checkup import at_no_cost
from muster.core.controller_config import RECORD, ControllerConfig, NodeRecord, config_as_json
from muster.environ import hidden
from muster.errors import Impossible, MusterError, Unreachable
from muster.hosts import Wanted, fold_hosts, shares
from muster.job import Asked, nodes_there
from muster.launchers import make_plan
from muster.model import Job, Plan, as_json
from muster.printable import guard
from muster.runs import Run
from muster.schedulers import slurm
from muster.stored import job_from_json
from muster.supervise import Configured
from muster.world import code, meeting, queue
from muster.world.batch import BatchJob
from muster.world.callers import Callers
from muster.world.code import Tree
from muster.world.gather import refuse_other_code
from muster.world.link import FarLink
from muster.world.loop import clock_of, prepare_fields, temporary_base
from muster.world.outputs import OutputFiles
from muster.world.serve import Served

ASKED = "asked.json"
"""What was asked for, before the nodes are known."""

_END = 120.0
_STEPS_END = 3.0
_LOOK = 0.2
"""Seconds between two looks at srun and what it says."""
_PATIENCE = 120.0
"""Seconds in which all agents must have called."""


class Inside:
    """The agents of an allocation, until there is a plan."""

    def __init__(
        self,
        loop: EventLoop,
        signals: CapturedSignals,
        run: Run,
        asked: Mapping[str, Any],
        allocation: slurm.Allocation,
    ):
        self.loop, self.signals, self.run, self.allocation = loop, signals, run, allocation
        job = job_from_json(asked["job"])
        exported = {**asked["exported"], **({} if asked["allocated"] else slurm.exported(os.environ))}
        self.job: Job = job._replace(allocation=allocation.job, env={**exported, **job.env})
        self.cpus = asked["cpus"] or slurm.cpus_by_host(os.environ, allocation.hosts)
        self.asked = asked
        self.sync: Mapping[str, Any] | None = asked["sync"]
        """Where the code is and its copy in the run directory (`--sync`)."""
        self.each, self.np, self.threads_chosen = asked["each"], asked["np"], asked["threads_chosen"]
        self.began = time.monotonic()
        self.batch = BatchJob(
            allocation.job,
            asked["signal"],
            asked["before"],
            chosen=asked["before_chosen"],
            signalled=not asked["allocated"],
            kill_wait=queue.kill_wait(),
            logs=[
                run.path / name.replace("%j", allocation.job)
                for name in ("agents.log", "supervisor.log", *slurm.OUTPUTS)
            ],
        )
        self.secret, self.life = new_nonce(), new_nonce()
        self.links = [FarLink(number, host, 0.0, {}) for number, host in enumerate(allocation.hosts)]
        for link in self.links:
            link.wire.tracer = trace.tracer(str(run.path), "controller", "agent", link.host)
        self._dispatch = Dispatcher(
            handlers(self, "_on_"),
            lambda kind, fields: TO_CONTROLLER[kind].fitting(fields),
            lambda text, link: _complain(f"{link.host}: {text}"),
        )
        self.listener = machine.listen()
        self.steps: list[subprocess.Popen[bytes]] = []
        self.said_before = 0
        """Bytes of agents.log that are of an earlier attempt."""
        self.code = Tree("", ())
        """Files that have to be the same on all nodes."""

    def start_agents(self, env: Mapping[str, str]) -> None:
        """One task a node, by a single srun; by one for each node where they have not equally many GPUs."""
        own = [address for _, address in machine.interfaces()] or ["127.0.0.1"]
        root = self._list_code()
        where = {
            "addresses": own,
            "port": self.listener.getsockname()[1],
            "secret": self.secret,
            "run": self.run.id,
            "hosts": list(self.allocation.hosts),
            "lease": self.job.lease,
            "cwd": self.job.cwd,
            "script": self.job.program.path,
            "code": root,
            # what is to be sent is compared file by file
            "code_place": tree.place(root) if root and self.sync is None else [],
        }
        with open(os.open(self.run.path / RENDEZVOUS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(where, file)
        command = [sys.executable, "-I", "-S", str(self.run.path / ARCHIVE), "step", str(self.run.path)]
        log = self.run.path / "agents.log"
        self.said_before = log.stat().st_size if log.exists() else 0
        gpus = queue.gpus_by_host(self.allocation)
        together = [tuple(gpus)] if len(set(gpus.values())) == 1 else [(host,) for host in gpus]
        for hosts in together:
            self.steps.append(queue.start_step(self.allocation.job, hosts, command, log, env, gpus[hosts[0]]))

    def _list_code(self) -> str:
        """Have a list of the files that agents are to compare; gives the folder in which they are."""
        if self.sync is not None:
            names = [name for name, *_ in json.loads((self.run.path / tree.LIST).read_bytes())]
            self.code = Tree(self.sync["root"], tuple(names))
        elif self.asked["check_code"] and len(self.allocation.hosts) > 1 and os.path.isdir(self.job.cwd):
            found = code.sources(self.job, str(self.run.path.parent))
            if found is not None:
                self.code = found
                (self.run.path / tree.LIST).write_bytes(tree.entries(found.root, found.names))
        return self.code.root

    def _differing(self, link: FarLink, root: str) -> list[str]:
        """The files of the list that a node has otherwise than `root` here."""
        found = []
        for number, name in enumerate(self.code.names):
            theirs, path = link.facts["digests"].get(str(number)), os.path.join(root, name)
            # links of a copy lead elsewhere
            if theirs is None or os.path.islink(path) or (not theirs and self.sync is None):
                continue
            if tree.digest(path) != theirs:
                found.append(name)
        return found

    def take_code(self) -> None:
        """Have the ranks run the copy of the code in the run directory, unless all nodes have the very same in place.

        They start in their own folder if it is on all nodes the one where the run was submitted, else in the copy.
        """
        if self.sync is None:
            return
        root, copy = self.sync["root"], self.sync["copy"]
        facts = [link.facts for link in self.links]
        if self.sync["redirected"]:
            in_place = all(told["cwd"] for told in facts)
        else:
            in_place = all(told["cwd"] and not self._differing(link, copy) for told, link in zip(facts, self.links))
        if in_place:
            return
        cwd = self.job.cwd
        if not self.sync["redirected"]:
            self.job = code.redirect(self.job, root, copy, "--sync")
        if not all(told["cwd"] and tree.same_place(told["folder"], self.sync["folder"]) for told in facts):
            self.job = self.job._replace(cwd=code.moved(cwd, root, copy))
            os.makedirs(self.job.cwd, exist_ok=True)  # git lists no empty directory
        for told in facts:
            told.update(cwd=True, script=meet.digest(os.path.join(self.job.cwd, self.job.program.path)))

    def gather(self) -> None:
        """Wait until all agents have called and told what there is. Raises `Unreachable`."""
        terms = Terms(self.secret, self.run.id)
        callers = Callers(self.loop, self.listener, terms, self.life, self._knows, self._came, _complain)
        deadline = time.monotonic() + _PATIENCE
        while missing := [link.host for link in self.links if not link.facts]:
            self.loop.run_once(_LOOK)
            if signal.SIGTERM in self.signals.pending:
                raise Unreachable(f"Slurm ended job {self.allocation.job} before the ranks were started", None)
            ended = next((code for code in (step.poll() for step in self.steps) if code is not None), None)
            said = self._said()
            failed = {host: how for host, how in slurm.ended_tasks(said).items() if host in missing}
            if failed or ended is not None or time.monotonic() > deadline:
                how = f"none within {_PATIENCE:g} s" if ended is None else f"srun ended with status {ended}"
                if failed:  # the others still run, so srun does too
                    missing, how = list(failed), "; ".join(dict.fromkeys(failed.values()))
                words = said.strip().splitlines()[-3:]
                raise Unreachable(f"no agent on {fold_hosts(missing)}: {how}", "; ".join(words) or None)

        callers.close()

    def _said(self) -> str:
        """What srun and the agents of this attempt have said."""
        with open(self.run.path / "agents.log", "rb") as file:
            file.seek(self.said_before)
            return file.read(1 << 16).decode("utf-8", "replace")

    def _knows(self, node: int) -> int | None:
        if not 0 <= node < len(self.links):
            return None
        if self.links[node].wire.connected:
            self._parted(self.links[node])
        return self.links[node].wire.heard

    def _came(self, node: int, met: Met) -> None:
        link = self.links[node]
        os.set_blocking(met.fd, False)
        link.wire.connect(met.fd, os.dup(met.fd), met.frames, met.heard, met.seal)
        self.loop.add_reader(met.fd, lambda: self._heard(link))

    def _heard(self, link: FarLink) -> None:
        frames = link.wire.read()
        if frames is None:
            self._parted(link)
            return
        with guarded(_complain, lambda: self._parted(link)):
            for fields, payload in frames:
                self._dispatch(fields, payload, link)
            link.wire.flush()

    def _on_told(self, link: FarLink, payload: bytes, t: float, name: str = "", **facts: Any) -> None:
        # both clocks are read within the time of one way: good to a few milliseconds
        link.offset = t - time.monotonic()
        link.host = name or link.host
        link.facts.update(facts, name=name)

    def _on_warned(self, link: FarLink, payload: bytes, **more: Any) -> None:
        """Slurm sends SIGTERM to this process too."""

    def _parted(self, link: FarLink) -> None:
        self.loop.remove_reader(link.wire.reading)
        os.close(link.wire.reading)
        os.close(link.wire.writing)
        link.wire.disconnect()

    def check(self) -> None:
        """What would fail later, and less clearly. Raises `Impossible`."""
        blind = [link.host for link in self.links if not link.facts["shared"]]
        if blind:
            raise Impossible(
                f"{fold_hosts(blind)} cannot see {self.run.path}, where the run is kept",
                "choose a folder that all nodes share: --run-dir, or MUSTER_HOME",
            )
        without = [link.host for link in self.links if not link.facts["cwd"]]
        if without:
            raise Impossible(
                f"there is no folder {self.job.cwd} on {fold_hosts(without)}",
                "`--sync` brings it; or share it, or see --cwd",
            )
        if path := self.job.program.path:
            own = meet.digest(os.path.join(self.job.cwd, path))
            other = [link.host for link in self.links if link.facts["script"] != own]
            if other:
                raise Impossible(
                    f"{path} on {fold_hosts(other)} is not the one here", "`--sync` brings it; or share it"
                )
        if self.sync is None:
            differing = {link.host: self._differing(link, self.code.root) for link in self.links}
            differing = {host: names for host, names in differing.items() if names}
            hint = "`--sync` has all nodes run one copy of the code"
            refuse_other_code(differing, f"on {self.links[0].host}", self.code, hint)

    def _shares(self) -> tuple[Wanted, ...]:
        """The nodes with their numbers of ranks; None where that follows from the GPUs. Raises `Impossible`."""
        tasks = tuple(self.asked["tasks"] or self.allocation.tasks)[: len(self.links)]
        hosts = tuple(Wanted(link.host) for link in self.links)
        number = int(self.each) if self.each is not None and self.each.isdigit() else None
        counts: Sequence[int | None] = [None] * len(hosts)
        if number is None and self.np is not None and sum(tasks) == self.np:
            counts = tasks
        elif number is not None:
            counts = shares(hosts, number, self.np)
        elif self.np is not None:
            counts = [self.np // len(hosts) + (index < self.np % len(hosts)) for index in range(len(hosts))]
        elif self.each is None and len(tasks) == len(hosts) and not any(link.facts["gpus"] for link in self.links):
            counts = tasks  # what the job was made for
        if 0 in counts:
            idle = fold_hosts(host.name for host, count in zip(hosts, counts) if count == 0)
            raise Impossible(f"-n {self.np}: that leaves {idle} of job {self.allocation.job} without a rank", "use -N")
        return tuple(host._replace(slots=count) for host, count in zip(hosts, counts))

    def _outputs(self, plan: Plan, first: int) -> OutputFiles:
        """The files that `--output` and `--error` name. Raises `Impossible`."""
        output, error = self.asked["output"], self.asked["error"] or self.asked["output"]
        job = slurm.names_of_job(os.environ)
        targets = {}
        for node in plan.nodes:
            for rank in node.ranks:
                values = slurm.names_of_task(job, rank, node.host.name, self.links[node.number].facts["step"])
                for stream, pattern in (("out", output), ("err", error)):
                    if pattern:
                        targets[rank.rank, stream] = os.path.join(self.job.cwd, slurm.fill_pattern(pattern, values))
        return OutputFiles(targets, first)

    def serve(self) -> int:
        """Plan, and see the run to its end."""
        wanted = self._shares()
        asked = Asked(self.job, wanted, self.each, {}, {}, self.threads_chosen)
        nodes = tuple(
            node._replace(host=node.host._replace(cpus_of_tasks=self.cpus.get(node.host.name)))
            for node in nodes_there(asked, {link.host: link.facts for link in self.links})
        )
        plan = make_plan(self.job, nodes, self.run.id)
        facts = [link.facts for link in self.links]
        met = meeting.ALONE
        if len(self.links) > 1:
            addresses = [address for _, address in machine.interfaces()]
            port = self.listener.getsockname()[1]
            ways = [told["ways"] for told in facts[1:]]
            met = meeting.choose([link.host for link in self.links], facts, addresses, port, ways)
        config = ControllerConfig(
            began=self.began,
            address=met.address,
            clock=clock_of(0.0),
            nodes=tuple(
                NodeRecord(str(self.run.path), True, link.offset, told["executable"], told["python"], late)
                for link, told, late in zip(self.links, facts, met.meets)
            ),
            owned=self.asked["attached"],
            first_attempt=max(self.run.attempts(), default=-1) + 1 if self.allocation.restarts else 0,
            again=bool(self.allocation.restarts),
        )
        self.run.write("plan.json", hidden(as_json(plan)))
        self.run.write("environment.json", hidden({"env": dict(sorted(os.environ.items()))})["env"])
        outputs = self._outputs(plan, config.first_attempt)
        self.run.write("job.json", {**self.run.job, "ranks": plan.world_size, "host": self.links[0].host})
        token = new_token()
        keep(str(self.run.path), token)
        viewers = Sockets(self.run.id, token).listen(SUPERVISOR)
        self.run.write(RECORD, config_as_json(config))  # from now on its supervisor is asked for its state
        world = Served(self.loop, plan, self.run, config, self.secret, self.links, self.life, outputs)
        base = temporary_base(plan, facts)
        for link in self.links:
            where = (str(self.run.path), self.run.id, token, base)
            how = {"reads": self.asked["attached"], "clock": clock_of(link.offset)}
            prepare = prepare_fields(plan, link.node, link.host, *where, **how)
            world.tell(link.node, "prepare", trace=trace.wanted(), **prepare)
        world.handle(Configured(world.now()))
        for finding in at_no_cost({link.host: link.facts for link in self.links}, self.job.env):
            world.say(finding)
        world.watch_job(self.batch, self.signals)
        outcome = world.go(-1, viewers.detach(), self.listener.detach())
        ended_by_slurm = (world.warned or world.ending or world.nodes_lost) and world.cause != "cancelled"
        if ended_by_slurm and outcome.code != 0 and self.allocation.restarts < self.asked["requeue"]:
            self._requeue(over=world.ending and world.cause == "time limit")
        self._end_steps(_STEPS_END if world.nodes_lost else None)
        return outcome.code

    def _end_steps(self, within: float | None) -> None:
        """See the agents' steps end. An srun waits for a node that has crashed until Slurm takes note of that, which
        can be minutes, and the job would keep its nodes."""
        for step in self.steps:
            try:
                step.wait(within)
            except subprocess.TimeoutExpired:
                step.kill()
                step.wait()

    def _requeue(self, over: bool) -> None:
        """Come again, unless Slurm has put the job back already to make room, or somebody has cancelled it.

        `over`: its time is over, so Slurm ends it already, and puts it back then.
        """
        deadline = time.monotonic() + _END
        while time.monotonic() < deadline:
            command = slurm.requeue(self.allocation.job, ending=over)
            done = subprocess.run(command, capture_output=True, text=True, env=slurm.clean(os.environ))
            if done.returncode == 0:
                break
            if slurm.refuses_requeue(done.stderr):
                return  # as a rule the job is ending already, and Slurm knows whether it comes again
            time.sleep(1.0)
        else:
            _complain(f"the job was not put back into the queue: {done.stderr.strip()}")
            return
        while not over and time.monotonic() < deadline:  # Slurm ends this process; if it ended, the job would be over
            time.sleep(1.0)
            queue.start_now(self.allocation.job)


def _complain(text: str) -> None:
    print(f"muster: {text}", file=sys.stderr, flush=True)


def inside(words: list[str]) -> int:
    """The program: `inside RUN_DIR`."""
    guard()
    run = Run(Path(words[0]))
    asked = run.read(ASKED)
    allocation = slurm.allocation(os.environ)
    assert asked is not None and allocation is not None
    if allocation.restarts:
        for name in ("outcome.json", RECORD):  # of an attempt that Slurm ended
            (run.path / name).unlink(missing_ok=True)
    allocation = allocation._replace(hosts=tuple(asked["hosts"] or allocation.hosts[: asked["nodes"]]))
    loop = EventLoop()
    signals = CapturedSignals(loop, not_ignored())
    signals.start()  # and never stop: Slurm may send SIGTERM up to the end, and the exit status is to tell of the run
    system.hear_signals()
    here = Inside(loop, signals, run, asked, allocation)
    try:
        here.start_agents(os.environ)
        here.gather()
        here.take_code()
        here.check()
        return here.serve()
    except MusterError as error:
        _complain(str(error))
        for step in here.steps:
            step.terminate()
            step.wait()
        return error.exit_code
