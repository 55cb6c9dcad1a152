"""Start the agents of a run, and configure each for its part of the plan. The steps are the same wherever ranks run:

    facts        every host reports its facts
    check        find what would cause a later and less clear failure
    rendezvous   find an address of node 0 that all others reach, and the interface to it
    configure    determine what each agent needs, and what the controller needs beside the plan

An `AgentSource` provides the agents: on this machine only (`OwnMachine`), started by a transport on other ones
(`started_agents.py`), or started by a scheduler, joining by themselves (`joining_agents.py`). No part of the job is
started here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from muster.agent import facts
from muster.controller.agent_fields import TORCH_FLOOR, node_name, terminal_fields
from muster.controller.connections import AgentConnection
from muster.core import rendezvous
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.fold import by_value
from muster.core.hostlist import fold_hostlist, fold_values
from muster.core.model import Host, Job, Node, Plan, Rank, Role, as_json
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.core.rank_env import first_on_path
from muster.core.results import Replaced
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.linux import private_tmp
from muster.protocol import trace
from muster.protocol.local_sockets import token_of_role

if TYPE_CHECKING:
    from muster.code_sync import Tree

Facts = Mapping[str, Any]
"""Facts that a host reported."""


class Need(NamedTuple):
    """Requirements of a job on its hosts, before there is a plan."""

    cwd: str
    """The directory where ranks start."""
    script: str = ""
    """The script, relative to `cwd`."""
    env: Mapping[str, str] = MappingProxyType({})
    """Environment variables of the ranks."""
    of_nodes: tuple[Need, ...] = ()
    """What each node needs, if that differs: in a run with roles."""

    def of(self, node: int) -> Need:
        """Return what a node needs."""
        return self.of_nodes[node] if node < len(self.of_nodes) else self


def need_of(job: Job, of_nodes: Sequence[Job] = ()) -> Need:
    """Return the requirements of a job; `of_nodes` are those of the nodes of a run with roles."""
    return Need(job.cwd, job.program.path, job.env, tuple(map(need_of, of_nodes)))


class Remedies(NamedTuple):
    """Suggestions if a host lacks something; they depend on how code gets there."""

    directory: str
    script: str
    other_script: str


class Routes(NamedTuple):
    """The routes from the other nodes to node 0."""

    port: int
    """The port that they tried on node 0."""
    ways: Sequence[Facts]
    """For each of them and each address of node 0: its own `interface`, or the `error`."""


class AgentSource(Protocol):
    """A way to get agents."""

    @property
    def links(self) -> Sequence[AgentConnection]:
        """One connection per node, in order; `facts` and `offset` are set after `come`."""

    @property
    def remedies(self) -> Remedies:
        """Return a suggestion if a host lacks something."""

    @property
    def reference(self) -> str:
        """The place of the reference code, for messages."""

    @property
    def code(self) -> Tree | None:
        """Files besides the script that must be identical on all hosts."""

    @property
    def one_run_dir(self) -> bool:
        """Whether all nodes must see the same run directory."""

    @property
    def controller_offset(self) -> float:
        """The monotonic clock of the controller's future machine, minus the local one, in seconds."""

    @property
    def own_clock(self) -> bool:
        """Whether nodes take the time of day from their own clock, because it is the one of this machine."""

    def come(self, need: Need, run_dir: str) -> None:
        """Wait until every agent is connected and has reported its facts. Raises `Unreachable`, `InvalidRequest`."""

    def measure_clocks(self) -> None:
        """Set the clock `offset` of all connections."""

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Have the other nodes try to connect to node 0."""

    def differing(self, code: Tree) -> Mapping[str, Sequence[str]]:
        """Return by host the files of the code that differ from the `reference`."""

    def code_remedy(self) -> str:
        """Return what a user can do about such files."""

    def run_dirs(self, run_dir: str, run_id: str) -> Sequence[tuple[str, bool]]:
        """Return for each node its run directory, and whether it is the same directory as on node 0."""


class RunPlace(NamedTuple):
    """The run, as all agents need to know it."""

    run_id: str
    run_dir: str
    token: str
    """Token from which the socket names of the run are derived."""


class Bootstrap:
    """The steps from hosts to agents that are ready to be configured, and to the record for their controller."""

    def __init__(self, agents: AgentSource, need: Need):
        self.agents, self.need = agents, need

    def facts(self, run_dir: str) -> dict[str, Facts]:
        """Start the agents and return the facts of each host. Raises `Unreachable`, `InvalidRequest`."""
        self.agents.come(self.need, run_dir)
        return self.told

    @property
    def told(self) -> dict[str, Facts]:
        """The facts of the hosts, by name."""
        return {link.host: link.facts for link in self.agents.links}

    def findings(self) -> list[str]:
        """Return the doctor's errors for these hosts, from checks that cost nothing."""
        from muster.diagnostics.preflight import preflight  # imported late: the agents start before it is needed

        return preflight(self.told, self.need.env)

    # ---- check ------------------------------------------------------------------------------------------------------

    def check_storage(self, run_dir: str) -> None:
        """Raise `InvalidRequest` if the files of a run cannot be stored."""
        check_storage(self.told, run_dir if self.agents.one_run_dir else "")

    def check(self) -> None:
        """Raise `InvalidRequest` for problems that would cause a later and less clear failure."""
        remedies, code = self.agents.remedies, self.agents.code
        for need, told in self._told_by_need():
            check_directory(told, need.cwd, remedies)
            if need.script:
                check_script(told, need.script, facts.file_digest(os.path.join(need.cwd, need.script)), remedies)
        if code is not None and code.names and (differing := self.agents.differing(code)):
            refuse_other_code(differing, self.agents.reference, code, self.agents.code_remedy())
        check_versions(self.told)

    def _told_by_need(self) -> list[tuple[Need, dict[str, Facts]]]:
        """Return the facts of the hosts for each requirement: there is one for each role."""
        links = by_value((link, self.need.of(link.node)[:2]) for link in self.agents.links)
        return [(Need(*need), {link.host: link.facts for link in found}) for need, found in links.items()]

    # ---- rendezvous -------------------------------------------------------------------------------------------------

    def find_rendezvous(self) -> rendezvous.Rendezvous:
        """Return the rendezvous: the address of node 0 that all other nodes reach. Raises `Unreachable`."""
        self.agents.measure_clocks()
        links = self.agents.links
        if len(links) == 1:
            return rendezvous.LOOPBACK
        if _on_one_machine(links):  # the roles of a run; it may have no network
            return rendezvous.on_loopback(self.agents.routes(["127.0.0.1"]).port, len(links))
        first, facts = links[0], [link.facts for link in links]
        addresses = rendezvous.candidate_addresses(first.host, first.facts, self.need.env)
        port, ways = self.agents.routes(addresses)
        return rendezvous.choose_rendezvous([link.host for link in links], facts, addresses, port, ways)

    # ---- configure --------------------------------------------------------------------------------------------------

    def configure(
        self,
        plan: Plan,
        run: RunPlace,
        met: rendezvous.Rendezvous,
        began: float,
        owned: bool,
        reads: bool,
        first_attempt: int = 0,
        again: bool = False,
        replaced: tuple[Replaced, ...] = (),
    ) -> tuple[ControllerConfig, list[dict[str, Any]]]:
        """Return the controller's configuration, and the fields of the message `configure` for each node.

        `began` is monotonic time here. `reads`: a terminal is attached, from whose stdin a rank may read. See
        `ControllerConfig` for the others.
        """
        links, there = self.agents.links, self.agents.controller_offset
        run_dirs = self.agents.run_dirs(run.run_dir, run.run_id)
        addresses = met.addresses or (met.address,) * len(links)
        nodes = [
            NodeRecord(
                run_dir,
                shared,
                link.offset - there,
                executable=link.facts.get("executable", ""),
                python=link.facts.get("python", ""),
                late=late,
                host=link.host,
                address=address if plan.roles else "",
            )
            for link, (run_dir, shared), late, address in zip(links, run_dirs, met.interface_env, addresses)
        ]
        config = ControllerConfig(
            began=began + there,
            address=met.address,
            clock=clock_of(there),
            nodes=tuple(nodes),
            owned=owned,
            first_attempt=first_attempt,
            again=again,
            replaced=replaced,
        )
        program = {node: part for part in plan.parts for node in part.own_nodes}
        external = {part.first_node: _rank_command(plan, part, run, links) for part in plan.parts}

        def part(link: AgentConnection, number: int, plan: Plan) -> dict[str, Any]:
            record, of = nodes[link.node], program[number]
            return {
                **_part(plan, of, run, number, external[of.first_node]),
                "host": node_name(plan, link.node, link.host),
                "run_dir": record.run_dir,
                "own_run_dir": not record.shared,
                "stdin_rank": plan.reader if reads else None,
                "clock": None if self.agents.own_clock else clock_of(link.offset),
            }

        count = len(plan.nodes)
        parts = [part(link, link.node, plan) for link in links[:count]]
        for link in links[count:]:
            # all that it may need: later there is no connection that is as private as this one
            its_plan = _plan_of_spare(plan, plan.spares[link.node - count], link.facts, run.run_id)
            places = {str(number): part(link, number, its_plan) for number in range(1, count)}
            record = nodes[link.node]
            own = {"run_dir": record.run_dir, "own_run_dir": not record.shared, "run_id": run.run_id}
            parts.append({**own, "token": run.token, "node": link.node, "parts": places})
        return config, parts


