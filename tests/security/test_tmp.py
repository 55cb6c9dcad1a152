"""Files that other users plant in shared directories: none is followed, waited for, trusted or deleted."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from muster.linux import private_tmp

STRANGER = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which root alone can")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory writable for all users, like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def clean(muster: Any, shared: Path) -> str:
    """Return the output of `muster clean` with that temporary directory."""
    done = muster("clean", env={**muster.env, "TMPDIR": str(shared)}, timeout=240)
    assert 0 == done.returncode and "Traceback" not in done.stderr, done.stderr
    return str(done.stdout)


def given_away(path: Path) -> None:
    os.lchown(path, STRANGER, STRANGER)


def a_fifo(shared: Path, prey: Path) -> None:
    os.mkfifo(shared / "muster-00000001")


def a_link_to_a_folder_of_ours(shared: Path, prey: Path) -> None:
    (shared / "muster-00000002").symlink_to(prey)


def a_link_to_nothing(shared: Path, prey: Path) -> None:
    (shared / "muster-00000003").symlink_to(shared / "nowhere")


def a_folder_of_hers(shared: Path, prey: Path) -> None:
    folder = shared / "muster-00000004"
    folder.mkdir()
    (folder / "run").write_text("20260101-000000-abcde-forged")
    (folder / "rank.pyz").symlink_to(prey / "file")
    given_away(folder)


def one_of_ours_that_she_may_write_to(shared: Path, prey: Path) -> None:
    folder = shared / "muster-00000005"
    folder.mkdir()
    (folder / "run").write_text("20260101-000000-abcde-forged")
    folder.chmod(0o777)


def names_of_earlier_versions(shared: Path, prey: Path) -> None:
    name = "muster-20260101-000000-abcde-x.pyz"
    os.mkfifo(shared / name)
    given_away(shared / name)


PLANTED = (
    a_fifo,
    a_link_to_a_folder_of_ours,
    a_link_to_nothing,
    a_folder_of_hers,
    one_of_ours_that_she_may_write_to,
    names_of_earlier_versions,
)


def test_clean_leaves_what_is_planted(muster: Any, shared: Path, tmp_path: Path) -> None:
    prey = tmp_path / "prey"
    prey.mkdir(mode=0o700)
    (prey / "file").write_text("precious")
    (prey / "run").write_text("20260101-000000-abcde-forged")
    for plant in PLANTED:
        plant(shared, prey)
    planted = sorted(os.listdir(shared))
    assert "forged" not in clean(muster, shared)
    assert planted == sorted(os.listdir(shared))
    assert "precious" == (prey / "file").read_text()


def test_clean_takes_what_an_agent_left(muster: Any, shared: Path) -> None:
    path, kept = private_tmp.claim(str(shared), "a token", "20260101-000000-abcde-mine", b"text")
    os.mkfifo(f"{path}/fifo")
    (Path(path) / "rank.pyz.2").symlink_to("/dev/zero")
    assert 0o700 == os.stat(path).st_mode & 0o777
    assert "mine" not in clean(muster, shared)  # its agent is alive
    os.close(kept)
    assert f"20260101-000000-abcde-mine: cleaned up {path}" in clean(muster, shared)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("plant", ["folder", "file", "link", "fifo", "dangling link", "open folder"])
def test_a_name_that_is_taken(shared: Path, tmp_path: Path, plant: str) -> None:
    """The name cannot be predicted; and even if it were, nothing of muster's gets into a planted directory."""
    path = Path(claimed(shared))
    assert private_tmp.remove_dead(str(path))
    make: dict[str, Callable[[], Any]] = {
        "folder": path.mkdir,
        "file": path.touch,
        "link": lambda: path.symlink_to(tmp_path),
        "fifo": lambda: os.mkfifo(path),
        "dangling link": lambda: path.symlink_to(tmp_path / "new"),
        "open folder": lambda: [path.mkdir(), path.chmod(0o777)],  # type: ignore[func-returns-value]
    }
    make[plant]()
    if plant != "open folder":
        given_away(path)
    with pytest.raises(OSError, match="created by another user"):
        private_tmp.claim(str(shared), "a token", "run")
    assert not (tmp_path / "run").exists() and not (tmp_path / "new").exists()


def claimed(shared: Path, token: str = "a token") -> str:
    """Claim a directory as an agent does that is killed at once, and return its path."""
    path, lock = private_tmp.claim(str(shared), token, "20260101-000000-abcde-mine")
    os.close(lock)
    return path


