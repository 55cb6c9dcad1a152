"""What a run used against what it had: the numbers, the sentence of advice, and where nothing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_status import made

from muster.core.accounting import Granted, NodeUse, RunUse, advice
from muster.core.layout import layout
from muster.core.model import Host, Job, Program, as_json
from muster.core.results import RankExit, RankUsage, RunResult, RunState
from muster.launchers import make_plan
from muster.rundir.accounting import GRANTED, use_of
from muster.schedulers.slurm_step import granted
from muster.ui.accounting_text import advice_in_words, stats_in_words, use_in_words

GIB = 1 << 30
NODE = NodeUse("n1", 16, 16 * 3600.0, 64 * GIB, 40 * GIB, allocated=True)


def used(seconds: float = 3600.0, **more: Any) -> RunUse:
    return RunUse(seconds, (NODE._replace(**more),))


ADVICE: dict[str, dict[str, Any]] = {
    "asked for 64 GiB of memory a node, used 9.0 GiB: --mem 12G would be enough": {"peak": 9 * GIB},
    "asked for 64 GiB of memory a node, used 63 GiB: ask for --mem 82G, to be safe": {"peak": 63 * GIB},
    "asked for 16 cores a node, used 3.0: 4 would be enough": {"core_seconds": 3 * 3600.0},
    "asked for 8 GPUs, which computed 12% of the time; "
    "`muster show --slow` and `muster report` show what ranks waited for": {"gpus": 8, "gpu_use": 0.12},
}


@pytest.mark.parametrize("words", ADVICE)
def test_the_advice_is_one_sentence(words: str) -> None:
    assert words == advice_in_words(used(**ADVICE[words]))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"peak": 9 * GIB, "allocated": False},
        {"core_seconds": 3 * 3600.0, "allocated": False},
        {"core_seconds": 3 * 3600.0, "gpus": 8, "gpu_use": 0.9},
        {"peak": GIB, "memory": 2 * GIB + 1},
        {"seconds": 30.0, "peak": GIB},
    ],
)
def test_nothing_is_advised_where_it_was_about_right_or_not_asked_for(more: dict[str, Any]) -> None:
    assert advice(used(**more)) is None


def test_the_line_of_show() -> None:
    line, told = use_in_words(used(peak=9 * GIB, gpus=2, gpu_use=0.5))
    memory = "memory peak 9.0 GiB of 64 GiB"
    assert f"used     16.0 of 16 cores; {memory}; 16 core hours; 2.0 GPU hours, 50% of the time in use" == line
    assert told.startswith("advice   asked for 64 GiB")


def test_the_sum_of_runs() -> None:
    uses = [used(peak=9 * GIB), used(gpus=4, gpu_use=0.5)]
    first, second, third = stats_in_words(["succeeded", "failed", "succeeded"], uses).split("\n")
    assert "3 runs: 2 succeeded, 1 failed" == first
    assert "2h of runs, 32 core hours, 4.0 GPU hours, 50% of the time in use" == second
    assert third.startswith("1 run asked for much more")


def test_what_slurm_gave() -> None:
    out = """   NumNodes=2
     Nodes=n[1-2] CPU_IDs=0-7,16 Mem=65536 GRES=gpu:a100:4(IDX:0-3)
     Nodes=n3 CPU_IDs=0 Mem=0 GRES=
"""
    each = Granted(9, 64 * GIB, 4)
    assert {"n1": each, "n2": each, "n3": Granted(1, 0, 0)} == granted(out)


def samples(attempt: int, cpu: list[float | None], memory: list[float | None]) -> dict[str, Any]:
    """The samples of one attempt on one node with one rank, taken each second."""
    times = list(range(len(cpu)))
    rank = {"memory": memory, "children_memory": [0.0] * len(cpu), "cpu": cpu, "step": [None] * len(cpu)}
    machine = {"total": 128 * GIB, "cores": 32, "memory": [1.0] * len(cpu), "cpu": [1.0] * len(cpu)}
    about = {"node": 0, "attempt": attempt, "began": 1000.0, "times": times}
    return {**about, "ranks": {"0": rank}, "gpus": {}, "machine": machine}


def run_of(tmp_path: Path, *attempts: dict[str, Any], **files: Any) -> Any:
    job = Job(Program("command", ("true",)), "exec", "python", "", "/")
    plan = make_plan(job, layout([(Host("n1"), 1)]), "run")
    found = {f"attempt_{of['attempt']}/resources_0.json": of for of in attempts}
    return made(tmp_path, files={"plan.json": as_json(plan), **found, **files})


USAGE = RankUsage(peak_memory=5 * GIB, user=2.0, system=1.0, children_cpu=1.0)


def test_what_was_measured_is_summed_over_attempts(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        samples(0, [None, 100.0, 50.0], [GIB, 8 * GIB, GIB]),
        samples(1, [None, 100.0], [GIB, GIB]),
        **{GRANTED: {"n1": {"cores": 4, "memory": 16 * GIB, "gpus": 0}}},
    )
    outcome = RunResult(RunState.SUCCEEDED, 0, 10.0, 1, exits=(RankExit(0, 0, 0, None, usage=USAGE),))
    use = use_of(run, outcome)
    assert use is not None
    (node,) = use.nodes
    assert (4, 16 * GIB, True, 8 * GIB) == (node.cores, node.memory, node.allocated, node.peak)
    assert 1.5 + 4.0 == node.core_seconds, "the samples of the first attempt, and what the kernel counted in the last"


def test_without_a_scheduler_it_is_the_machine(tmp_path: Path) -> None:
    use = use_of(run_of(tmp_path, samples(0, [None, 100.0], [GIB, 2 * GIB])), RunResult(RunState.FAILED, 1, 10.0))
    assert use is not None
    (node,) = use.nodes
    assert (32, 128 * GIB, False, 2 * GIB) == (node.cores, node.memory, node.allocated, node.peak)


def test_without_measurements_nothing_is_known(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert use_of(run, RunResult(RunState.FAILED, 1, 10.0)) is None
    (run.path / GRANTED).write_text(json.dumps({"n1": {"cores": -1}}))
    assert use_of(run, RunResult(RunState.FAILED, 1, 10.0, exits=(RankExit(0, 0, 0, None, usage=USAGE),))) is not None