def _plan_of_spare(plan: Plan, spare: Host, facts: Facts, run_id: str) -> Plan:
    """Return a plan in which a spare host is in the place of each node."""

    def threads(node: Node) -> int:
        return 0 if node.host.threads == 0 else max(1, facts["cores"] // len(node.ranks))

    nodes = (node._replace(host=spare._replace(threads=threads(node))) for node in plan.nodes)
    return make_plan(plan.job, tuple(nodes), run_id)


def _on_one_machine(links: Sequence[AgentConnection]) -> bool:
    """Return whether all these agents are on the same machine."""
    boots = {link.facts.get("boot") for link in links}
    return len(boots) == 1 and None not in boots and len({link.host for link in links}) == 1


def clock_of(offset: float) -> float:
    """Return what to add to a node's monotonic clock to get this machine's time of day, given the node's clock offset.

    So the logs of all nodes use one clock.
    """
    return time.time() - time.monotonic() - offset


def _part(plan: Plan, part: Role, run: RunPlace, number: int, rank_command: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of the message `configure` that the plan determines for one node."""
    job = part.job
    # an external launcher may start any rank on any node of its program
    own = {
        str(rank.rank): variables
        for node in (part.own_nodes if rank_command is not None else (number,))
        for rank, variables in zip(plan.nodes[node].ranks, plan.environments[node].ranks)
    }
    return {
        "rank_command": rank_command,
        "external_rendezvous": part.external_rendezvous,
        "node": number,
        "run_id": run.run_id,
        "token": run.token,
        "commands": [as_json(command) for command in plan.commands if command.node == number],
        "environment": as_json({**plan.environments[number]._asdict(), "ranks": own}),
        "preload": list(job.preload),
        "last_imports": None if job.last_imports is None else as_json(job.last_imports),
        "floor": TORCH_FLOOR,
        "log_dir": f"{job.log_dir}{run.run_id}_{number}" if job.log_dir else "",
        "brings": {job.program.argv[0]: job.program.source} if job.program.source else {},
        "path_first": first_on_path(job),
        "terminal": terminal_fields(plan, job.terminal),
        "hang_timeout": job.hang_timeout,
        "hang_from_start": job.hang_from_start,
        "trace": trace.wanted(),
        "hold": job.hold is not None,
        "script": job.program.path,
    }


def _rank_command(plan: Plan, part: Role, run: RunPlace, links: Sequence[AgentConnection]) -> dict[str, Any] | None:
    """Return what agents need to run the ranks of a program that an external launcher starts; None without one.

    `links`: to all nodes.
    """
    if part.rank_command is None:
        return None
    facts = [links[node].facts for node in part.own_nodes]
    from muster.bundle import build_shim  # imported late: only external launchers need it

    token = token_of_role(run.token, part.name) if plan.roles else run.token
    ranks = [rank for node in part.own_nodes for rank in plan.nodes[node].ranks]
    return {
        **as_json(part.rank_command),
        "run_id": run.run_id,
        "first_rank": part.first_rank,
        # under the number that the launcher knows
        "places": {str(number): as_json(_in_program(rank, part)) for number, rank in enumerate(ranks)},
        "cwd": part.job.cwd,
        "grace": part.job.grace,
        "shim": build_shim(token).hex(),
        "token": token,
        "base": _temporary_base(part.job, facts),
        "short": part.job.launcher == "ray",
    }


def _in_program(rank: Rank, part: Role) -> Rank:
    """Return a rank with its numbers in its program."""
    return rank._replace(rank=rank.rank - part.first_rank, node=rank.node - part.first_node)


def _temporary_base(job: Job, facts: Sequence[Facts]) -> str:
    """Return the directory for temporary files on these nodes; empty if each node may choose."""
    if len(facts) < 2:
        return ""
    told = [list(fact["temporary"]) for fact in facts]
    return private_tmp.agree(told, job.launcher == "ray") or private_tmp.USUAL[0]


# ---- a single host: this machine -------------------------------------------------------------------------------------


class OwnMachine:
    """The agent of a run on this machine: it needs no rendezvous, and its facts are known here."""

    remedies, reference = Remedies("", "", ""), "here"
    code: Tree | None = None
    one_run_dir, controller_offset, own_clock = True, 0.0, True

    def __init__(self, links: Sequence[AgentConnection]):
        self.links = links

    def come(self, need: Need, run_dir: str) -> None:
        """Return immediately: the facts are known, and the agent is configured as soon as it says hello."""

    def measure_clocks(self) -> None:
        """Do nothing: there is only one clock."""

    def routes(self, addresses: Sequence[str]) -> Routes:
        """Return no routes: there is no other node."""
        return Routes(0, ())

    def differing(self, code: Tree) -> Mapping[str, Sequence[str]]:
        """Return nothing: the code is the same files."""
        return {}

    def code_remedy(self) -> str:
        """Return nothing."""
        return ""

    def run_dirs(self, run_dir: str, run_id: str) -> Sequence[tuple[str, bool]]:
        """Return this process's run directory."""
        return [(run_dir, True)]


# ---- checks of the hosts' facts --------------------------------------------------------------------------------------


def check_storage(told: Mapping[str, Facts], shared: str) -> None:
    """Raise `InvalidRequest` if the files of a run cannot be stored.

    All hosts must see the directory `shared`, if it is not empty; otherwise each keeps its own files.
    """
    blind = [host for host, facts in told.items() if not facts["shared"]]
    if shared and blind:
        raise InvalidRequest(
            f"run directory {shared} is not visible on {fold_hostlist(blind)}",
            "choose a directory on a file system that all nodes share: --run-dir, or MUSTER_HOME",
        )
    full = {host: facts for host, facts in told.items() if facts["unwritable"]}
    if full:
        why = "; ".join(f"{host}: {facts['unwritable']}" for host, facts in full.items())
        space = "free some space there, or " if any(facts["full"] for facts in full.values()) else ""
        raise InvalidRequest(f"cannot create the run directory on all hosts: {why}", f"{space}set MUSTER_HOME there")


def check_directory(told: Mapping[str, Facts], cwd: str, remedies: Remedies) -> None:
    """Raise `InvalidRequest` if the ranks' start directory is missing."""
    without = [host for host, facts in told.items() if not facts["cwd"]]
    if without:
        raise InvalidRequest(f"directory {cwd} not found on {fold_hostlist(without)}", remedies.directory)


def check_script(told: Mapping[str, Facts], script: str, own: str, remedies: Remedies) -> None:
    """Raise `InvalidRequest` if the script is missing, or differs from the local one, whose digest is `own`."""
    absent = [host for host, facts in told.items() if not facts["script"]]
    if absent:
        raise InvalidRequest(f"script {script} not found on {fold_hostlist(absent)}", remedies.script)
    other = [host for host, facts in told.items() if facts["script"] != own]
    if other:
        raise InvalidRequest(
            f"script {script} on {fold_hostlist(other)} differs from the one here", remedies.other_script
        )


def check_versions(told: Mapping[str, Facts]) -> None:
    """Raise `InvalidRequest` if the hosts' Python versions differ."""
    versions = [(host, ".".join(facts["python"].split(".")[:2])) for host, facts in told.items()]
    if len(by_value(versions)) > 1:
        raise InvalidRequest(
            f"Python differs between hosts: {fold_values(versions)}", "choose one that all hosts have: `--python PATH`"
        )


def refuse_other_code(differing: Mapping[str, Sequence[str]], where: str, code: Tree, hint: str) -> None:
    """Raise `InvalidRequest`: hosts have different Python files that ranks may import. `hint` says what --sync does."""
    names = list(dict.fromkeys(name for found in differing.values() for name in found))
    told = safe(names[0]) + (f" and {plural(len(names) - 1, 'other file')}" if len(names) > 1 else "")
    differ = "differs" if len(names) == 1 else "differ"
    raise InvalidRequest(
        f"{told} in {code.root} on {fold_hostlist(differing)} {differ} from {where}",
        f"{hint}; `--no-code-check` starts the run anyway"
        + ("; git-ignored files are not compared" if code.git else ""),
    )
