"""Files that muster finds by itself and obeys, muster.toml and .venv: never those of another user."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

STRANGER = 65534
SETUP = '[run]\nsetup = ["touch {mark}"]\nnproc_per_node = "3"\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which root alone can")


@pytest.fixture
def project(muster: Any, tmp_path: Path) -> Path:
    """A directory below one with a muster.toml that runs a command."""
    folder = tmp_path / "shared" / "mine"
    folder.mkdir(parents=True)
    (folder / "s.py").write_text("print('ran')\n")
    (folder.parent / "muster.toml").write_text(SETUP.format(mark=tmp_path / "p"))
    muster.cwd = folder
    return folder


def given_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def in_sticky_folder(path: Path) -> None:
    """A sticky directory like /tmp: root's, and writable for all users."""
    path.parent.chmod(0o1777)
    given_away(path)


def writable_by_all(path: Path) -> None:
    path.chmod(0o666)


def writable_by_a_group(path: Path) -> None:
    os.chown(path, 0, STRANGER)
    path.chmod(0o664)


def folder_writable_by_all(path: Path) -> None:
    path.parent.chmod(0o777)


def folder_given_away(path: Path) -> None:
    given_away(path.parent)


def link_to_one_given_away(path: Path) -> None:
    other = path.with_name("other.toml")
    path.rename(other)
    given_away(other)
    path.symlink_to(other)


def link_given_away(path: Path) -> None:
    other = path.with_name("other.toml")
    path.rename(other)
    path.symlink_to(other)
    os.lchown(path, STRANGER, STRANGER)


WAYS = (
    in_sticky_folder,
    writable_by_all,
    writable_by_a_group,
    folder_writable_by_all,
    folder_given_away,
    link_to_one_given_away,
    link_given_away,
)


@pytest.mark.parametrize("make", WAYS, ids=lambda make: make.__name__)
def test_one_that_another_could_have_written(muster: Any, project: Path, make: Callable[[Path], None]) -> None:
    toml = project.parent / "muster.toml"
    make(toml)
    done = muster("plan", "s.py")
    assert 0 == done.returncode and "launcher  fork, 1 rank on 1 node" in done.stdout, done.stdout + done.stderr
    assert "touch" not in done.stdout
    line, hint = done.stderr.splitlines()
    assert line.startswith(f"warning: ignoring {toml}: ") and f"or set MUSTER_TRUST={toml.parent}" in hint
    remedy = hint.partition("hint: if you trust it, run `")[2].partition("`")[0]  # who can run it is root, as this test
    assert ("belongs to user nobody" in line) == ("chown" in remedy)
    subprocess.run(remedy.removeprefix("sudo "), shell=True, check=True)
    cured = muster("plan", "s.py")
    assert ("touch" in cured.stdout) == ("ignoring" not in cured.stderr), cured.stderr
    trusting = muster("plan", "s.py", env={**muster.env, "MUSTER_TRUST": f"/nowhere:{toml.parent}"})
    assert "touch" in trusting.stdout and "" == trusting.stderr


def test_it_is_not_run(muster: Any, project: Path, tmp_path: Path) -> None:
    given_away(project.parent / "muster.toml")
    done = muster("run", "-g", "1", "--launcher", "exec", "--", "echo", "ran")
    assert (0, "[0] ran\n") == (done.returncode, done.stdout), done.stderr
    assert "it belongs to user nobody" in done.stderr
    assert not (tmp_path / "p").exists()


def test_trusted_files(muster: Any, project: Path, tmp_path: Path) -> None:
    """Group-writable files of the user's private group, as many systems create them; files that root gave to the user
    of sudo; and the next trusted one above an untrusted one."""
    toml = project.parent / "muster.toml"
    toml.chmod(0o664)
    assert "3 ranks" in muster("plan", "s.py").stdout
    given_away(toml)
    toml.chmod(0o644)
    assert "3 ranks" in muster("plan", "s.py", env={**muster.env, "SUDO_UID": str(STRANGER)}).stdout
    (tmp_path / "muster.toml").write_text("[run]\nnproc_per_node = 5\n")
    done = muster("plan", "s.py")
    assert "5 ranks" in done.stdout and f"ignoring {toml}" in done.stderr


def test_the_search_ends_at_the_repository_and_at_home(muster: Any, project: Path) -> None:
    assert "3 ranks" in muster("plan", "s.py").stdout
    assert "1 rank " in muster("plan", "s.py", env={**muster.env, "HOME": str(project)}).stdout
    (project / ".git").mkdir()
    assert "1 rank " in muster("plan", "s.py").stdout
    (project / "muster.toml").write_text("[run]\nnproc_per_node = 2\n")
    assert "2 ranks" in muster("plan", "s.py").stdout


def test_the_users_own_file(muster: Any, project: Path, tmp_path: Path) -> None:
    """HOME may be another user's: sudo may leave it unchanged."""
    mine = tmp_path / "home" / ".config" / "muster" / "muster.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("[run]\nnproc_per_node = 4\n")
    (project.parent / "muster.toml").unlink()
    env = {**muster.env, "HOME": str(tmp_path / "home")}
    assert "4 ranks" in muster("plan", "s.py", env=env).stdout
    given_away(mine)
    done = muster("plan", "s.py", env=env)
    assert "1 rank " in done.stdout and f"ignoring {mine}: it belongs to user nobody" in done.stderr


def test_a_venv_of_another(muster: Any, project: Path, tmp_path: Path) -> None:
    """A `.venv` beside the script or in the current directory is not run."""
    (project.parent / "muster.toml").unlink()
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path / 'p'}\n")
    python.chmod(stat.S_IRWXU | 0o055)
    assert f"python    {python} (.venv next to the script)" in muster("plan", "s.py").stdout
    given_away(project / ".venv")
    for words in (("plan", "s.py"), ("--version",)):
        done = muster(*words)
        assert 0 == done.returncode, done.stderr
        assert (
            f"ignoring {python.parents[1]}: it belongs to user nobody\nhint: if you trust it, use `--python"
            in done.stderr
        )
    assert not (tmp_path / "p").exists()


def test_a_module_here_is_not_imported(env: dict[str, str], project: Path, tmp_path: Path) -> None:
    (project / "json.py").write_text(f"open({str(tmp_path / 'p')!r}, 'w')\n")
    muster = Path(sys.executable).with_name("muster")
    done = subprocess.run([muster, "--version"], env=env, cwd=project, capture_output=True, text=True)
    assert 0 == done.returncode and "torch" in done.stdout, done.stderr
    assert not (tmp_path / "p").exists()
