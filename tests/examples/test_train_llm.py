"""examples/train_llm.py resumes after a kill as if nothing had happened, and it needs no network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = str(EXAMPLES / "train_llm.py")
LAB = pytest.mark.lab  # `transformers` in many processes takes minutes
ENDS_EARLY = str(Path(__file__).with_name("ends_early.py"))

# imports of the script, and late imports of transformers: once, and not in each attempt
WARM = "transformers.models.gpt2.modeling_gpt2,transformers.models.auto.modeling_auto,transformers.optimization"
SMALL = ["--layers", "2", "--width", "32", "--heads", "2", "--seq-length", "32", "--log-freq", "1"]

# There are 12 steps, 4 per epoch, and a checkpoint every second step.
MOMENTS = [  # when the uninterrupted training has ended; and the step after which the next attempt continues
    ("first:half-a-file:1", 0),  # of start.pt
    ("last:step:2", 0),
    ("first:half-a-file:1", 0),  # of the first checkpoint
    ("first:before-replace:2", 2),  # the checkpoint of step 4
    ("all:step:4", 4),
    ("last:preempted:1", 5),  # where no checkpoint is due, and only one rank has received the signal
    ("first:after-replace:1", 6),
    ("last:backward:3", 6),  # the first one is ignored, and this one would have exchanged the gradients
]


@pytest.fixture
def env(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment without network, and without files downloaded before."""
    return {**env, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hugging face")}


def python(env: dict[str, str], cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=240)


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", "loss", "lr")} for line in lines]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=LAB), 2, pytest.param(4, marks=LAB)])
def test_interrupted_at_any_moment_it_ends_with_the_same_bits(muster: Any, tmp_path: Path, ranks: int) -> None:
    moments = [moment for moment, _ in MOMENTS]
    restarts = ["--max-restarts", "9", "--always-restart", "--restart-delay", "0"]
    words = ["-g", str(ranks), *restarts, "--preload", WARM, ENDS_EARLY, ",".join([*moments, "-"])]
    size = ["--batch-size", str(32 // ranks), "--grad-accum", "2", "--num-epochs", "3", "--ckpt-freq", "2"]
    done = muster("run", *words, *SMALL, *size, timeout=280)
    assert 0 == done.returncode, done.stderr

    attempts = range(1, len(MOMENTS) + 2)
    outs = ["".join(muster.log(rank, attempt=attempt).decode() for rank in range(ranks)) for attempt in attempts]
    assert [*({moment} for moment in moments), set()] == [set(re.findall("now: (.*)", out)) for out in outs]
    assert [0, *(step for _, step in MOMENTS)] == [int(re.findall("begins: .* step (.*) ", out)[0]) for out in outs]

    whole, interrupted = (log(tmp_path / "outputs" / name) for name in ("whole", "interrupted"))
    assert list(range(1, 13)) == [line["step"] for line in whole]
    assert whole == interrupted
    ((one, other),) = re.findall("ends: whole (.*) interrupted (.*)", outs[-1])
    assert one.startswith("after step 12 ")
    assert one == other


@LAB
def test_it_needs_no_network_and_no_muster_and_learns(env: dict[str, str], tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    options = ["--layers", "2", "--width", "64", "--seq-length", "64", "--num-epochs", "3", "--log-freq", "1"]
    done = python(env, tmp_path, *torchrun, *options)
    assert 0 == done.returncode, done.stderr
    losses = [line["loss"] for line in log(tmp_path / "outputs" / "llm")]
    assert losses[0] > 5.3
    assert losses[-1] < 4.5
    assert "saved after step 24 of 24 in outputs/llm" in done.stdout
    assert "it/s" not in done.stderr  # no progress bar without a terminal

    done = python(env, tmp_path, SCRIPT, *options)
    expected = "outputs/llm was started with ranks 2, not 1\nhint: use another --experiment-name\n"
    assert (1, expected) == (done.returncode, done.stderr)


def test_one_sentence_names_what_is_missing(env: dict[str, str], tmp_path: Path) -> None:
    done = python(env, tmp_path, SCRIPT, "--dataset-name", "tatsu-lab/alpaca")
    expected = (
        "cannot load tiny and tatsu-lab/alpaca: Couldn't reach 'tatsu-lab/alpaca' on the Hub (OfflineModeIsEnabled)\n"
        "hint: check the names and the network connection\n"
    )
    assert (1, expected) == (done.returncode, done.stderr)
    assert not (tmp_path / "outputs").exists()
