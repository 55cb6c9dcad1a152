"""What a script can do as a rank: learn of a preemption, report progress, find the other ranks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import muster
from muster.agent.rank_info import Identity
from muster.errors import InvalidRequest
from muster.protocol.progress_file import reported_step
from muster.python import rank


@pytest.fixture(autouse=True)
def usual_signal() -> Iterator[None]:
    """Restore the handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_preemption_saves_once_and_is_seen_by_the_script() -> None:
    saved: list[str] = []
    notice = muster.on_preemption(lambda: saved.append("checkpoint"))
    assert not notice
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert notice
    assert saved == ["checkpoint"]


def test_preemptions_are_handled_in_the_main_thread_only() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            muster.on_preemption()
        except InvalidRequest as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "not in the main thread" in str(failed[0])


def test_progress_is_a_small_file_beside_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "_PROGRESS", rank._Progress())
    monkeypatch.setattr(rank, "_EVERY", 3600.0)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "rank_00003.error.json"))
    path = tmp_path / "rank_00003.progress"
    muster.progress(1, 100)
    muster.progress(2, 100)  # too soon after the first
    assert reported_step(str(tmp_path), 3) == {"step": 1, "steps": 100}
    muster.progress(100, 100)  # the last is always written
    assert reported_step(str(tmp_path), 3) == {"step": 100, "steps": 100}
    assert path.stat().st_size == 64


def test_progress_elsewhere_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "_PROGRESS", rank._Progress())
    for value in (str(tmp_path / "error.json"), ""):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", value)
        muster.progress(1)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"", b"x y", b"-1 5", b"99999999999999 3", b"7 - 1.0"])
def test_what_is_no_number_in_a_progress_file_is_no_progress(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "rank_00003.progress").write_bytes(text)
    assert reported_step(str(tmp_path), 3) == ({"step": 7} if text.startswith(b"7") else {})


def test_ranks_find_each_other_under_launchers_that_set_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    here = Identity("Open MPI's mpirun", 1, 2, 1, 2, None)
    found = rank._meeting(here)
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert found == rank._meeting(here._replace(rank=0)), "all ranks derive the same"
    with pytest.raises(InvalidRequest, match="does not tell how its ranks find each other"):
        rank._meeting(here._replace(local_world_size=1))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n2,n3")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert rank._meeting(Identity("srun", 1, 2, 0, 1, 1)) == {"MASTER_ADDR": "n2", "MASTER_PORT": "10218"}
    monkeypatch.setenv("MASTER_ADDR", "n9")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert rank._meeting(here) == {}
