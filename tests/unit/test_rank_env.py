"""The environment of ranks and launchers in the plan, and as an agent applies it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from muster.agent.rank_environment import environment, filled
from muster.core.layout import layout
from muster.core.model import Host, Job, Late, Plan, Program, Template, as_json
from muster.core.rank_env import interface_values, late_values, of_each_rank
from muster.launchers import LAUNCHERS, make_plan

RUN = "20261121-120000-ab12-train"
JOB = Job(Program("script", ("train.py",)), "fork", "/venv/bin/python", "", "/home/ann", env={"HF_HOME": "/data/hf"})
TWO = layout([(Host("n1", threads=2, gpus=("4", "5")), 2), (Host("n2", threads=3), 1)])

LATE = {
    **late_values("10.0.0.1", 29500, 1),
    **interface_values("eth0", several=False),
    "ERROR_FILE": "/runs/error.json",
    "PATH": "/venv/bin:/bin",
}


def made(launcher: str, nodes: Any = TWO, **more: Any) -> Plan:
    return make_plan(JOB._replace(launcher=launcher, **more), nodes, RUN)


def carried_out(plan: Plan, rank: int, inherited: dict[str, str]) -> dict[str, str]:
    """Return what an agent makes of the JSON that it receives."""
    of = as_json(of_each_rank(plan)[rank])
    return environment(inherited, of, LATE)


def test_a_rank_has_the_variables_of_torchrun() -> None:
    """Over the inherited variables; those that the user set for all ranks override muster's for a node."""
    assert {
        "HOME": "/root",
        "RANK": "2",
        "LOCAL_RANK": "0",
        "GROUP_RANK": "1",
        "ROLE_RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "3",
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": RUN,
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_ERROR_FILE": "/runs/error.json",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "HF_HOME": "/data/hf",
        "GLOO_SOCKET_IFNAME": "eth0",
        "TP_SOCKET_IFNAME": "eth0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": "7",
    } == carried_out(made("exec"), 2, {"HOME": "/root", "OMP_NUM_THREADS": "7", "RANK": "9"})


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_of_all_launchers_are_told_the_same(launcher: str) -> None:
    """Their rank, their GPUs and the user's variables, on each node, with any launcher."""
    where = {"transport": "ssh"} if "ssh" in LAUNCHERS[launcher].places else {"transport": "step", "scheduler": "slurm"}
    even = layout([(Host(f"n{node}", threads=2, gpus=("4", "5")), 2) for node in (1, 2)])
    plan = made(launcher, even, **where, allocation="7")
    expected = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "4,5",
        "HF_HOME": "/data/hf",
        "TORCHELASTIC_RUN_ID": RUN,
        "ROLE_NAME": "default",
        "OMP_NUM_THREADS": "2",
        "TORCHELASTIC_RESTART_COUNT": "1",
    }
    found = carried_out(plan, 3, {"CUDA_VISIBLE_DEVICES": "0", "WORLD_SIZE": "9"})
    assert expected == {name: found[name] for name in expected}
    for command in plan.commands:
        if command.launcher:
            assert ("4,5", "/data/hf") == (command.env["CUDA_VISIBLE_DEVICES"], command.env["HF_HOME"])


def test_a_value_that_is_not_known_yet_is_typed() -> None:
    """It is part of a text, and never converted to a string; JSON has its name, and an agent rejects unknown names."""
    argument = "--endpoint=" + Late.MASTER_ADDR + ":" + Late.MASTER_PORT
    assert Template("--endpoint=", Late.MASTER_ADDR, ":", Late.MASTER_PORT) == argument
    data = json.loads(json.dumps(as_json(argument)))
    assert ["--endpoint=", {"late": "MASTER_ADDR"}, ":", {"late": "MASTER_PORT"}] == data
    assert "--endpoint=10.0.0.1:29500" == filled(data, LATE)
    assert Template("a ", Late.PYTHON, " b $HOME") == Template.of("a {python} b $HOME", python=Late.PYTHON)
    with pytest.raises(TypeError, match="MASTER_PORT is not known yet"):
        f"--port={Late.MASTER_PORT}"
    with pytest.raises(KeyError):
        filled({"late": "MASTER_PROT"}, LATE)
    assert filled({"late": "NCCL_INTERFACE"}, LATE) is None


def test_words_with_a_dollar_are_the_users_own() -> None:
    """They are not expanded, not even in inherited variables of a launcher."""
    (command, _) = made("torchrun", layout([(Host("n1"), 1), (Host("n2"), 1)]), env={"A": "$MASTER_PORT"}).commands
    env = environment({"B": "$MASTER_ADDR"}, as_json(command), LATE)
    assert ("$MASTER_PORT", "$MASTER_ADDR") == (env["A"], env["B"])


def test_before_an_attempt_some_values_are_missing() -> None:
    """The fork server starts without them."""
    of = as_json(of_each_rank(made("fork"))[0])
    env = environment({}, of, {}, early=True)
    assert ("3", False, False) == (env["WORLD_SIZE"], "MASTER_PORT" in env, "GLOO_SOCKET_IFNAME" in env)


def test_the_role_that_a_launcher_was_given_stays() -> None:
    """As with `--launcher torchrun --launcher-args '--role trainer'`; that of muster's own option is set for all."""
    inherited = {"ROLE_NAME": "trainer"}
    even = layout([(Host("n1"), 1), (Host("n2"), 1)])
    roles = [carried_out(made(name, even), 0, inherited)["ROLE_NAME"] for name in ("torchrun", "mpirun", "fork")]
    assert ["trainer", "default", "default"] == roles
    assert "worker" == carried_out(made("torchrun", even, role="worker"), 0, inherited)["ROLE_NAME"]


@pytest.mark.parametrize(("launcher", "own_step"), [("srun", True), ("mpirun", False)])
def test_what_slurm_tells_of_the_job(launcher: str, own_step: bool) -> None:
    """Ranks have them from their node; a rank that is a task of Slurm has those of its own step."""
    of = of_each_rank(made(launcher, layout([(Host("n1"), 3)]), transport="step", scheduler="slurm", allocation="7"))[0]
    assert all(
        re.fullmatch(of.restored_pattern, name) for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
    )
    assert own_step != bool(re.fullmatch(of.restored_pattern, "SLURM_STEP_ID"))
    removed = [name for name in ("SLURM_NTASKS", "SLURM_STEP_ID", "SRUN_DEBUG") if re.fullmatch(of.unset_pattern, name)]
    assert (["SLURM_NTASKS", "SRUN_DEBUG"] if own_step else []) == removed
    assert ("3", "0") == (of.env["SLURM_NTASKS"], of.env["SLURM_PROCID"])
