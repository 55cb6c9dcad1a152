"""Roles: several programs in one run, each with ranks that are numbered from 0."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.cli.run_line import read_roles
from muster.code_sync import tree_of
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.resolve import JobRequest, RoleRequest
from muster.config.roles import _hosts_of, make_roles, shared, split
from muster.controller.batch_roles import groups_of, plan_of_roles, roles_in_job
from muster.controller.controller import settings_of
from muster.core.events import (
    AgentReady,
    CleanedUp,
    Configured,
    Finish,
    OpenStore,
    RankExited,
    SignalRanks,
    StartRanks,
    StopRequested,
    StoreOpened,
    Tick,
)
from muster.core.hostlist import HostSpec
from muster.core.inspection import Inspection, Snapshot, SnapshotReason
from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.layout import layout
from muster.core.model import Host, Job, Late, Plan, Program, as_json
from muster.core.rank_env import of_each_rank
from muster.core.results import SIGINT, SIGKILL, SIGTERM, Failure, FailureKind, RankExit, RoleRanks, RunResult, RunState
from muster.core.roles import label, late_values, named_in_roles, ranks_of, secret_of_role, snapshot_in, with_run_ranks
from muster.core.supervisor import Supervisor, SupervisorConfig
from muster.errors import InvalidRequest
from muster.launchers import LAUNCHERS, make_plan
from muster.launchers.roles import joined
from muster.schedulers.scheduler import Allocation
from muster.ui.plan_text import plan_in_words
from muster.ui.terminal import prefixes
from muster.ui.text import outcome_as_json, outcome_in_words

TRAINER, ROLLOUT = RoleRanks("trainer", 0, 2), RoleRanks("rollout", 2, 3)
ROLES = (TRAINER, ROLLOUT)


def job(role: str, launcher: str = "fork", **more: Any) -> Job:
    program = Program("command" if launcher == "exec" else "script", (f"{role}.py",))
    return Job(program, launcher, "python", "", "/home", role=role, **more)


def of_two(*, hosts: tuple[str, str] = ("a", "b"), launcher: str = "fork") -> Plan:
    """Two ranks of trainer on the first host, and three of rollout on the second."""
    first = make_plan(job("trainer", env={"ONLY": "trainer"}), layout([(Host(hosts[0]), 2)]), "run")
    second = make_plan(job("rollout", launcher), layout([(Host(hosts[1]), 3)]), "run")
    return joined([(first, True), (second, False)])


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_each_role_has_its_own_ranks_and_the_run_numbers_all() -> None:
    plan = of_two()
    assert [[rank.rank for rank in node.ranks] for node in plan.nodes] == [[0, 1], [2, 3, 4]]
    assert [(role.name, role.first_node, role.first_rank, role.ranks) for role in plan.roles] == [
        ("trainer", 0, 0, 2),
        ("rollout", 1, 2, 3),
    ]
    found = [(of.env["RANK"], of.env["WORLD_SIZE"], of.env["GROUP_RANK"]) for of in of_each_rank(plan)]
    assert found == [("0", "2", "0"), ("1", "2", "0"), ("0", "3", "0"), ("1", "3", "0"), ("2", "3", "0")]
    assert [command.node for command in plan.commands] == [0, 1]
    assert plan.stores == (0, 1)
    assert plan.job_of(1).role == "rollout"


def test_no_variable_of_one_role_reaches_another() -> None:
    envs = [of.env for of in of_each_rank(of_two())]
    assert [env.get("ONLY") for env in envs] == ["trainer", "trainer", None, None, None]
    assert [env["ROLE_NAME"] for env in envs] == ["trainer"] * 2 + ["rollout"] * 3
    assert all(env["MUSTER_ROLES"] is Late.ROLES for env in envs)


@pytest.mark.parametrize(("hosts", "interface"), [(("a", "b"), Late.INTERFACE), (("a", "a"), "lo")])
def test_roles_on_several_hosts_reach_each_other(hosts: tuple[str, str], interface: object) -> None:
    """Each role has one host, but process groups across roles need the network."""
    for of in of_two(hosts=hosts).environments:
        assert of.env_defaults["GLOO_SOCKET_IFNAME"] == interface
        assert ("NCCL_SOCKET_IFNAME" in of.env_defaults) == (hosts == ("a", "b"))


FOREIGN = [name for name, row in LAUNCHERS.items() if row.foreign and name not in ("srun", "submitit")]


@pytest.mark.parametrize("launcher", FOREIGN)
def test_a_launcher_of_one_role_starts_its_ranks_alone(launcher: str) -> None:
    """It is told the nodes and ranks of its own role, as if there were no other one."""
    alone = make_plan(job("rollout", launcher), layout([(Host("b"), 2), (Host("c"), 2)]), "run")
    first = make_plan(job("trainer"), layout([(Host("a"), 2)]), "run")
    plan = joined([(first, False), (alone, True)])
    trainer, rollout = plan.roles
    assert (trainer.rank_command, trainer.external_rendezvous) == (None, False)
    assert (rollout.rank_command, rollout.external_rendezvous) == (alone.rank_command, alone.external_rendezvous)
    assert (rollout.own_nodes, rollout.own_ranks) == (range(1, 3), range(2, 6))
    own = [command for command in plan.commands if command.node in rollout.own_nodes]
    assert [command._replace(node=command.node - 1) for command in own] == list(alone.commands)
    found = [of.env for of in of_each_rank(plan) if of.node in rollout.own_nodes]
    assert [(env["RANK"], env["WORLD_SIZE"]) for env in found] == [(str(rank), "4") for rank in range(4)]
    assert all(env["MUSTER_ROLES"] is Late.ROLES for env in found)
    settings = settings_of(plan)
    assert settings.foreign == frozenset(rollout.own_ranks)
    assert (settings.stores, settings.main) == ((0, 1), frozenset(rollout.own_ranks))


def test_two_ray_clusters_do_not_share_a_host() -> None:
    ray = make_plan(job("a", "ray"), layout([(Host("n1"), 1), (Host("n2"), 1)]), "run")
    other = make_plan(job("b", "ray"), layout([(Host("n2"), 1)]), "run")
    with pytest.raises(InvalidRequest, match="roles a and b both start Ray on n2"):
        joined([(ray, False), (other, False)])
    apart = make_plan(job("b", "ray"), layout([(Host("n3"), 1)]), "run")
    assert joined([(ray, False), (apart, False)]).hosts == ("n1", "n2", "n3")


@pytest.mark.parametrize("launcher", ["fork", "torchrun"])
def test_a_plan_with_roles_survives_json(launcher: str) -> None:
    plan = of_two(launcher=launcher)
    assert plan_from_json(json.loads(json.dumps(as_json(plan)))).roles == plan.roles


def test_the_launcher_of_a_role_and_its_ranks_are_in_the_plan() -> None:
    made = plan_in_words(of_two(launcher="torchrun"), "run", "/runs")
    assert "each rank of rollout, after $MUSTER_RANK registered: python rollout.py" in made
    assert "ranks 2-4 expected on b" in made
    assert "(the first node of each role binds a free port)" in made


def test_ranks_know_the_hosts_of_all_roles() -> None:
    plan = of_two()
    found = late_values(plan, 1, ["10.0.0.1", "10.0.0.2"], {0: (4000, 4001), 1: (5000, 5001)})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.2", "5000")
    assert json.loads(found["MUSTER_ROLES"]) == {
        "trainer": {
            "hosts": ["a"],
            "addresses": ["10.0.0.1"],
            "ranks": 2,
            "ranks_per_node": [2],
            "port": 4001,
        },
        "rollout": {
            "hosts": ["b"],
            "addresses": ["10.0.0.2"],
            "ranks": 3,
            "ranks_per_node": [3],
            "port": 5001,
        },
    }


# ---- the supervisor -------------------------------------------------------------------------------------------------


def started(main: frozenset[int] = frozenset()) -> Supervisor:
    """Return the supervisor of a run whose ranks have been started."""
    config = SupervisorConfig(
        *(tuple(range(5)), 2, (0, 0, 1, 1, 1), 10.0), stores=(0, 1), roles=ROLES, main=main, max_restarts=1
    )
    found = Supervisor(config)
    assert found.handle(Configured(0.0)) == [OpenStore(0)]
    for event in (AgentReady(1.0, 0), AgentReady(1.0, 1), StoreOpened(1.1, 0, 4000, 0, 4001)):
        assert found.handle(event) == []  # the store of the second role is not open
    assert found.handle(StoreOpened(1.2, 0, 5000, 1, 5001)) == [StartRanks(0, 4000)]
    return found


def result(found: Supervisor, t: float) -> RunResult:
    """Return the result after the cleanup."""
    actions = [*found.handle(CleanedUp(t, 0)), *found.handle(CleanedUp(t, 1))]
    return next(action.outcome for action in actions if isinstance(action, Finish))


def test_only_a_launcher_explains_signals_of_its_own_ranks() -> None:
    """torchrun ends the other ranks of its role if one fails; those of a role that muster starts get no such signal."""
    found = started()
    found.settings = replace(found.settings, foreign=frozenset((2, 3, 4)))
    found.handle(RankExited(2.0, 2, 0, signal=SIGTERM, asked_by_launcher=1.95))
    found.handle(RankExited(2.0, 0, 0, signal=SIGTERM, asked_by_launcher=1.95))
    by_launcher = {end.rank: end.by_launcher for end in found.exits}
    assert by_launcher == {0: False, 2: True}


def test_the_first_failure_of_any_role_ends_the_run() -> None:
    found = started()
    failure = Failure(FailureKind.EXCEPTION, 2.0, "ValueError: bad")
    actions = found.handle(RankExited(2.0, 3, 0, 7, failure=failure))
    assert actions == [SignalRanks(SIGTERM, (0, 1, 2, 4))]
    found.settings = replace(found.settings, max_restarts=0)
    for rank in (0, 1, 2, 4):
        found.handle(RankExited(2.5, rank, 0, None, SIGTERM))
    ended = result(found, 2.6)
    assert (ended.state, ended.code, ended.roles) == (RunState.FAILED, 7, ROLES)
    words = outcome_in_words(ended, "run", 5, ("a", "b"))
    assert "rank 3 (rollout:1) on b failed first" in words
    assert "ranks 0-2,4 (trainer:0-1, rollout:0,2): terminated by muster" in words
    assert outcome_from_json(outcome_as_json(ended)).roles == ROLES


def test_a_run_goes_on_until_all_roles_have_ended() -> None:
    found = started()
    for rank in (0, 1):
        assert found.handle(RankExited(2.0, rank, 0, 0)) == []
    assert found.alive() == (2, 3, 4)


def test_a_main_role_that_succeeds_ends_the_others() -> None:
    found = started(main=frozenset((0, 1)))
    assert found.handle(RankExited(2.0, 0, 0, 0)) == []
    actions = found.handle(RankExited(2.1, 1, 0, 0))
    assert SignalRanks(SIGTERM, (2, 3, 4)) in actions
    for rank in (2, 3, 4):
        found.handle(RankExited(2.2, rank, 0, None, SIGTERM))
    ended = result(found, 2.3)
    assert (ended.state, ended.code) == (RunState.SUCCEEDED, 0)
    assert "role trainer succeeded in 2.3s; terminated ranks 2-4 (rollout:0-2)" in outcome_in_words(ended, "run", 5)


def test_ctrl_c_kills_what_a_main_role_left() -> None:
    found = started(main=frozenset((0, 1)))
    for rank in (0, 1):
        found.handle(RankExited(2.0, rank, 0, 0))
    assert SignalRanks(SIGKILL, (2, 3, 4)) in found.handle(StopRequested(2.5, SIGINT))
    for rank in (2, 3, 4):
        found.handle(RankExited(2.6, rank, 0, None, SIGKILL))
    assert result(found, 2.7).state is RunState.SUCCEEDED


def test_a_restart_opens_the_stores_of_all_roles() -> None:
    found = started()
    found.handle(RankExited(2.0, 3, 0, 7))
    for rank in (0, 1, 2, 4):
        found.handle(RankExited(2.5, rank, 0, None, SIGTERM))
    found.handle(CleanedUp(2.6, 0))
    assert OpenStore(1) in [*found.handle(CleanedUp(2.6, 1)), *found.handle(Tick(3.0))]
    assert found.port is None
    assert found.handle(StoreOpened(3.1, 1, 5002, 1, 5003)) == []
    assert found.handle(StoreOpened(3.2, 1, 4002, 0, 4003)) == [StartRanks(1, 4002)]
    assert {node: store.port for node, store in found.stores.items()} == {0: 4002, 1: 5002}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_names_of_ranks() -> None:
    assert [label(rank, ROLES) for rank in range(5)] == [
        "trainer:0",
        "trainer:1",
        "rollout:0",
        "rollout:1",
        "rollout:2",
    ]
    assert label(3, ()) == ""
    assert named_in_roles([4, 0, 3], ROLES) == "ranks 0,3-4 (trainer:0, rollout:1-2)"
    assert named_in_roles([4, 0], ()) == "ranks 0,4"
    assert ranks_of(of_two()) == ROLES


def test_lines_have_the_name_of_the_role() -> None:
    where = dict.fromkeys(range(5), ("a", 0, 0))
    assert prefixes(where, None, False, "", ROLES)[3] == b"[rollout:1] "
    assert prefixes(where, "{role}/{role_rank} {rank}: ", False, "", ROLES)[4] == b"rollout/2 4: "
    with pytest.raises(InvalidRequest, match="placeholder"):
        prefixes(where, "{role}", False)


def test_numbers_that_torch_uses_begin_anew_in_each_role() -> None:
    blamed = with_run_ranks(Failure(FailureKind.PEER_LOST, 1.0, blames=(0, 2)), 3, ROLES)
    assert blamed is not None
    assert blamed.blames == (2, 4)
    snapshot = Snapshot(1.0, SnapshotReason.HANG, 0, tuple(Inspection(rank, 0) for rank in range(5)))
    assert [found.rank for found in snapshot_in(snapshot, ROLLOUT).inspections] == [0, 1, 2]
    assert with_run_ranks(None, 3, ROLES) is None


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("train.py a : b", ["train.py a : b"]),
        ("--role a x.py : --role b y.py", ["--role a x.py", "--role b y.py"]),
        ("--role a x.py : : --role=b y.py : z", ["--role a x.py :", "--role=b y.py : z"]),
    ],
)
def test_a_colon_separates_roles_only_before_role(line: str, parts: list[str]) -> None:
    assert [" ".join(part) for part in split(line.split())] == parts


def lines(text: str, env: dict[str, str] | None = None) -> list[tuple[ParsedArgs, RunOptions]]:
    return read_roles(text.split(), env or {"HOME": "/nowhere"}, "run")[2]


def request(text: str, env: dict[str, str] | None = None) -> JobRequest:
    return make_roles(lines(text, env), env or {"HOME": "/nowhere", "PATH": "/bin"}, "run", print)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("x.py", "y.py"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x.py : --role b y.py", "each program of a run with roles needs a name"),
        ("--role a x.py : -g 2 --role b y.py", "a role begins with its name"),
        ("--role a x.py : --role a y.py", "two roles have the name a"),
        ("--role a x.py : --role b --timeout 3 y.py", "--timeout after `:` holds for the whole run"),
        ("--role a --sweep lr=1,2 x.py : --role b y.py", "--sweep cannot be combined with roles"),
        ("-d --after z --role a x.py : --role b y.py", "--after cannot be combined with --detach and roles"),
        ("--sge --role a x.py : --role b y.py", "--sge cannot be combined with roles"),
        ("--slurm --role a x.py : --role b --gpus 2 y.py", "role b: --gpus cannot be combined with --slurm"),
        ("--role a -H n1 x.py : --role b y.py", "the roles need 2 hosts"),
        ("--role a -H n1,n2,n3 x.py : --role b y.py", "n3 belongs to no role"),
        ("--role a -H n[1-4] x.py : --role b y.py", r"n\[3-4\] belong to no role"),
        ("--role a x.py : --role b -H n1 y.py", "role b has hosts, and role a has none"),
        ("--role a x.py : --role b nothing.py", "nothing.py"),
        ("--role a x.py : --role b -g 2", "role b has no program"),
        ("--role a -g 2", "role a has no program"),
        ("--role a/b x.py : --role b y.py", "invalid name of a role"),
    ],
)
def test_refused(scripts: Path, line: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        request(line)


def test_the_plan_shows_the_python_of_each_role() -> None:
    first = make_plan(job("trainer"), layout([(Host("a"), 2)]), "run")
    own = job("rollout", "torchrun", python_named=True)._replace(python="/venv/bin/python", python_source="--python")
    second = make_plan(own, layout([(Host("b"), 2)]), "run")
    command = make_plan(job("reward", "exec"), layout([(Host("c"), 1)]), "run")
    text = plan_in_words(joined([(first, False), (second, False), (command, False)]), "run", "/runs")
    rows = [line for line in text.splitlines() if line.startswith("python ")]
    assert rows == ["python    trainer: python ()", "python    rollout: /venv/bin/python (--python)"]
    same = plan_in_words(joined([(first, False), (first, False)]), "run", "/runs")
    assert "\npython    python ()\n" in same
    assert "role      trainer: ranks 0-1 of the run on a, rendezvous on a, launcher fork, in /home\n" in text


def test_the_plan_counts_a_shared_host_once() -> None:
    """Each role has a node of its own there."""
    made = plan_in_words(of_two(hosts=("a", "a"), launcher="exec"), "run", "/runs")
    assert made.startswith("launcher  fork/exec, 5 ranks on 1 node\n")
    assert plan_in_words(of_two(), "run", "/runs").startswith("launcher  fork, 5 ranks on 2 nodes\n")


def test_a_colon_without_a_role_is_an_argument_with_a_warning(
    scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [] == lines("--role a x.py : b y.py")
    assert "warning: `:` is an argument of x.py; another role begins with `: --role NAME`\n" == capsys.readouterr().err
    assert [] == lines("x.py : b y.py")
    assert "" == capsys.readouterr().err


def test_the_hint_for_a_name_shows_the_pattern(scripts: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request("--role 1a x.py : --role b y.py")
    assert "[A-Za-z][A-Za-z0-9_.-]*" in str(caught.value.hint)


@pytest.mark.parametrize("line", ["--main x.py", "--role a --main x.py"])
def test_main_requires_roles(scripts: Path, line: str) -> None:
    with pytest.raises(InvalidRequest, match="--main requires several roles"):
        request(line)


def test_options_of_the_run_hold_for_all_roles_and_others_for_one(scripts: Path) -> None:
    found = request(
        "--role a --grace 3s --env X=1 -g 2 --launcher torchrun --launcher-args --tee=3 x.py "
        ": --role b --env Y=2 --launcher exec y.py --flag"
    )
    first, second = (role.asked for role in found.roles)
    assert (first.job.launcher_args, second.job.launcher_args) == (("--tee=3",), ())
    assert (first.job.grace, second.job.grace) == (3.0, 3.0)
    assert (dict(first.job.env), dict(second.job.env)) == ({"X": "1"}, {"Y": "2"})
    assert (first.job.launcher, second.job.launcher) == ("torchrun", "exec")
    assert (first.ranks_per_node, second.ranks_per_node) == ("2", None)
    assert second.job.program.argv == ("y.py", "--flag")


def test_the_code_of_all_roles_is_in_one_directory(scripts: Path) -> None:
    (scripts / "deep").mkdir()
    (scripts / "deep/z.py").write_text("")
    first, second = request("--role a x.py : --role b deep/z.py").jobs
    found = tree_of([first, second])
    assert (found.root, set(found.names)) == (str(scripts.resolve()), {"x.py", "y.py", "deep/z.py"})
    apart = request(f"--role a x.py : --role b --cwd {scripts}/deep z.py").jobs
    with pytest.raises(InvalidRequest, match="the roles start in different directories"):
        tree_of(apart)


def test_other_jobs_of_a_request_with_roles(scripts: Path) -> None:
    asked = request("--role a x.py : --role b y.py")
    changed = asked.with_jobs([job._replace(cwd=f"/{job.role}") for job in asked.jobs])
    assert [job.cwd for job in changed.jobs] == ["/a", "/b"]
    assert changed.job == changed.roles[0].asked.job


def test_hosts_are_divided_in_order(scripts: Path) -> None:
    found = request("--role a -N 2 -H n[1-3] -g 4 x.py : --role b -N 1 -g 1 y.py")
    assert [[host.name for host in role.asked.hosts] for role in found.roles] == [["n1", "n2"], ["n3"]]
    assert [host.name for host in found.hosts] == ["n1", "n2", "n3"]
    found = request("--role a -H n1,n2 x.py : --role b -H n2 y.py")
    assert [[host.name for host in role.asked.hosts] for role in found.roles] == [["n1", "n2"], ["n2"]]


TOML = """
[run]
grace = "5s"
[roles.a]
command = "x.py --lr 0.1"
nproc_per_node = 2
[roles.b]
command = ["y.py", "two words"]
env = ["PORT=1"]
main = true
"""


def test_roles_of_muster_toml(scripts: Path) -> None:
    (scripts / "muster.toml").write_text(TOML)
    for line in ("--all-roles", "--role a : --role b"):
        first, second = request(line).roles
        assert (first.asked.job.program.argv, first.options.nproc_per_node) == (("x.py", "--lr", "0.1"), "2")
        assert (second.asked.job.program.argv, second.options.main) == (("y.py", "two words"), True)
        assert (first.asked.job.grace, dict(second.asked.job.env)) == (5.0, {"PORT": "1"})
        assert dict(first.asked.job.env) == {}
    (first, other) = request("--role a -g 3 : --role b x.py").roles
    assert (first.options.nproc_per_node, other.asked.job.program.argv) == ("3", ("x.py",))


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (TOML, "--all-roles x.py", "--all-roles cannot be combined with `x.py`"),
        (TOML, "--all-roles -g 2", "--all-roles cannot be combined with --nproc-per-node"),
        ("", "--all-roles", "no roles in muster.toml"),
        ("[roles.a]\ntimeout = '3s'\ncommand = 'x.py'\n", "--all-roles", "timeout holds for the whole run"),
        ("[roles.a]\n", "--all-roles", "has no `command`"),
        ("[roles]\na = 3\n", "--all-roles", "is not a table"),
    ],
)
def test_refused_in_muster_toml(scripts: Path, text: str, line: str, why: str) -> None:
    (scripts / "muster.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=why):
        request(line)


# ---- roles that share a host ----------------------------------------------------------------------------------------


def on_one_host(*counts: int, env: dict[str, str] | None = None, gpus: tuple[str, ...] = ()) -> Any:
    """Return nodes of several roles on a host, and the roles; `env` is that of the last one, `gpus` of the first."""
    parts, roles = [], []
    for index, count in enumerate(counts):
        host = Host("a", threads=8, gpus=gpus if not index else ())
        parts.append(layout([(host, count)]))
        own = job(f"r{index}", env=env or {} if index == len(counts) - 1 else {})
        roles.append(RoleRequest(JobRequest(own, (), None, {}, {}, False), RunOptions()))
    return parts, roles


EIGHT = {"a": [str(index) for index in range(8)]}


@pytest.mark.parametrize(
    ("counts", "more", "expected"),
    [
        ((4, 4), {}, [("0", "1", "2", "3"), ("4", "5", "6", "7")]),
        ((2, 3), {}, [("0", "1"), ("2", "3", "4")]),
        ((8, 8), {}, [(), ()]),  # they share all
        ((4, 4), {"gpus": ("6", "7")}, [("6", "7"), ()]),  # somebody has divided them
        ((6, 1), {"env": {"CUDA_VISIBLE_DEVICES": ""}}, [("0", "1", "2", "3", "4", "5"), ()]),
        ((8,), {}, [()]),
    ],
)
def test_gpus_of_a_host_are_divided(counts: tuple[int, ...], more: Any, expected: list[tuple[str, ...]]) -> None:
    parts, roles = on_one_host(*counts, **more)
    assert [nodes[0].host.gpus for nodes in shared(parts, roles, EIGHT, {"a": 16})] == expected


def test_cores_of_a_host_are_divided() -> None:
    parts, roles = on_one_host(2, 2)
    assert [nodes[0].host.threads for nodes in shared(parts, roles, {}, {"a": 16})] == [4, 4]


def test_hosts_of_a_hostfile_that_no_role_needs_are_left_if_all_say_how_many(scripts: Path) -> None:
    options = [options for _, options in lines("--role a -N 1 -H n1,n2,n3 x.py : --role b -N 1 y.py")]
    assert _hosts_of(options) == [(HostSpec("n1"),), (HostSpec("n2"),)]


def test_an_exit_keeps_its_number(scripts: Path) -> None:
    from muster.core.roles import exits_in

    assert [end.rank for end in exits_in([RankExit(1, 0, 1.0), RankExit(3, 1, 1.0)], ROLLOUT)] == [1]


# ---- in a rank ------------------------------------------------------------------------------------------------------


def test_a_script_asks_where_other_roles_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import muster

    monkeypatch.delenv("MUSTER_ROLES", raising=False)
    assert dict(muster.roles()) == {}
    found = late_values(of_two(), 0, ["10.0.0.1", "10.0.0.2"], {0: (4000, 4001), 1: (5000, 5001)})
    monkeypatch.setenv("MUSTER_ROLES", found["MUSTER_ROLES"])
    rollout = muster.roles()["rollout"]
    assert rollout.endpoint == ("10.0.0.2", 5001)
    assert (rollout.hosts, rollout.ranks, rollout.ranks_per_node) == (("b",), 3, (3,))
    monkeypatch.setenv("MUSTER_ROLES", '{"rollout": {"hosts": 3}}')
    with pytest.raises(InvalidRequest, match="cannot read MUSTER_ROLES"):
        muster.roles()


# ---- in a job of a scheduler ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "nodes", "each"),
    [
        ("--slurm --role a -N 2 -g 4 x.py : --role b -g 8 y.py", 3, "8"),
        ("--slurm --role a x.py : --role b -g 8 y.py", 2, None),
    ],
)
def test_a_job_has_nodes_for_all_roles(scripts: Path, line: str, nodes: int, each: str | None) -> None:
    _, options, roles = read_roles(line.split(), {"HOME": "/nowhere"}, "run")
    assert (options.nodes, options.nproc_per_node) == (nodes, each)
    assert [own.nodes or 1 for _, own in roles] == [nodes - 1, 1]
    assert request(line).ranks_per_node == each


def of_job(**more: Any) -> dict[str, Any]:
    role = {"job": as_json(job("a", env={"PLAIN": "1"})), "nodes": 1, "each": "2", "np": None}
    return {**role, "threads_chosen": False, "main": False, "setup": False, "folder": [], **more}


def test_each_role_of_a_job_gets_only_its_own_secrets() -> None:
    allocation = Allocation("12", ("n1", "n2", "n3"), 0)
    own = {"job": as_json(job("b", setup=("module load b",))), "nodes": 2, "setup": True}
    asked = {"roles": [of_job(), of_job(**own)]}
    env = {"HOME": "/h", secret_of_role(0, "TOKEN"): "of a", secret_of_role(1, "TOKEN"): "of b"}
    first, second = groups_of(asked, allocation, env)
    assert (first.env, first.hosts, first.setup) == ({"HOME": "/h", "TOKEN": "of a"}, ("n1",), ())
    assert (second.env, second.hosts, second.setup) == (
        {"HOME": "/h", "TOKEN": "of b"},
        ("n2", "n3"),
        ("module load b",),
    )
    assert groups_of({}, allocation, env) == []
    with pytest.raises(InvalidRequest, match="the roles need 4 nodes, job 12 has 3"):
        groups_of({"roles": [of_job(nodes=4)]}, allocation, env)


def test_the_plan_of_a_job_with_roles() -> None:
    allocation = Allocation("12", ("n1", "n2", "n3"), 0)
    asked = {"roles": [of_job(), of_job(nodes=2, each=None, np=3, main=True)]}
    roles = roles_in_job(asked, allocation, {"EXPORTED": "x"})
    facts = {name: {"cores": 8, "gpus": []} for name in allocation.hosts}
    plan = plan_of_roles(roles, allocation.hosts, {}, facts, "run")
    assert [len(node.ranks) for node in plan.nodes] == [2, 2, 1]
    assert [role.main for role in plan.roles] == [False, True]
    assert {of.env["EXPORTED"] for of in of_each_rank(plan)} == {"x"}
