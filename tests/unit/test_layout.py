"""Ranks are numbered host by host, named as in torchrun, and written in short notation."""

from __future__ import annotations

from random import Random

import pytest

from muster.core.layout import fill, fold, layout, named, started_by, unfold
from muster.core.model import Host, Node
from muster.errors import InvalidRequest

TWO_NODES = layout([(Host("a"), 2), (Host("b", cpus=((0, 1), (2, 3), (4, 5))), 3)])

FOLDED = [
    ([], ""),
    ([3], "3"),
    ([0, 1], "0-1"),
    ([0, 1, 2, 5], "0-2,5"),
    ([9, 7, 8, 3, 3], "3,7-9"),
    ([0, 2, 4], "0,2,4"),
]

UNFOLDED = [
    ("3", (3,)),
    ("0,4-7", (0, 4, 5, 6, 7)),
    ("7-7", (7,)),
    ("5,0-1", (5, 0, 1)),
    ("0-2,1-3", (0, 1, 2, 3)),
    (" 1, 2 ", (1, 2)),
]

UNREADABLE = ["", "x", "1,", "3-1", "-1", "1-", "1-2-3", "0..3", "1.5"]

SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}

TORCHRUN = ("/opt/venv/bin/python", "/opt/venv/bin/torchrun", "--nproc-per-node", "4", "train.py")
STEPD = ("slurmstepd: [12.0]",)
PROMPT = ("-bash",)
SCRIPT = ("bash", "run.sh")
OF_TORCHRUN = {"RANK": "0", "WORLD_SIZE": "4"}
STARTED_BY = [
    ("nobody", {}, [TORCHRUN], None),
    ("torchrun", OF_TORCHRUN, [TORCHRUN], ("torchrun", 4)),
    ("torchrun, by a script", OF_TORCHRUN, [SCRIPT, TORCHRUN, PROMPT], ("torchrun", 4)),
    ("torchrun, by conda", OF_TORCHRUN, [("python", "/opt/conda/bin/conda", "run"), TORCHRUN], ("torchrun", 4)),
    ("its older name", OF_TORCHRUN, [("python3.11", "-u", "-m", "torch.distributed.run", "x")], ("torchrun", 4)),
    ("accelerate", OF_TORCHRUN, [("python", "/opt/bin/accelerate", "launch", "x.py")], ("torchrun", 4)),
    ("muster", OF_TORCHRUN, [("/usr/bin/python3", "-I", "-S", "-c", "f=open(0,…)")], ("muster", 4)),
    ("variables that a shell has kept", {"RANK": "3", "WORLD_SIZE": "8"}, [PROMPT, ("sshd: ann@pts/1",)], None),
    ("the same in a script", {"RANK": "3", "WORLD_SIZE": "8"}, [SCRIPT, PROMPT], None),
    ("a shell in a rank", OF_TORCHRUN, [("zsh",), TORCHRUN], None),
    ("a rank that starts muster", OF_TORCHRUN, [("python", "train.py", "--launcher", "torchrun"), TORCHRUN], None),
    ("and by a shell", OF_TORCHRUN, [("sh", "-c", "muster run x.py"), ("python", "train.py"), TORCHRUN], None),
    ("srun, once a task", SLURM, [STEPD], ("srun", 4)),
    ("srun, as one task", {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, [STEPD], None),
    ("a batch script", {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, [SCRIPT, STEPD], None),
    ("variables of srun that were kept", SLURM, [PROMPT], None),
    (
        "Open MPI",
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        [("/usr/bin/mpirun", "-n", "2", "muster")],
        ("Open MPI's mpirun", 2),
    ),
    ("MPICH", {"PMI_RANK": "1", "PMI_SIZE": "3"}, [("/usr/bin/hydra_pmi_proxy", "--x")], ("MPICH's mpiexec", 3)),
    ("one rank of torchrun", {"RANK": "0", "WORLD_SIZE": "1"}, [TORCHRUN], None),
    ("a number of ranks that is none", {"RANK": "0", "WORLD_SIZE": "many"}, [TORCHRUN], None),
    ("half of torchrun's variables", {"WORLD_SIZE": "4"}, [TORCHRUN], None),
]


def test_ranks_are_numbered_host_by_host() -> None:
    """In the given order; local ranks start at 0 on each node."""
    numbers = [
        (rank.rank, rank.local_rank, rank.node, rank.local_world_size) for node in TWO_NODES for rank in node.ranks
    ]
    assert numbers == [(0, 0, 0, 2), (1, 1, 0, 2), (2, 0, 1, 3), (3, 1, 1, 3), (4, 2, 1, 3)]
    assert {(rank.world_size, rank.nodes) for node in TWO_NODES for rank in node.ranks} == {(5, 2)}
    assert [(node.number, node.host.name) for node in TWO_NODES] == [(0, "a"), (1, "b")]


def test_each_local_rank_has_the_cores_of_its_host() -> None:
    """If the host names none, a rank may use all."""
    cores = [rank.cpus for node in TWO_NODES for rank in node.ranks]
    assert cores == [(), (), (0, 1), (2, 3), (4, 5)]


def test_no_hosts_no_nodes() -> None:
    nothing: tuple[Node, ...] = ()
    assert layout([]) == nothing


@pytest.mark.parametrize(("numbers", "text"), FOLDED)
def test_a_set_of_ranks_is_written_shortly(numbers: list[int], text: str) -> None:
    assert fold(numbers) == text


@pytest.mark.parametrize(("text", "numbers"), UNFOLDED)
def test_user_notations_are_parsed(text: str, numbers: tuple[int, ...]) -> None:
    """In the given order, each rank once."""
    assert unfold(text) == numbers


def test_folding_is_reversible() -> None:
    for seed in range(200):
        random = Random(seed)
        numbers = {random.randrange(40) for _ in range(random.randint(1, 30))}
        assert unfold(fold(numbers)) == tuple(sorted(numbers)), seed


@pytest.mark.parametrize("text", UNREADABLE)
def test_other_words_are_no_ranks(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        unfold(text, "cores")
    assert str(caught.value) == f"invalid cores: `{text}`\nhint: write them as `0,4-7`"


def test_one_rank_is_named_in_the_singular() -> None:
    assert [named([3]), named([2, 0, 1, 5])] == ["rank 3", "ranks 0-2,5"]


def test_a_template_is_filled_in() -> None:
    assert fill("out-{rank}of{world_size}-{{x}}", {"rank": 3, "world_size": 8}, "--wrap") == "out-3of8-{x}"


@pytest.mark.parametrize("template", ["{nope}", "{", "{0}", "{}", "{rank.x}", "{rank:zz}", "{rank[0]}"])
def test_a_template_that_cannot_be_filled_in_is_an_error_in_words(template: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fill(template, {"rank": 3}, "--wrap")
    assert caught.value.sentence == f"invalid placeholder in `--wrap {template}`"
    assert caught.value.hint == "use {rank}; write a literal brace as `{{`"


@pytest.mark.parametrize(
    ("env", "ancestors", "expected"), [row[1:] for row in STARTED_BY], ids=[row[0] for row in STARTED_BY]
)
def test_muster_sees_whether_it_was_started_as_one_of_several(
    env: dict[str, str], ancestors: list[tuple[str, ...]], expected: tuple[str, int] | None
) -> None:
    assert started_by(env, ancestors) == expected
