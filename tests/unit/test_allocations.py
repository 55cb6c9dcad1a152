"""Whether the job in SLURM_JOB_ID still exists: squeue of its own cluster decides, asked now."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.errors import InvalidRequest, Unreachable
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
    return f"{job}|{state}|None|n[1-2]|N/A|5:00|{job}|a name\n"


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
    kept = tmp_path / f"slurm-jobs-{socket.gethostname()}.json"
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


RECORD = "JobId=7 JobName=six\n{request}     Nodes=n[1-2] CPU_IDs=0 Mem=0 GRES={gres}\n"
"""What scontrol prints of a job, as far as it is read."""
NO_CONTACT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install an scontrol that fails in this way so many times before it prints this; returns the file of its calls."""
    monkeypatch.setattr(client, "_AGAIN", 0.01)
    monkeypatch.setattr(client, "_GPUS_WITHIN", 2.0)
    monkeypatch.setattr(client, "_GPUS_AGAIN", 3.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(record: str, times: int = 0, failing: str = "") -> Path:
        calls, answer = tmp_path / "calls", tmp_path / "answer"
        calls.write_text("")
        answer.write_text(record)
        (tmp_path / "scontrol").write_text(
            f"#!/bin/sh\necho >>'{calls}'\n[ $(wc -l <'{calls}') -gt {times} ] || {{ {failing or ':'}; }}\n"
            f"exec cat '{answer}'\n"
        )
        (tmp_path / "scontrol").chmod(0o755)
        return calls

    return install


TWO = RECORD.format(request="   TresPerJob=gres:gpu:4\n", gres="gpu:2(IDX:0-1)")


@pytest.mark.parametrize(
    "failing",
    [
        f"echo '{NO_CONTACT}' >&2; exit 1",
        "exec sleep 60",
        "echo nonsense; exit 0",
        "echo 'JobId=7'; exit 0",
        f"cat <<'END'\n{RECORD.format(request='TresPerJob=gres:gpu:4', gres='gpu:0(IDX:)')}END\nexit 0",
    ],
)
def test_the_gpus_of_a_job_are_asked_for_again(scontrol: Callable[..., Path], failing: str) -> None:
    """Slurm may be busy for a moment; steps would be started without any, and ranks would compute on the CPU."""
    calls = scontrol(TWO, 1, failing)
    assert {"n1": 2, "n2": 2} == client.SchedulerClient("slurm").gpus_by_host(FOUND, {"SLURM_GPUS": "4"})
    assert 2 == len(calls.read_text().splitlines())


@pytest.mark.parametrize(
    ("record", "failing", "env", "says"),
    [
        (
            RECORD.format(request="   TresPerJob=gres:gpu:6\n", gres="gpu:toy:0(IDX:)"),
            "",
            {},
            "Slurm allocated no GPU to job 7, which requested gres:gpu:6",
        ),
        (
            "JobId=7 JobName=six\n",
            "",
            {"SLURM_JOB_GPUS": "0,1"},
            "cannot determine the GPUs of job 7: scontrol lists none, but the job requested SLURM_JOB_GPUS=0,1",
        ),
        (
            "",
            f"echo '{NO_CONTACT}' >&2; exit 1",
            {"SLURM_GPUS": "6"},
            "cannot determine the GPUs of job 7: scontrol gave no answer, but SLURM_GPUS=6 is set",
        ),
        (
            "",
            "exec sleep 60",
            {"SLURM_GPUS_ON_NODE": "4"},
            "cannot determine the GPUs of job 7: scontrol gave no answer, but SLURM_GPUS_ON_NODE=4 is set",
        ),
    ],
)
def test_a_job_that_requested_gpus_does_not_start_without(
    scontrol: Callable[..., Path], record: str, failing: str, env: dict[str, str], says: str
) -> None:
    calls = scontrol(record, 10**6 if failing else 0, failing)
    with pytest.raises(Unreachable) as refused:
        client.SchedulerClient("slurm").gpus_by_host(FOUND, env)
    assert says == refused.value.message
    assert "`scontrol show job --details 7`" in (refused.value.hint or "")
    assert len(calls.read_text().splitlines()) > 1


@pytest.mark.parametrize(
    ("record", "failing", "env", "found"),
    [
        (RECORD.format(request="", gres=""), "", {}, 0),
        (RECORD.format(request="", gres=""), "", {"SLURM_JOB_GPUS": "0,1"}, 0),  # left from another job
        (RECORD.format(request="   TresPerNode=gres:gpu:0\n", gres=""), "", {}, 0),
        ("JobId=7\n", "", {}, None),
        ("", "exit 1", {}, None),
    ],
)
def test_a_job_without_gpus(
    scontrol: Callable[..., Path], record: str, failing: str, env: dict[str, str], found: int | None
) -> None:
    calls = scontrol(record, 10**6 if failing else 0, failing)
    assert {"n1": found, "n2": found} == client.SchedulerClient("slurm").gpus_by_host(FOUND, env)
    assert bool(failing) == (len(calls.read_text().splitlines()) > 1)


def test_without_scontrol_the_gpus_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {"n1": None, "n2": None} == client.SchedulerClient("slurm").gpus_by_host(FOUND, {})
