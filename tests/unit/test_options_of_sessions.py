"""Which options a session has, and which the runs on it take from it."""

from __future__ import annotations

import pytest

from muster.config.command_options import HoldOptions
from muster.config.options import RunOptions
from muster.config.sessions import nodes_of_run, options_of_session, options_to_hold, with_session
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.errors import InvalidRequest
from muster.launchers import make_plan
from muster.schedulers import slurm_step

PLAN = make_plan(
    Job(Program("command", ("true",)), "exec", "python3", "--python", "/", scheduler="slurm", transport="step"),
    layout([(Host("n1"), 2), (Host("n2"), 2)]),
    "20261128-000000-abcdef",
)


def test_a_run_in_the_job_of_a_session_is_one_of_that_scheduler() -> None:
    held = options_to_hold(HoldOptions(("argv", {"slurm": True, "nnodes": "2", "nproc_per_node": "2", "time": "10"})))
    assert held.detach and "slurm" == held.scheduled
    kept = options_of_session(held)
    assert {"scheduler": "slurm", "nnodes": "2", "nproc_per_node": "2"} == kept
    run = with_session(RunOptions(("argv", {"on": "dev"})), kept)
    assert "slurm" == run.scheduled and "2" == run.nnodes


def test_a_configured_requeue_is_not_that_of_a_session() -> None:
    given = {"slurm": True, "requeue": 3, "output": "%x.out"}
    held = options_to_hold(HoldOptions(("muster.toml", given)))
    option = held.option("requeue")
    assert option is not None and 0 == held.value(option)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sge": True}, "a session on Grid Engine is not supported"),
        ({"scheduler": "sge"}, "a session on Grid Engine is not supported"),
        ({"slurm": True, "requeue": 3}, "a session does not accept --requeue: it ends with its job"),
        ({"slurm": True, "output": "%x.out"}, "a session does not accept --output: it starts no ranks"),
        ({"slurm": True, "spare_nodes": 1}, "a session does not accept --spare-nodes"),
    ],
)
def test_what_a_session_in_a_job_does_not_have(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        options_to_hold(HoldOptions(("argv", given)))


def test_the_job_of_a_session_is_no_option_of_a_run_on_it() -> None:
    for given, name in (({"slurm": True}, "--slurm"), ({"partition": "gpu"}, "--partition")):
        with pytest.raises(InvalidRequest, match=f"{name} cannot be combined with --on: it belongs to the session"):
            with_session(RunOptions(("argv", {"on": "dev", **given})), {"scheduler": "slurm"})


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({}, [2, 2]),
        ({"nproc_per_node": "1"}, [1, 1]),
        ({"nnodes": "1"}, [2]),
        ({"nnodes": "1", "nproc_per_node": "1"}, [1]),
        ({"np": 3}, [2, 1]),
        ({"np": 2}, [2]),
        ({"np": 2, "nproc_per_node": "1"}, [1, 1]),
    ],
)
def test_a_run_may_have_fewer_ranks_and_nodes_than_its_session(given: dict[str, object], counts: list[int]) -> None:
    nodes = nodes_of_run(RunOptions(("argv", given)), "dev", PLAN)
    assert counts == [len(node.ranks) for node in nodes]
    assert ["n1", "n2"][: len(counts)] == [node.host.name for node in nodes]
    assert list(range(sum(counts))) == [rank.rank for node in nodes for rank in node.ranks]
    assert {sum(counts)} == {rank.world_size for node in nodes for rank in node.ranks}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nproc_per_node": "3"}, "-g 3: the session dev has 2 ranks on each node"),
        ({"nproc_per_node": "auto"}, "-g auto: the session dev has 2 ranks on each node"),
        ({"nnodes": "3"}, "-N 3: the session dev has 2 nodes"),
        ({"np": 5}, "-n 5: there are 4 ranks on dev"),
        ({"np": 4, "nnodes": "1"}, "-n 4: there are 2 ranks on dev"),
        ({"np": 3, "stdin": 3}, "--stdin 3: no such rank"),
        ({"ranks": (0, 4)}, "--ranks 4: no such rank"),
    ],
)
def test_a_run_may_not_have_more(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        nodes_of_run(RunOptions(("argv", given)), "dev", PLAN)


def test_a_shell_in_a_job_has_a_terminal_and_the_gpus() -> None:
    words = slurm_step.shell("n2", ["bash"], "12", 4)
    assert {"--jobid=12", "--nodelist=n2", "--gpus=4", "--overlap", "--pty"} <= set(words)
    assert "bash" == words[-1] and not any(word.startswith("--input") for word in words), "srun --pty sets it"
