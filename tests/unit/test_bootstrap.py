"""Bootstrap of hosts: checks of their facts, the rendezvous, and the configuration of each agent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from muster.agent import facts
from muster.agent.dialer import ControllerDialer, Met
from muster.agent.join import RENDEZVOUS
from muster.code_sync import Tree
from muster.controller.bootstrap import (
    Bootstrap,
    Need,
    OwnMachine,
    Remedies,
    RunPlace,
    check_directory,
    check_script,
    check_storage,
    check_versions,
    refuse_other_code,
)
from muster.controller.connections import TcpConnection
from muster.controller.joining_agents import JoiningAgents
from muster.core import rendezvous
from muster.core.controller_config import NodeRecord
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program
from muster.errors import InvalidRequest, Unreachable
from muster.launchers import make_plan
from muster.launchers.roles import joined
from muster.linux.eventloop import EventLoop
from muster.protocol.channel import Channel
from muster.protocol.frames import encode_frame
from muster.protocol.handshake import Terms
from muster.protocol.messages import TO_AGENT
from muster.rundir.run import Run

RUN_ID = "20261127-000000-abcdef"
REMEDIES = Remedies("share it", "send it", "send this one")
WELL: Mapping[str, Any] = {
    "cwd": True,
    "script": "d1",
    "shared": True,
    "unwritable": "",
    "full": False,
    "python": "3.11.2",
    "interfaces": [["eth0", "10.0.0.1"]],
    "reached_at": "",
    "temporary": ["/tmp"],
    "executable": "/bin/python",
}


def hosts(**more: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts of two healthy hosts, with changes for some."""
    return {name: {**WELL, **more.get(name, {})} for name in ("n1", "n2")}


# ---- check -----------------------------------------------------------------------------------------------------------

CHECKS: list[tuple[Callable[[Any], None], Any, str, str | None]] = [
    (
        lambda told: check_storage(told, "/runs/a"),
        hosts(n2={"shared": False}),
        "run directory /runs/a is not visible on n2",
        "choose a directory on a file system that all nodes share: --run-dir, or MUSTER_HOME",
    ),
    (
        lambda told: check_storage(told, ""),
        hosts(n2={"shared": False, "unwritable": "cannot write to /h: No space left on device", "full": True}),
        "cannot create the run directory on all hosts: n2: cannot write to /h: No space left on device",
        "free some space there, or set MUSTER_HOME there",
    ),
    (
        lambda told: check_directory(told, "/work", REMEDIES),
        hosts(n1={"cwd": False}, n2={"cwd": False}),
        "directory /work not found on n[1-2]",
        "share it",
    ),
    (
        lambda told: check_script(told, "train.py", "d1", REMEDIES),
        hosts(n1={"script": "d2"}, n2={"script": ""}),
        "script train.py not found on n2",
        "send it",
    ),
    (
        lambda told: check_script(told, "train.py", "d1", REMEDIES),
        hosts(n2={"script": "d2"}),
        "script train.py on n2 differs from the one here",
        "send this one",
    ),
    (
        check_versions,
        hosts(n2={"python": "3.9.18"}),
        "Python differs between hosts: n1 3.11, n2 3.9",
        "choose one that all hosts have: `--python PATH`",
    ),
    (
        lambda told: refuse_other_code({"n2": ["a.py", "b.py"]}, "here", Tree("/work", ("a.py", "b.py")), "send it"),
        hosts(),
        "a.py and 1 other file in /work on n2 differ from here",
        "send it; `--no-code-check` starts the run anyway",
    ),
]


