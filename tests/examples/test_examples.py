"""Each example does what its first lines say: alone, with its host file, and with each profile of its muster.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

WHAT_PLANS_SAY = {
    "here": "preload   transformers.models.gpt2.modeling_gpt2",
    "debug": "stdin     this terminal, for rank 0",
    "hosts": "fork, 6 ranks on 3 nodes",
    "cluster": "#SBATCH --comment='muster examples'",
}


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("distributed_sum.py", "the sum of 0 to 0 is 0, as it should be"),
        ("train_ddp.py", "epoch 1: loss 0.5804 on 1 ranks"),
    ],
)
def test_it_runs_alone(env: dict[str, str], tmp_path: Path, name: str, last: str) -> None:
    argv = [sys.executable, str(EXAMPLES / name)]
    free = {**env, "MASTER_PORT": "0"}  # distributed_sum.py has a fixed port, which another test may use
    done = subprocess.run(argv, env=free, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (0, last) == (done.returncode, done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("name", ["trainer.py", "rollouts.py"])
def test_the_page_about_roles_shows_it(name: str) -> None:
    """The test of the page runs it."""
    page = (EXAMPLES.parent / "docs" / "roles.md").read_text()
    assert f"$ cat {name}\n{(EXAMPLES / name).read_text()}$" in page


def test_the_host_file_is_one(muster: Any) -> None:
    done = muster("plan", "--hostfile", str(EXAMPLES / "hosts"), "-g", "2", str(EXAMPLES / "distributed_sum.py"))
    assert 0 == done.returncode, done.stderr
    assert "fork, 6 ranks on 3 nodes" in done.stdout
    for host, ranks in (("n1", "0-1"), ("n2", "2-3"), ("n3", "4-5")):
        assert f"forks ranks {ranks}" in done.stdout.partition(f"on {host}: ")[2].partition("\n\n")[0]


def test_each_profile_is_tried_here() -> None:
    tables = [
        line.split("]")[0] for line in (EXAMPLES / "muster.toml").read_text().splitlines() if line[:9] == "[profile."
    ]
    assert [f"[profile.{name}" for name in WHAT_PLANS_SAY] == tables


@pytest.mark.parametrize("profile", WHAT_PLANS_SAY)
def test_every_profile_makes_a_plan(muster: Any, profile: str) -> None:
    done = muster("plan", "--profile", profile, "train_llm.py", cwd=EXAMPLES)
    assert (0, True) == (done.returncode, WHAT_PLANS_SAY[profile] in done.stdout), done.stderr
