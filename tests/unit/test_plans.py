"""Plans of every launcher as text, and properties of all of them."""

from __future__ import annotations

import json
import re
from typing import Callable

import pytest

from muster.core.json_records import outcome_from_json, plan_from_json
from muster.core.layout import layout
from muster.core.model import Host, Job, Late, Node, Plan, Program, as_json
from muster.core.results import (
    Failure,
    FailureKind,
    Leftover,
    RankExit,
    RunResult,
    RunState,
    StopKind,
    StopReason,
)
from muster.errors import InvalidRequest
from muster.launchers import LAUNCHERS, make_plan
from muster.ui.plan_text import plan_in_words

RUN_ID = "20261121-120000-ab12-train"

SHAPES: dict[str, tuple[Node, ...]] = {
    "1-rank": layout([(Host("a", threads=2), 1)]),
    "4-ranks": layout([(Host("a", threads=2), 4)]),
    "2-gpus": layout([(Host("a", gpus=("2", "3")), 1)]),
    "2-and-2-ranks": layout([(Host("n01", threads=2), 2), (Host("n02", threads=2), 2)]),
    "2-and-3-ranks": layout([(Host("n01", threads=2), 2), (Host("n02", threads=2), 3)]),
}

JOB = Job(
    program=Program("script", ("train.py", "--lr", "0.1")),
    launcher="fork",
    python="/venv/bin/python",
    python_source="the active virtual environment",
    cwd="/home/ann/work",
)

FULL = JOB._replace(
    program=Program("module", ("pkg.train", "--lr", "0.1")),
    env={"HF_HOME": "/data/hf"},
    setup=("module load cuda", "source env.sh"),
    preload=("transformers",),
    grace=2.5,
    timeout=3600.0,
    max_restarts=3,
)

WORDS = (
    'dir with spaces/it\'s "quoted".py',
    "",
    "a b",
    "$HOME `date` \\n",
    "one\ntwo",
    "größe=10µ",
    "--flag=x;y",
)

PLANS: dict[str, tuple[Job, str]] = {
    **{f"fork-{shape}": (JOB, shape) for shape in SHAPES if shape != "2-gpus"},
    **{f"exec-{shape}": (JOB._replace(launcher="exec"), shape) for shape in SHAPES if shape != "2-gpus"},
    "fork-all-options": (FULL, "2-gpus"),
    "fork-words": (JOB._replace(program=Program("script", WORDS)), "1-rank"),
    "exec-words": (
        JOB._replace(launcher="exec", program=Program("command", WORDS), env={"TEXT": "one\ntwo"}),
        "1-rank",
    ),
    "exec-wrap": (
        JOB._replace(launcher="exec", wrap=("nsys", "-o", "{rank}of{world_size}@{node}.{run}")),
        "2-and-3-ranks",
    ),
    "exec-command": (JOB._replace(launcher="exec", program=Program("command", ("./train", "--steps", "9"))), "4-ranks"),
}
FOREIGN = {
    f"{name}-2-and-2-ranks": (
        JOB._replace(launcher=name, transport="step", scheduler="slurm", allocation="12"),
        "2-and-2-ranks",
    )
    for name, launcher in LAUNCHERS.items()
    if launcher.foreign
}
FOREIGN["torchrun-arguments"] = (
    JOB._replace(launcher="torchrun", launcher_args=("--rdzv-backend=c10d",)),
    "2-and-2-ranks",
)
FOREIGN["mpirun-of-mpich-here"] = (JOB._replace(launcher="mpirun", launcher_args=("mpiexec.hydra", "-v")), "4-ranks")
FOREIGN["spawn-by-itself"] = (JOB._replace(launcher="spawn", script_spawns=True), "2-and-2-ranks")
FOREIGN["submitit-here"] = (JOB._replace(launcher="submitit"), "4-ranks")


def test_mpi_gets_names_that_it_takes() -> None:
    """Open MPI hangs after an error about `gpu_1`; the names are restored where its daemons are started."""
    nodes = layout([(Host("gpu_1"), 1), (Host("n2"), 1)])
    (command,) = make_plan(JOB._replace(launcher="mpirun", transport="ssh"), nodes, RUN_ID).commands
    start, reach = (repr(file.text) for file in command.files)
    assert "--host muster-node-0:1,n2:1 " in start and "gpu_1" not in start
    assert '[ "$1" = muster-node-0 ] && shift && set -- gpu_1 "$@"' in reach


