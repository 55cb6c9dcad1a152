"""`muster.run(roles=…)`: the options of the run and those of each role, and what travels to the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import muster
from muster.core.roles import late_values
from muster.errors import InvalidRequest
from muster.payloads import call, calling
from muster.python.role_runs import context_of
from muster.runner.context import RunContext
from muster.runner.roles import members_of, nodes_here, plan_of


def train(lr: float) -> float:
    return lr


def serve() -> str:
    return "served"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "serve.py").write_text("")
    return tmp_path


def context(roles: dict[str, muster.Role[Any]], **keywords: Any) -> RunContext:
    return context_of({name: role.call for name, role in roles.items()}, keywords)


def test_each_role_has_its_program_and_its_options(here: Path) -> None:
    made = context(
        {
            "trainer": muster.Role(train, lr=0.1, nproc_per_node=2, main=True, env={"MINE": "1"}),
            "rollout": muster.Role("serve.py", "--port", 3, launcher="exec"),
        },
        grace=3,
    )
    trainer, rollout = made.asked.jobs
    assert trainer.program.source and trainer.program.title == "train"
    assert rollout.program.argv == ("serve.py", "--port", "3")
    assert [job.grace for job in (trainer, rollout)] == [3.0, 3.0]
    assert [dict(job.env) for job in (trainer, rollout)] == [{"MINE": "1"}, {}]
    assert [job.launcher for job in (trainer, rollout)] == ["fork", "exec"]
    plan = plan_of(members_of(made), nodes_here(members_of(made), made.env), "run")
    assert [(role.name, role.ranks, role.main) for role in plan.roles] == [("trainer", 2, True), ("rollout", 1, False)]
    assert made.argv[:4] == ["run", "--grace", "3", "--role"]
    assert made.argv[-8:] == [":", "--role", "rollout", "--launcher", "exec", "serve.py", "--port", "3"]


def test_the_function_of_a_role_is_found_by_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context({"a": muster.Role(train, 0.5), "b": muster.Role("serve.py"), "c": muster.Role(serve)})
    (here / "function").write_bytes(made.function)
    (here / "function").chmod(0o600)
    here.chmod(0o700)
    headers = {}
    for name in ("a", "c"):
        monkeypatch.setenv("ROLE_NAME", name)
        headers[name], (data,), _ = call._parts_of(str(here / "function"))
        assert (b"train" in data, b"serve" in data) == (name == "a", name == "c")
    assert headers["a"].keys() == headers["c"].keys()


def test_results_have_the_number_of_the_rank_in_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context({"a": muster.Role(train, 0.5, nproc_per_node=3), "b": muster.Role(serve, nproc_per_node=2)})
    plan = plan_of(members_of(made), nodes_here(members_of(made), made.env), "run")
    late = late_values(plan, 1, ["127.0.0.1"] * 2, {0: (1, 2), 1: (3, 4)})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("ROLE_NAME", "b")
    assert calling._rank_in_run() == 1
    monkeypatch.setenv("MUSTER_ROLES", late["MUSTER_ROLES"])
    assert calling._rank_in_run() == 4


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"timeout": 3}, "timeout= holds for the whole run, not for one role"),
        ({"role": "x"}, "role=: the name of a role is its key"),
        ({"show_output": True}, "show_output= holds for the whole run"),
        ({"wrong": 3}, "cannot call train"),
    ],
)
def test_refused_in_a_role(keywords: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        muster.Role(train, kwargs=None, **({"lr": 1} | keywords))


@pytest.mark.parametrize(
    ("roles", "keywords", "why"),
    [
        ({}, {}, "roles= takes a dictionary with two roles at least"),
        ({"a": 3, "b": 4}, {}, "'a': …}: not a role: int"),
        ("ab", {"nproc_per_node": 2}, "nproc_per_node= concerns one role"),
        ("ab", {"args": (1,)}, "args= is for one function"),
        ("ab", {"lr": 1}, "unknown option: lr"),
        ("ab", {"all_roles": True}, "unknown option: all_roles"),
        ("ab", {"sweep": {"lr": [1, 2]}}, "--sweep cannot be combined with roles"),
        ("a/", {}, "invalid name of a role: `/`"),
    ],
)
def test_refused_in_a_run(here: Path, roles: Any, keywords: dict[str, Any], why: str) -> None:
    if isinstance(roles, str):
        roles = {name: muster.Role("serve.py") for name in roles}
    with pytest.raises(InvalidRequest, match=why):
        muster.submit(roles=roles, **keywords)


def test_hosts_of_a_run_are_divided_between_its_roles(here: Path) -> None:
    made = context({"a": muster.Role("serve.py", nnodes=2), "b": muster.Role("serve.py")}, hosts=["n1", "n2", "n3"])
    assert [[host.name for host in role.asked.hosts] for role in made.asked.roles] == [["n1", "n2"], ["n3"]]


def test_a_job_has_nodes_for_all_roles(here: Path) -> None:
    roles = {"a": muster.Role("serve.py", nnodes=2, nproc_per_node=2), "b": muster.Role("serve.py", nproc_per_node=8)}
    made = context(roles, slurm=True)
    assert (made.options.nodes, made.options.nproc_per_node, made.asked.ranks_per_node) == (3, "8", "8")
