"""Job steps whose command does not exit, as srun's that waits for a crashed node; and the nodes that a run claims."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.controller import job_steps
from muster.controller.batch_roles import StepGroup
from muster.controller.job_steps import AgentSteps
from muster.controller.node_claims import Claims
from muster.rundir.run import Run
from muster.runner import scheduled

unused: Any = None


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ignores SIGTERM."""
    process = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; read forever"], stdin=-1, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_steps_that_do_not_exit_hold_no_job(
    tmp_path: Path, deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_steps, "END_WELL", 0.1)
    group = StepGroup(unused, ("n1",), "python3", {})
    steps = AgentSteps(unused, Run(tmp_path), unused, unused, {}, unused, groups=[group])
    steps.steps.append(deaf)
    steps.terminate()
    assert -9 == deaf.returncode


def test_a_step_that_does_not_exit_holds_no_terminal(
    tmp_path: Path, deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled, "_STEP_ENDS", 0.1)
    scheduled._end(deaf, Run(tmp_path))
    assert -9 == deaf.returncode


def test_a_claim_ends_with_the_start_that_made_it(tmp_path: Path) -> None:
    with Claims(tmp_path, "slurm", "7") as first:
        assert ("n1",) == first.take(["n1", "n2"], 1, list)
        with Claims(tmp_path, "slurm", "7") as second:
            assert ("n2",) == second.take(["n1", "n2"], 1, list)
    with pytest.raises(ZeroDivisionError), Claims(tmp_path, "slurm", "7") as third:
        third.take(["n1", "n2"], 2, list)
        raise ZeroDivisionError
    with Claims(tmp_path, "slurm", "7") as fourth:
        assert ("n1", "n2") == fourth.take(["n1", "n2"], 2, pytest.fail)
