"""What a machine limits: memory for long lines, sizes of files, lengths of paths, temporary directories, PID 1."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest
from peak_memory import measured, peak_of
from program import Muster

_SANDBOX = ["unshare", "--mount", "--propagation", "private"]


def _can_mount() -> bool:
    try:
        return subprocess.run([*_SANDBOX, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(not _can_mount(), reason="needs the right to mount, in a namespace of its own")


def test_a_line_of_200_mb_and_nuls_take_bounded_memory(muster: Muster, tmp_path: Path) -> None:
    """The peak of the whole line was three times its length."""
    shown = tmp_path / "shown"
    line = measured(muster.argv("run", "-g", "1", "--", "head", "-c", "200000000", "/dev/zero"))
    with open(shown, "wb") as file:
        done = subprocess.run(line, env=muster.env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE)
    assert done.returncode == 0, (done.stderr, shown.read_bytes()[-500:])
    assert peak_of(done.stderr.decode()) < 330 << 10, "in KiB"
    assert (muster.newest() / "attempt_0/rank_00000.out").stat().st_size == 200_000_000
    assert shown.stat().st_size > 200_000_000, "all of it is shown, in several lines"


def test_a_limit_of_file_sizes_that_is_too_small_is_named(muster: Muster) -> None:
    limit = (4096, 4096)
    muster.env["PYTHONDONTWRITEBYTECODE"] = "1"  # Python would keep what was cut short, in the cache of all tests
    done = muster("run", "-g", "1", "--", "true", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 2
    assert "File too large" in done.stderr and "ulimit -f unlimited" in done.stderr, done.stderr


def test_paths_that_are_longer_than_a_socket_may_have(muster: Muster, tmp_path: Path) -> None:
    """A path of a socket has 107 bytes at most."""
    long = tmp_path / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    muster.env.update(TMPDIR=str(long), MUSTER_HOME=str(long / "home"))
    done = muster("run", "-d", "-g", "2", "--", "sh", "-c", "echo $RANK")
    assert done.returncode == 0, done.stderr
    assert muster("wait", "last").returncode == 0
    assert sorted(muster("logs", "last").stdout.splitlines()) == ["[0] 0", "[1] 1"]


@mounts
@pytest.mark.parametrize("how", ["noexec", "size=64k"])
def test_a_temporary_directory_that_is_noexec_or_full(muster: Muster, tmp_path: Path, how: str) -> None:
    """The runs are kept elsewhere; only /tmp itself is so."""
    fill = "head -c 100000 /dev/zero >/mnt/full 2>/dev/null;" if how.startswith("size") else ""
    inside = f'mount -t tmpfs -o {how} none /mnt && {{ {fill} mount --bind /mnt "$TMPDIR"; }} && exec "$@"'
    muster.env["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    for words in (["run", "-g", "2", "--", "sh", "-c", "echo $RANK"], ["run", "-d", "-g", "2", "--", "true"]):
        argv = [*_SANDBOX, "sh", "-c", inside, "sh", *muster.argv(*words)]
        done = subprocess.run(argv, env=muster.env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert muster("wait", "last").returncode == 0


@mounts
def test_as_the_first_process_of_a_container_without_an_init(muster: Muster, tmp_path: Path) -> None:
    """Orphaned processes of ranks are waited for, and reaped."""
    words = ["run", "-g", "2", "--", "sh", "-c", "(setsid sleep 0.3 >/dev/null 2>&1 &); echo $RANK"]
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *muster.argv(*words)]
    done = subprocess.run(argv, env=muster.env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] 0", "[1] 1"]


def test_a_job_whose_record_cannot_be_written_is_cancelled(muster: Muster, tmp_path: Path) -> None:
    """No command would know of it, and the job would start without its run directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    spoils = 'for run in "$MUSTER_HOME"/runs/*; do mkdir "$run/job.json"; done; echo 77'
    said = {"sbatch": spoils, "scancel": 'echo "$*" >"$MUSTER_HOME/cancelled"', "srun": "", "squeue": "", "sinfo": ""}
    for name, text in {**said, "scontrol": ""}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    muster.env["PATH"] = f"{programs}:{muster.env['PATH']}"
    done = muster("run", "--slurm", "-N", "1", "-g", "1", "--", "true")
    assert done.returncode == 2 and "cannot write the run directory" in done.stderr, done.stderr
    assert (muster.home / "cancelled").read_text() == "77\n"
    assert not list((muster.home / "runs").iterdir())