def test_a_sweep_removes_what_a_killed_agent_left(shared: Path, tmp_path: Path) -> None:
    dead, (alive, lock) = claimed(shared), private_tmp.claim(str(shared), "other", "20260101-000000-abcde-alive")
    elsewhere = claimed(shared, "another machine")
    (Path(elsewhere) / "boot").write_text("of another machine")
    (Path(dead) / "socket").symlink_to(tmp_path)
    prey = tmp_path / "prey"
    prey.mkdir(mode=0o700)
    for name in ("run", "boot"):
        (prey / name).write_text((Path(dead) / name).read_text())
    for plant in PLANTED:
        plant(shared, prey)
    planted = set(os.listdir(shared)) - {os.path.basename(dead)}
    private_tmp.sweep({"TMPDIR": str(shared)})
    assert planted == set(os.listdir(shared))
    assert {"run", "boot", "rank.pyz"} == set(os.listdir(alive))
    assert {"run", "boot"} == set(os.listdir(prey))
    assert not private_tmp.remove_dead(alive)
    os.close(lock)
    assert private_tmp.remove_dead(alive) and not os.path.exists(alive)


def test_agents_that_claim_a_name_while_others_sweep_keep_it(shared: Path) -> None:
    """Each claims the directory that a killed agent has left: nobody sweeps it from then on."""
    claims = """
import os, sys
from muster.linux import private_tmp
for number in range(200):
    path, lock = private_tmp.claim(sys.argv[1], "a token", "20260101-000000-abcde-mine")
    for _ in range(3):
        private_tmp.sweep({"TMPDIR": sys.argv[1]})
        assert os.path.samestat(os.stat(path + "/rank.pyz"), os.fstat(lock)), number
    os.close(lock)
"""
    words = [sys.executable, "-c", claims, str(shared)]
    started = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(0, "")] * 3 == [(one.wait(120), one.communicate()[1]) for one in started]


def test_agents_of_one_run_share_it(shared: Path) -> None:
    (path, first), (other, second) = (private_tmp.claim(str(shared), "a token", "run", b"text") for _ in range(2))
    kept = [first, second]
    third, lock = private_tmp.claim(str(shared), "other", "run")
    os.close(lock)
    assert path == other != third
    assert {"run", "boot", "rank.pyz"} == set(os.listdir(path))
    os.close(kept[0])
    with pytest.raises(BlockingIOError), open(f"{path}/rank.pyz") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(kept[1])


def test_the_last_agent_of_a_run_removes_what_all_share(shared: Path) -> None:
    (path, first), (_, second) = (private_tmp.claim(str(shared), "a token", "run", b"text") for _ in range(2))
    private_tmp.release(path, first)
    assert {"run", "boot", "rank.pyz"} == set(os.listdir(path)), "ranks of the other one are still to be started"
    private_tmp.release(path, second)
    assert not os.path.exists(path)
    private_tmp.release(path, private_tmp.claim(str(shared), "a token", "run", b"text")[1])
    assert [] == os.listdir(shared)


def test_which_is_chosen() -> None:
    assert "/var/tmp" == private_tmp.agree([["/tmp", "/var/tmp"], ["/var/tmp", "/dev/shm"]], short=False)
    assert "" == private_tmp.agree([["/tmp"], ["/var/tmp"]], short=False)
    long = "/scratch/of/a/job/with/a/long/name"
    assert (long, "/tmp") == tuple(private_tmp.agree([[long, "/tmp"]], short) for short in (False, True))


MOUNTED = """
mount --bind "$PWD" /mnt && mount -t tmpfs -o {options} none /tmp && mkdir -p "$PWD" && mount --bind /mnt "$PWD"
cd "$PWD"
{then}
"""


@pytest.mark.parametrize(
    ("options", "then"),
    [
        ("mode=1777,noexec", ""),
        ("mode=1777,size=64k", "dd if=/dev/zero of=/tmp/fill bs=4k 2>/dev/null"),
        ("mode=1777", "mount -o remount,ro /tmp"),
        ("mode=755", "chown 65534 /tmp; export TMPDIR=/nowhere"),
    ],
    ids=["noexec", "full", "read-only", "TMPDIR that is not there"],
)
def test_an_unusable_tmp(muster: Any, tmp_path: Path, options: str, then: str) -> None:
    """Ranks of an external launcher start nonetheless."""
    line = MOUNTED.format(options=options, then=then)
    run = " ".join(muster.argv("run", "--launcher", "torchrun", "-g", "2", "--", "echo", "ran"))
    words = ["unshare", "-m", "bash", "-c", f"{line}\n{run}"]
    done = subprocess.run(words, env=muster.env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert 2 == done.stdout.count("] ran\n"), done.stdout + done.stderr