@pytest.mark.parametrize("check, told, sentence, hint", CHECKS, ids=[sentence for _, _, sentence, _ in CHECKS])
def test_what_would_fail_later_is_told_with_the_hosts(
    check: Callable[[Any], None], told: Any, sentence: str, hint: str | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(told)
    assert (sentence, hint) == (caught.value.sentence, caught.value.hint)


def test_healthy_hosts_pass() -> None:
    """A different patch release of Python, and a run directory of the host's own, are accepted."""
    told = hosts(n2={"python": "3.11.9"})
    check_storage(told, "/runs/a")
    check_storage(hosts(n2={"shared": False}), "")
    check_directory(told, "/work", REMEDIES)
    check_script(told, "train.py", "d1", REMEDIES)
    check_versions(told)


# ---- configure ------------------------------------------------------------------------------------------------------


def plan_of(*names: str, launcher: str = "exec", **more: Any) -> Plan:
    job = Job(Program("command", ("true",)), launcher, "python3", "--python", "/", lease=30.0, **more)
    return make_plan(job, layout([(Host(name), 1) for name in names]), RUN_ID)


class Hosts(OwnMachine):
    """Two hosts whose clocks are 100 and 250 s ahead, of which the second does not share the run directory."""

    own_clock = False

    def __init__(self) -> None:
        super().__init__([TcpConnection(number, f"n{number + 1}", 0.0, WELL) for number in range(2)])
        self.links[0].offset, self.links[1].offset = 100.0, 250.0

    @property
    def controller_offset(self) -> float:  # type: ignore[override]
        return self.links[0].offset

    def run_dirs(self, run_dir: str, run_id: str) -> Sequence[tuple[str, bool]]:
        return [(run_dir, True), (f"/other/{run_id}", False)]


def test_the_controller_is_told_by_its_own_clock() -> None:
    """The controller, over ssh, uses the clock of node 0; and each agent gets the offset of its clock to the time of
    day here."""
    late = ({"a": "eth0"}, {"a": None})
    config, parts = Bootstrap(Hosts(), Need("/")).configure(
        plan_of("n1", "n2"),
        RunPlace(RUN_ID, "/runs/a", "t"),
        rendezvous.Rendezvous("10.0.0.1", 1, late),
        7.0,
        True,
        True,
    )
    assert (107.0, "10.0.0.1", True, 0, False) == (
        *(config.began, config.address, config.owned),
        *(config.first_attempt, config.again),
    )
    assert config.nodes == (
        NodeRecord("/runs/a", True, 0.0, "/bin/python", "3.11.2", late[0], "n1"),
        NodeRecord(f"/other/{RUN_ID}", False, 150.0, "/bin/python", "3.11.2", late[1], "n2"),
    )
    here = time.time() - time.monotonic()
    assert [-100.0, -250.0, -100.0] == [
        round(clock - here, 2) for clock in (parts[0]["clock"], parts[1]["clock"], config.clock)
    ]
    assert [("/runs/a", False, "n1"), (f"/other/{RUN_ID}", True, "n2")] == [
        (part["run_dir"], part["own_run_dir"], part["host"]) for part in parts
    ]


@pytest.mark.parametrize("launcher", ["exec", "mpirun"])
def test_a_part_is_the_message_of_the_catalogue(launcher: str) -> None:
    """All fields except those that a terminal adds. Ranks of an external launcher may be on any node."""
    plan = plan_of("n1", "n2", launcher=launcher, transport="ssh")
    where = RunPlace(RUN_ID, "/runs/a", "t")
    _, parts = Bootstrap(Hosts(), Need("/")).configure(
        plan, where, rendezvous.Rendezvous("10.0.0.1", 1, ({}, {})), 7.0, True, True
    )
    for number, part in enumerate(parts):
        assert part == TO_AGENT["configure"].fitting(json.loads(json.dumps(part)))
        assert {"want", "stdin"} == TO_AGENT["configure"].fields.keys() - part.keys()
        assert number == part["node"]
        own = [str(number)] if launcher == "exec" else ["0", "1"]
        assert own == list(part["environment"]["ranks"])
        assert (launcher == "mpirun") == (part["rank_command"] is not None)
    if launcher == "mpirun":
        assert [["0", "1"]] * 2 == [list(part["rank_command"]["places"]) for part in parts]


def test_the_ranks_of_a_role_find_their_agent_and_keep_their_numbers() -> None:
    """Two roles with launchers on one host: each has a token, and so a socket and a directory, of its own."""
    plans = [plan_of("n1", launcher="torchrun", role=role) for role in ("trainer", "rollout")]
    plan = joined([(plan, False) for plan in plans])
    where = RunPlace(RUN_ID, "/runs/a", "t")
    _, parts = Bootstrap(Hosts(), Need("/")).configure(
        plan, where, rendezvous.Rendezvous("10.0.0.1", 1, ({}, {})), 7.0, True, True
    )
    first, second = (part["rank_command"] for part in parts)
    assert len({first["token"], second["token"], "t"}) == 3
    assert first["shim"] != second["shim"]
    assert [of["first_rank"] for of in (first, second)] == [0, 1]
    assert first["places"] == second["places"]
    assert [(place["rank"], place["node"]) for place in second["places"].values()] == [(0, 0)]
    assert [list(part["environment"]["ranks"]) for part in parts] == [["0"], ["1"]]
    assert [part["external_rendezvous"] for part in parts] == [True, True]


@pytest.mark.parametrize("reads", [True, False])
def test_a_run_here_needs_no_rendezvous(reads: bool) -> None:
    """Its agent has this machine's clock, and has sent nothing yet."""
    bootstrap = Bootstrap(OwnMachine([TcpConnection(0, "n1", 0.0, {})]), Need("/"))
    bootstrap.facts("/runs/a")
    met = bootstrap.find_rendezvous()
    config, (part,) = bootstrap.configure(plan_of("n1"), RunPlace(RUN_ID, "/runs/a", "t"), met, 7.0, True, reads)
    assert (7.0, "127.0.0.1", (NodeRecord("/runs/a", host="n1"),)) == (config.began, config.address, config.nodes)
    assert (None, 0 if reads else None) == (part["clock"], part["stdin_rank"])


# ---- agents that join -----------------------------------------------------------------------------------------------


class Joiner:
    """A fake scheduler step: its agents are in this process, and connect as agents do."""

    def __init__(self, loop: EventLoop, run: Run) -> None:
        self.loop, self.run = loop, run
        self.given: Mapping[str, Mapping[str, Any]] = {}
        self.secret = ""
        self.looks_left = 1000
        """Whether the step knows that no agents will connect."""
        self.notes: list[str] = []
        self.wires: list[Channel] = []
        self.dialers: list[ControllerDialer] = []

    def start(self) -> None:
        where = json.loads((self.run.path / RENDEZVOUS).read_text())
        assert 0o600 == (self.run.path / RENDEZVOUS).stat().st_mode & 0o777
        terms = Terms(self.secret or where["secret"], where["run"])
        told = facts.collect_facts(where["cwd"], where["script"], str(self.run.path))
        for node, host in enumerate(where["hosts"]):
            own = {"name": f"{host}.cluster", "folder": [], "digests": {}, "step": "0"}
            ways = {"10.0.0.1": {"interface": f"eth{node}"}}
            extra = {"python": "3.11.2", "executable": "/bin/python", "ways": ways}
            found = {**told, **own, **extra, "interfaces": [["eth0", "10.0.0.1"]], **self.given.get(host, {})}

            def joined(met: Met, same: bool, found: Mapping[str, Any] = found) -> None:
                wire = Channel(keeps=True)
                wire.connect(met.fd, met.fd, met.frames, 0, met.seal)
                wire.send(encode_frame("facts", t=time.monotonic() + 5.0, **found))
                wire.flush()
                self.wires.append(wire)

            dialer = ControllerDialer(
                self.loop, "127.0.0.1", where["port"], terms, node, lambda: 0, joined, self.notes.append
            )
            dialer.dial()
            self.dialers.append(dialer)

    def close(self) -> None:
        for wire in self.wires:
            os.close(wire.reading)
        for dialer in self.dialers:
            if dialer._sock is not None:
                dialer._sock.close()

    def check(self, missing: Sequence[str], late: bool, spares: int = 0) -> Mapping[str, str]:
        self.looks_left -= 1
        if not self.looks_left:
            raise Unreachable(f"no agent on {missing[0]}", None)
        return {}

    def leave_out(self, hosts: Sequence[str]) -> None:
        raise AssertionError(hosts)


class Joining:
    """A bootstrap of two such agents, whose facts are changed by `facts`."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text("print(1)\n")
        facts.write_marker(str(tmp_path))
        self.run, self.loop = Run(tmp_path), EventLoop()
        self.joiner = Joiner(self.loop, self.run)
        self.agents = JoiningAgents(
            self.loop, self.run, ("n1", "n2"), 30.0, {"host": "NODE"}, self.joiner, self.joiner.notes.append
        )
        self.bootstrap = Bootstrap(self.agents, Need(str(tmp_path), "train.py"))

    def facts(self, secret: str = "", **facts: Mapping[str, Any]) -> dict[str, Any]:
        self.joiner.given, self.joiner.secret = facts, secret
        return dict(self.bootstrap.facts(str(self.run.path)))


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[Joining]:
    made = Joining(tmp_path)
    yield made
    made.agents.close()
    made.joiner.close()
    made.loop.close()


def test_agents_that_join_are_checked_and_meet(joining: Joining) -> None:
    told = joining.facts()
    assert ["n1.cluster", "n2.cluster"] == list(told), "by the names that they have of themselves"
    assert all(4.0 < link.offset <= 5.0 for link in joining.agents.links)
    joining.bootstrap.check_storage(str(joining.run.path))
    joining.bootstrap.check()
    met = joining.bootstrap.find_rendezvous()
    assert ("10.0.0.1", joining.agents.listener.getsockname()[1]) == met[:2]
    assert ["eth0", "eth1"] == [next(iter(late.values())) for late in met.interface_env]
    assert [] == joining.joiner.notes


def test_an_agent_that_joins_with_another_script_ends_it(joining: Joining) -> None:
    joining.facts(n2={"script": "0" * 64})
    with pytest.raises(InvalidRequest, match=r"script train\.py on n2\.cluster differs from the one here"):
        joining.bootstrap.check()


def test_an_agent_that_has_not_tried_an_address_has_not_reached_it(joining: Joining) -> None:
    joining.facts(n1={"interfaces": [["ib0", "10.1.0.1"]]})
    with pytest.raises(Unreachable, match="not tried"):
        joining.bootstrap.find_rendezvous()


def test_agents_without_the_secret_never_join(joining: Joining) -> None:
    """The process that starts the agents reports when none will come any more."""
    joining.joiner.looks_left = 6
    with pytest.raises(Unreachable, match="no agent on n1"):
        joining.facts(secret="f" * 64)
    assert not any(link.facts or link.channel.connected for link in joining.agents.links)