def make(job: Job, shape: str) -> Plan:
    return make_plan(job, SHAPES[shape], RUN_ID)


@pytest.mark.parametrize("name", [*PLANS, *FOREIGN])
def test_plan_in_words(name: str, golden: Callable[..., None]) -> None:
    """The output of `muster plan`."""
    made = make(*{**PLANS, **FOREIGN}[name])
    golden(f"plan-{name}.txt", plan_in_words(made, RUN_ID, "/home/ann/.muster/runs") + "\n")


@pytest.mark.parametrize("name", FOREIGN)
def test_an_external_launcher_gets_the_shim_and_nothing_of_the_user(name: str) -> None:
    """The command of each rank comes from the agent: no launcher has to quote it."""
    made = make(*FOREIGN[name])
    if made.rank_command is None:
        assert made.job.script_spawns
        return
    assert made.rank_command.argv == ("/venv/bin/python", "train.py", "--lr", "0.1")
    assert made.rank_command.args_index is not None
    assert made.rank_command.argv[: made.rank_command.args_index] == ("/venv/bin/python", "train.py")
    for command in made.commands:
        assert "train.py" not in command.argv
        assert (Late.SHIM, RUN_ID) in zip(command.argv, command.argv[1:])
    assert plan_from_json(json.loads(json.dumps(as_json(made)))) == made


@pytest.mark.parametrize("launcher", ["torchrun", "launch", "accelerate"])
def test_who_knows_no_uneven_nodes_says_so(launcher: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{launcher} requires the same number of ranks on each node, got 2 to 3"):
        make(JOB._replace(launcher=launcher), "2-and-3-ranks")


def test_srun_says_that_nodes_with_unlike_numbers_of_gpus_share_no_job_step() -> None:
    nodes = layout([(Host("n1", gpus=("0", "1", "2", "3")), 4), (Host("n2", gpus=("0",)), 1)])
    with pytest.raises(InvalidRequest, match=re.escape("different numbers of GPUs (4 on n1, 1 on n2)")):
        make_plan(JOB._replace(launcher="srun", transport="step", scheduler="slurm"), nodes, RUN_ID)


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (JOB._replace(launcher="spawn", program=Program("command", ("sh", "x"))), "--launcher spawn requires a Python"),
        (JOB._replace(launcher="srun"), "--launcher srun is not available here"),
        (JOB._replace(launcher="submitit", transport="ssh"), "--launcher submitit is not available here"),
        (JOB._replace(launcher="torchrun", wrap=("nsys",)), "--wrap is not supported with --launcher torchrun"),
        (JOB._replace(launcher="torchrun", stdin=0), "--stdin is not supported with --launcher torchrun"),
        (JOB._replace(launcher_args=("-v",)), "the built-in launcher fork takes none"),
    ],
)
def test_impossible_combinations_are_rejected(job: Job, says: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)) as caught:
        make(job, "2-and-2-ranks")
    assert caught.value.hint


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("launcher", [name for name, row in LAUNCHERS.items() if not row.foreign])
def test_every_rank_is_started_exactly_once(launcher: str, shape: str) -> None:
    """By a command of its own node."""
    plan = make(JOB._replace(launcher=launcher), shape)
    carried = [(command.node, rank) for command in plan.commands for rank in command.ranks]
    expected = [(node.number, rank) for node in SHAPES[shape] for rank in node.ranks]
    assert sorted(carried) == expected
    assert plan.world_size == len(expected)


@pytest.mark.parametrize("name", PLANS)
def test_words_reach_the_program_as_they_were_typed(name: str) -> None:
    """One word is one argument, whatever it holds; Python stands before a script, and where `python_index` says."""
    job = PLANS[name][0]
    for command in make(*PLANS[name]).commands:
        given = job.program.argv
        assert command.argv[-len(given) :] == given
        if job.program.kind == "command":
            assert (command.python_index, command.argv) == (None, given)
        else:
            assert command.python_index == len(job.wrap)
            assert command.argv[command.python_index] == job.python


def test_one_warm_interpreter_a_node_or_one_process_a_rank() -> None:
    shapes = {name: [command.fork_server for command in make(*PLANS[name]).commands] for name in PLANS}
    assert shapes["fork-2-and-3-ranks"] == [True, True]
    assert shapes["exec-2-and-3-ranks"] == [False] * 5


