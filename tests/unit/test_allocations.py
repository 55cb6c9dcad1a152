"""Whether the job in SLURM_JOB_ID still exists: squeue of its own cluster decides, asked now."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.errors import InvalidRequest
from muster.schedulers import client, slurm_jobs
from muster.schedulers.scheduler import Allocation

ENV = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "1(x2)"}
FOUND = Allocation("7", ("n1", "n2"), 0, (1, 1))
ABSENT = "Slurm knows no such job of yours"

SQUEUE = """#!/bin/sh
case "$*" in
    *--jobs=7*--clusters=far*) answer=far ;;
    *--clusters=*) answer=nowhere ;;
    *--jobs=7*) answer=job ;;
    *) answer=all ;;
esac
cat "$0.$answer" && exit
echo "slurm_load_jobs error: ${error:-Invalid job id specified}" >&2
exit 1
"""


def line(state: str, job: str = "7") -> str:
    return f"{job}|{state}|None|n[1-2]|N/A|5:00|a name\n"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a fake squeue with these answers, and an scontrol of the cluster `home`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("squeue", SQUEUE), ("scontrol", "#!/bin/sh\necho 'ClusterName             = home'\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    client.client.cache_clear()

    def answers(**texts: str) -> None:
        for name, text in texts.items():
            (programs / f"squeue.{name}").write_text(text)

    return answers


def refused(root: Path, env: dict[str, str] = ENV) -> str:
    """Return why the allocation is rejected; empty if it is not."""
    try:
        assert client.client("slurm").allocation(env, root) == FOUND
    except InvalidRequest as error:
        return error.sentence.partition("in the environment: ")[2]
    return ""


@pytest.mark.parametrize("state", sorted({*slurm_jobs.STATES, "REVOKED", "NEW_IN_SOME_SLURM"}))
def test_a_job_that_may_still_run_is_used(squeue: Callable[..., None], tmp_path: Path, state: str) -> None:
    """Booting nodes, or a prolog, leave it CONFIGURING, and srun waits for that."""
    squeue(all=line(state), job=line(state))
    assert "" == refused(tmp_path)


@pytest.mark.parametrize("state", sorted(slurm_jobs.ENDS))
def test_a_job_that_is_over_is_not(squeue: Callable[..., None], tmp_path: Path, state: str) -> None:
    squeue(all=line(state), job=line(state))
    assert f"that job has ended ({state})" == refused(tmp_path)


@pytest.mark.parametrize("known", ["", line("PENDING"), line("COMPLETED"), line("RUNNING", "8")])
def test_an_answer_that_was_kept_refuses_nothing(squeue: Callable[..., None], tmp_path: Path, known: str) -> None:
    kept = tmp_path / f"slurm-queue-{socket.gethostname()}.json"
    kept.write_text(json.dumps({"time": time.time(), "said": known}))
    squeue(all=line("RUNNING"), job=line("RUNNING"))
    assert "" == refused(tmp_path)


def test_a_job_of_another_cluster(squeue: Callable[..., None], tmp_path: Path) -> None:
    """As `salloc -M far` leaves it; the default cluster may have had a job of that ID too."""
    far = {**ENV, "SLURM_CLUSTER_NAME": "far"}
    squeue(all=line("FAILED"), job=line("FAILED"), far=line("RUNNING"))
    assert "" == refused(tmp_path, far)
    assert "that job has ended (FAILED)" == refused(tmp_path, {**ENV, "SLURM_CLUSTER_NAME": "home"})
    squeue(far=line("TIMEOUT"))
    assert "that job has ended (TIMEOUT)" == refused(tmp_path, far)


def test_a_job_that_is_absent_and_an_answer_that_does_not_come(
    squeue: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(all="")
    assert ABSENT == refused(tmp_path)
    monkeypatch.setenv("error", "Unable to contact slurm controller (connect failure)")
    assert "" == refused(tmp_path)
    squeue(job="")
    assert ABSENT == refused(tmp_path)


def test_the_gpus_of_a_job_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm may be busy for a moment; steps would be started without any, and ranks would compute on the CPU."""
    (tmp_path / "scontrol").write_text(
        """#!/bin/sh
if [ -e "$0.asked" ]; then
    printf 'Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:2\\nNodes=n2 CPU_IDs=0 Mem=0 GRES=gpu:4\\n'
    exit
fi
touch "$0.asked"
echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2
exit 1
"""
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asks = client.SchedulerClient("slurm")
    assert {"n1": 2, "n2": 4} == asks.gpus_by_host(FOUND)
    (tmp_path / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {"n1": None, "n2": None} == asks.gpus_by_host(FOUND)
