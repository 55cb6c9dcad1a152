"""The files that are a run's code, and copies of them: with and without git, and with special files."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from muster import code_sync
from muster.core.model import Job, Program
from muster.errors import InvalidRequest

GIT = ["git", "-c", "protocol.file.allow=always", "-c", "user.name=a", "-c", "user.email=a@b"]


def git(*words: str, cwd: Path) -> None:
    subprocess.run([*GIT, *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A repository with every kind of file that a working tree may hold."""
    other, top = tmp_path / "other", tmp_path / "top"
    for repository in (other, top, top / "nested"):
        repository.mkdir(parents=True, exist_ok=True)
        git("init", "-q", cwd=repository)
    (other / "part.py").write_text("WORD = 1")
    git("add", ".", cwd=other)
    git("commit", "-qm", "x", cwd=other)
    git("submodule", "add", str(other), "vendored", cwd=top)
    (top / "nested" / "inner.py").write_text("")
    (top / "nested" / ".gitignore").write_text("*.log\n")
    (top / "nested" / "of.log").write_text("")
    (top / ".gitignore").write_text("data/\n")
    for name in ("data/big", "pkg/deep/a.py", "main.py", "-dash", "new\nline", os.fsdecode(b"caf\xe9")):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name.partition("/")[0] if name == "main.py" else "")
    for name, target in (
        ("linked", "pkg"),
        ("pkg/up", "../nested"),
        ("pkg/absolute", str(top / "main.py")),
        ("ignored", "data"),
        ("out", "/etc"),
        ("dangling", "../nothing"),
        ("loop", "loop"),
    ):
        (top / name).symlink_to(target)
    os.mkfifo(top / "pkg" / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(top)  # its path must be short
        made.bind("sock")
        os.chdir(here)
    return top


CODE = {".gitignore", ".gitmodules", "-dash", "main.py", "new\nline", os.fsdecode(b"caf\xe9"), "pkg/deep/a.py"}
CODE |= {"nested/.gitignore", "nested/inner.py", "vendored/part.py"}
LINKS = {"linked", "pkg/up", "pkg/absolute", "ignored", "out", "dangling", "loop"}
LEFT_OUT = "warning: not regular files, left out: pkg/fifo, sock"


def test_what_git_lists_with_the_repositories_inside(top: Path) -> None:
    found = code_sync.tree(str(top / "pkg"))
    assert (str(top), CODE | LINKS) == (found.root, set(found.names))
    outward = f"warning: links to outside {top} are copied as links: "
    outward += f"dangling -> ../nothing, out -> /etc, pkg/absolute -> {top}"
    assert LEFT_OUT == found.notes[0]
    assert found.notes[1].startswith(outward.rpartition(", ")[0])
    # an ignored file is sent if it is the script
    assert "data/big" in code_sync.tree(str(top), "data/big").names
    # a directory that git ignores is code without git
    ignored = code_sync.tree(str(top / "data"))
    assert (str(top / "data"), ("big",)) == (ignored.root, ignored.names)


def test_a_hook_of_another_repository(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(top.parent / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(top.parent / "other"))
    assert str(top) == code_sync.tree(str(top)).root


def test_without_git(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = code_sync.tree(str(top))
    assert CODE | LINKS | {"data/big", "nested/of.log"} == set(found.names)
    assert LEFT_OUT == found.notes[0]


def test_a_working_tree_beside_and_a_repository_without_one(top: Path, tmp_path: Path) -> None:
    git("add", "main.py", cwd=top)
    git("commit", "-qm", "x", cwd=top)
    git("worktree", "add", "-q", str(tmp_path / "beside"), cwd=top)
    assert {"main.py", ".gitmodules"} >= set(code_sync.tree(str(tmp_path / "beside")).names) >= {"main.py"}
    git("clone", "-q", "--bare", str(top), str(tmp_path / "bare"), cwd=tmp_path)
    assert "HEAD" in code_sync.tree(str(tmp_path / "bare")).names


def test_a_repository_of_another_user_is_reported(top: Path) -> None:
    os.chown(top, 12345, 12345)
    os.chown(top / ".git", 12345, 12345)
    found = code_sync.tree(str(top))
    assert "data/big" in found.names
    assert found.notes[0].startswith(
        f"warning: cannot list the files of {top} with git, taking all: detected dubious owner"
    )


def test_runs_are_not_code(top: Path) -> None:
    (top / "kept" / "runs" / "one").mkdir(parents=True)
    (top / "kept" / "runs" / "one" / "x.py").write_text("")
    assert CODE | LINKS == set(code_sync.tree(str(top), runs=str(top / "kept" / "runs")).names)


def test_links_of_a_copy(top: Path, tmp_path: Path) -> None:
    """Links to copied files point to the copies; others keep their target."""
    copy = tmp_path / "copy"
    code_sync.snapshot(code_sync.tree(str(top)), copy)
    assert "main.py" == (copy / "pkg" / "absolute").read_text()
    assert copy / "main.py" == (copy / "pkg" / "absolute").resolve()
    assert copy / "pkg" == (copy / "linked").resolve()
    assert copy / "nested" == (copy / "pkg" / "up").resolve()
    assert top / "data" == (copy / "ignored").resolve()
    assert str(tmp_path / "nothing") == os.readlink(copy / "dangling")
    assert ("loop", "/etc") == (os.readlink(copy / "loop"), os.readlink(copy / "out"))
    assert set(code_sync.everything(str(copy)).names) == CODE | LINKS


def test_files_that_go_or_cannot_be_read(top: Path, tmp_path: Path) -> None:
    found = code_sync.tree(str(top))
    (top / "main.py").unlink()
    code_sync.snapshot(found, tmp_path / "copy")
    assert not (tmp_path / "copy" / "main.py").exists()
    (top / "pkg" / "deep" / "a.py").unlink()
    (top / "pkg" / "deep" / "a.py").mkdir()
    with pytest.raises(InvalidRequest, match=r"cannot copy .*a\.py"):
        code_sync.snapshot(found, tmp_path / "again")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("with_git", [True, False])
def test_unreadable_files(with_git: bool) -> None:
    """As a user other than root, for whom some files are unreadable."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        top = Path(folder, "top")
        for name in ("shut/a.py", "b.py"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("")
        if with_git:
            git("init", "-q", cwd=top)
        for path in (Path(folder), top, *top.rglob("*")):
            os.chown(path, 12345, 12345)
        (top / "shut").chmod(0)
        (top / "b.py").chmod(0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said: object = None
            try:
                os.setgid(12345)
                os.setuid(12345)
                found = code_sync.tree(str(top))
                said = found.notes
                code_sync.snapshot(found, Path(folder, "copy"))
            except BaseException as error:
                said = f"{said} {type(error).__name__} {error}"
            os.write(write, str(said).encode())
            os._exit(0)
        os.close(write)
        with open(read) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
    if with_git:
        assert "git: warning: could not open directory 'shut/': Permission denied" in told
        assert f"InvalidRequest cannot copy {top}/b.py" in told
    else:
        assert f"None InvalidRequest cannot read {top}/shut: Permission denied" in told


# ---- comparison between hosts ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory without git that holds more than the code of one script."""
    home = tmp_path / "home"
    names = ("train.py", "beside.py", "notes.txt", "mine/__init__.py", "mine/deep/a.py", "own/b.py", "own/c.txt")
    for name in (*names, "projA/deep/x.py", "notebooks/y.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("")
    (home / "train.py").write_text(
        "import os, mine.deep.a\ndef f():\n    from own import b\n    from . import notebooks\n"
    )
    return home


def sources(cwd: Path, *argv: str, kind: str = "script") -> tuple[bool, set[str]]:
    found = code_sync.sources(Job(Program(kind, argv), "exec", "python3", "", str(cwd)), "")
    assert found is not None
    return found.git, set(found.names)


OF_TRAIN = {"train.py", "beside.py", "mine/__init__.py", "mine/deep/a.py", "own/b.py"}


def test_the_code_of_a_script_without_git(home: Path) -> None:
    """The script's directory, and what it imports from there; a home directory may hold all projects of a user."""
    assert (False, OF_TRAIN) == sources(home, "train.py")
    assert (False, OF_TRAIN) == sources(home.parent, "home/train.py")
    assert (False, {"train.py", "beside.py", "notebooks/y.py"}) == sources(home, "notebooks.y", kind="module")
    (home / "train.py").write_text("no python")
    assert (False, {"train.py", "beside.py"}) == sources(home, "train.py")


def test_a_package_that_is_too_large_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_sync, "_FEW", 1)
    assert (False, {"train.py", "beside.py"}) == sources(home, "train.py")


def test_the_code_of_a_script_with_git(top: Path) -> None:
    assert (True, {name for name in CODE if name.endswith(".py")}) == sources(top, "main.py")
    assert f"the files in {top} that git does not ignore" == code_sync.sync_sends(str(top / "pkg"))