def test_wrap_is_filled_in_for_each_rank() -> None:
    """The rank, its node and the world size; signals then go to the whole process group."""
    commands = make(*PLANS["exec-wrap"]).commands
    assert [command.argv[:3] for command in commands][::4] == [
        ("nsys", "-o", f"0of5@0.{RUN_ID}"),
        ("nsys", "-o", f"4of5@1.{RUN_ID}"),
    ]
    assert {command.signal_group for command in commands} == {True}
    assert {command.signal_group for command in make(*PLANS["exec-4-ranks"]).commands} == {False}


def test_the_users_settings_come_last() -> None:
    """Over what muster sets for the ranks of a node."""
    job = FULL._replace(env={"CUDA_VISIBLE_DEVICES": "7", "WORLD_SIZE": "1"})
    env = make(job, "2-gpus").environments[0].env
    assert (env["CUDA_VISIBLE_DEVICES"], env["WORLD_SIZE"]) == ("7", "1")
    assert make(FULL, "2-gpus").environments[0].env["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_threads_are_left_alone_where_the_person_chose_them() -> None:
    """gloo is set to use `lo` only if all ranks are on one machine."""
    assert make(JOB, "4-ranks").environments[0].env_defaults["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in make(FULL, "2-gpus").environments[0].env_defaults
    one, two = (make(JOB, shape).environments[0].env_defaults for shape in ("4-ranks", "2-and-3-ranks"))
    assert (one["GLOO_SOCKET_IFNAME"], two["GLOO_SOCKET_IFNAME"]) == ("lo", Late.INTERFACE)


@pytest.mark.parametrize(
    "job",
    [JOB._replace(program=Program("command", ("ls",))), JOB._replace(wrap=("strace",))],
    ids=["a program", "a wrapper"],
)
def test_fork_refuses_what_it_cannot_fork(job: Job) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make(job, "1-rank")
    assert caught.value.hint == "use `--launcher exec`, or leave out `--launcher`"


# ---- as JSON --------------------------------------------------------------------------------------------------------

FIRST = RankExit(
    1, 0, 2.5, 1, failure=Failure(FailureKind.EXCEPTION, 2.25, "ValueError: x", ("Traceback", "ValueError: x"))
)

OUTCOMES = [
    RunResult(RunState.SUCCEEDED, 0, 1.5),
    RunResult(
        RunState.FAILED,
        1,
        3.25,
        attempt=2,
        stopped=StopReason(StopKind.OTHER, message="because"),
        root_cause=FIRST,
        exits=(RankExit(0, 0, 3.0, signal=15, by_muster=True), FIRST),
        leftovers=(Leftover("sleep", 7),),
    ),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.state)
def test_an_outcome_survives_its_file(outcome: RunResult) -> None:
    """Written as JSON and read back it is the same value."""
    assert outcome_from_json(json.loads(json.dumps(as_json(outcome)))) == outcome


def test_an_outcome_of_another_version_can_be_read() -> None:
    """Fields that a newer muster added are ignored; those that an older one did not write have their default."""
    data = as_json(OUTCOMES[1])
    data["colour"] = data["root_cause"]["colour"] = data["root_cause"]["failure"]["colour"] = "red"
    assert outcome_from_json(data) == OUTCOMES[1]
    assert outcome_from_json({"state": "failed", "code": 1, "duration": 2.0}) == RunResult(RunState.FAILED, 1, 2.0)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_can_be_written_down(name: str) -> None:
    """As JSON, every part under its name."""
    plan = make(*PLANS[name])
    data = json.loads(json.dumps(as_json(plan)))
    assert tuple(data) == Plan._fields
    assert [item["argv"] for item in data["commands"]] == [list(command.argv) for command in plan.commands]
    assert plan_from_json(data) == plan
    assert data["job"]["env"] == dict(plan.job.env)


@pytest.mark.parametrize(
    ("words", "title"),
    [("dir/train.py", "train"), ("pkg.train", "pkg.train"), ("folder/", "folder"), ("./run.sh", "run.sh")],
)
def test_a_program_has_a_short_name(words: str, title: str) -> None:
    assert Program("script", (words,)).title == title
