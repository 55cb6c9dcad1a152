"""Problems around a run are reported in a sentence, with the documented exit code, and nothing is left behind."""

from __future__ import annotations

import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from disks import fill, small_disk
from running import RunProcesses, living, newest, no_one_left
from waiting import until

from muster.linux.processes import FEWER_PROCESSES

Script = Callable[..., Path]

OK = "import torch; print('ok')"


def refused(done: subprocess.CompletedProcess[str], status: int, sentence: str, hint: str | None) -> None:
    """Check the exit code and the message, which has no developer's jargon."""
    assert status == done.returncode, done.stderr
    assert sentence in done.stderr
    assert hint is None or re.search(rf"^hint: .*{re.escape(hint)}", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    assert "" == done.stdout


def none_begun(muster: Any) -> None:
    """Check that no run directory was left."""
    assert [] == list((muster.home / "runs").glob("*"))


# ---- Pythons --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python without torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


def test_a_python_without_torch_is_named_with_how_to_install_it(muster: Any, script: Script, bare: Path) -> None:
    done = muster("run", "-g", "2", "--python", str(bare), str(script(OK)))
    refused(
        done, 125, f"torch is not installed in {bare} (Python {sys.version.split()[0]})", f"{bare} -m pip install torch"
    )
    assert "--python" in done.stderr
    no_one_left([], newest(muster).name, timeout=0)
    assert " error " in muster("ps").stdout


def test_a_python_without_torch_runs_plain_scripts_by_exec(muster: Any, script: Script, bare: Path) -> None:
    path = str(script("import sys; print(sys.prefix)"))
    done = muster("run", "-g", "2", "--launcher", "exec", "--python", str(bare), path)
    assert 0 == done.returncode, done.stderr
    assert {f"[{rank}] {bare.parent.parent}" for rank in range(2)} == set(done.stdout.splitlines())


def test_an_old_torch_is_named_with_the_oldest_that_will_do(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script("__version__ = '1.13.1'\n", "old/torch/version.py")
    script("from .version import __version__\n", "old/torch/__init__.py")
    env["PYTHONPATH"] = str(tmp_path / "old")
    done = muster("run", "-g", "2", str(script("print('ran')")))
    refused(done, 125, f"{sys.executable} has torch 1.13.1, muster requires 2.3 or newer", "-m pip install")
    no_one_left([], newest(muster).name, timeout=0)


def test_a_torch_that_cannot_be_imported_is_reported_with_its_error(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script("__version__ = '2.13.0'\n", "new/torch/version.py")
    script("raise ImportError('libcudart.so.99: cannot open shared object file')\n", "new/torch/__init__.py")
    env["PYTHONPATH"] = str(tmp_path / "new")
    done = muster("run", "-g", "2", str(script("print('ran')")))
    words = f"`import torch` failed in {sys.executable}: ImportError: libcudart.so.99: cannot open shared object file"
    refused(done, 125, words, "import torch")
    no_one_left([], newest(muster).name, timeout=0)


def test_a_torch_that_kills_its_python_is_reported(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script("__version__ = '2.13.0'\n", "new/torch/version.py")
    script("import os; os.abort()\n", "new/torch/__init__.py")
    env["PYTHONPATH"] = str(tmp_path / "new")
    done = muster("run", "-g", "2", str(script("print('ran')")))
    refused(done, 125, "the fork server exited while importing torch (killed by SIGABRT)", "--launcher exec")
    no_one_left([], newest(muster).name, timeout=0)


def test_a_missing_module_to_preload_is_reported(muster: Any, script: Script) -> None:
    done = muster("run", "-g", "2", "--preload", "no_such_thing", str(script("print('ran')")))
    words = f"`import no_such_thing` failed in {sys.executable}: ModuleNotFoundError: No module named 'no_such_thing'"
    refused(done, 125, words, "--preload")
    no_one_left([], newest(muster).name, timeout=0)


CROWDED = """
import os, sys
real = os.fork
def fork():
    if sys._getframe(1).f_code.co_name == "fork_via_intermediate":
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()
os.fork = fork
"""
"""A module after whose import the fork server meets the limit of processes, which root does not have."""


def test_a_fork_server_that_cannot_fork_says_why(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script(CROWDED, "lib/crowded.py")
    env["PYTHONPATH"] = str(tmp_path / "lib")
    done = muster("run", "-g", "2", "--preload", "crowded", str(script(OK)))
    refused(done, 125, "Resource temporarily unavailable", FEWER_PROCESSES)
    no_one_left([], newest(muster).name, timeout=0)


def test_after_an_import_that_starts_a_thread_ranks_are_plain_processes_and_the_run_succeeds(
    muster: Any, script: Script, env: dict[str, str], tmp_path: Path
) -> None:
    script(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
        "lib/busy.py",
    )
    env["PYTHONPATH"] = str(tmp_path / "lib")
    done = muster("run", "-g", "2", "--preload", "busy", str(script(OK)))
    assert 0 == done.returncode, done.stderr
    assert {"[0] ok", "[1] ok"} == set(done.stdout.splitlines())
    assert "starting one interpreter per rank: an import started threads (1, named " in done.stderr
    assert "2 ranks, launcher exec" in done.stderr
    no_one_left([], newest(muster).name, timeout=0)


@pytest.fixture
def deaf(tmp_path: Path, bare: Path) -> Path:
    """A Python that ignores PYTHONPATH and similar variables, as some wrappers do, but has torch."""
    known = [path for path in sys.path if path.endswith("-packages")]
    (site,) = bare.parent.parent.glob("lib/python*/site-packages")
    (site / "known.pth").write_text("".join(path + "\n" for path in known))
    real = bare.resolve()
    bare.unlink()
    bare.write_text(f'#!/bin/bash\nexec -a "$0" {shlex.quote(str(real))} -E "$@"\n')
    bare.chmod(0o755)
    return bare


def test_with_a_python_that_drops_pythonpath_ranks_are_plain_processes_and_the_run_succeeds(
    muster: Any, script: Script, deaf: Path
) -> None:
    text = """
import os, subprocess, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(sys.executable, int(total), os.environ.get("MUSTER_HOOK"), os.environ.get("PYTHONPATH"))
dist.destroy_process_group()  # torch aborts now and then at the end of one that is left alone
"""
    done = muster("run", "-g", "2", "--python", str(deaf), str(script(text)))
    assert 0 == done.returncode, done.stderr
    assert {f"[{rank}] {deaf} 2 None None" for rank in range(2)} == set(done.stdout.splitlines())
    assert "this Python ignores PYTHONPATH or sitecustomize" in done.stderr
    assert "2 ranks, launcher exec" in done.stderr


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        pytest.param(None, 0, "command not found", id="missing"),
        pytest.param("print('no shebang')", 0o755, "cannot start", id="no program"),
        pytest.param("#!/no/such/interpreter\n", 0o755, "cannot start", id="bad shebang"),
        pytest.param("#!/bin/sh\necho not a Python >&2; exit 9\n", 0o755, "not a Python", id="no python"),
        pytest.param("#!/bin/sh\n", 0o644, "command not found", id="not executable"),
    ],
)
def test_an_invalid_python_is_reported(muster: Any, script: Script, text: str | None, mode: int, sentence: str) -> None:
    if text is not None:
        script(text, "python").chmod(mode)
    done = muster("run", "--python", "./python", str(script(OK)))
    assert "Traceback" not in done.stderr
    assert done.returncode in ((2,) if sentence == "command not found" else (2, 125))
    assert sentence in done.stderr
    assert f"{muster.cwd}/python" in done.stderr or "./python" in done.stderr
    assert "lost" not in muster("ps").stdout


# ---- programs -------------------------------------------------------------------------------------------------------


def test_a_program_that_cannot_be_executed_is_refused_before_anything_starts(muster: Any, script: Script) -> None:
    script("#!/bin/sh\necho ran\n", "bin/tool").chmod(0o644)
    refused(muster("run", "--", "bin/tool"), 2, "not executable: bin/tool", "chmod +x")
    muster.env["PATH"] = f"{muster.cwd}/bin:{muster.env['PATH']}"
    refused(muster("run", "--", "tool"), 2, "program not found on PATH: tool", "`--` is followed by a program")
    refused(muster("run", "--", "./bin"), 2, "not executable: ./bin", "chmod +x")
    refused(muster("run", "--", "bin/other"), 2, "program not found: bin/other", None)
    none_begun(muster)


@pytest.mark.parametrize(
    ("head", "why"), [("", "Exec format error"), ("#!/no/such/interpreter\n", "No such file or directory")]
)
def test_a_program_that_the_kernel_rejects_is_reported(muster: Any, script: Script, head: str, why: str) -> None:
    script(head + "echo ran\n", "tool").chmod(0o755)
    done = muster("run", "-g", "2", "--", "./tool")
    refused(done, 125, "cannot start", None)
    assert why in done.stderr
    no_one_left([], newest(muster).name, timeout=0)


# ---- disks ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_under_the_run_directory_is_refused_before_anything_starts(muster: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk)
        done = muster("run", "--run-dir", str(disk), "--", "echo", "ran")
        refused(done, 2, f"cannot write the run directory {disk}/runs/", "free some space there")
        assert "No space left on device" in done.stderr
        assert [] == list(disk.glob("runs/*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_without_permission_is_refused_for_a_user(muster: Any) -> None:
    muster.home.mkdir(mode=0o500)
    done = muster("run", "--", "echo", "ran")
    refused(done, 2, f"cannot write the run directory {muster.home}/runs/", "MUSTER_HOME")
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("home", "why"), [("/proc/nothing", "No such file or directory"), ("file/below", "Not a directory")]
)
def test_a_home_that_cannot_be_written_is_refused(muster: Any, env: dict[str, str], home: str, why: str) -> None:
    (muster.cwd / "file").touch()
    env["MUSTER_HOME"] = home
    done = muster("run", "--", "echo", "ran")
    refused(done, 2, "cannot write the run directory", "choose another directory with --run-dir or MUSTER_HOME")
    assert why in done.stderr


def test_a_home_on_a_read_only_disk_is_refused(muster: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = muster("run", "--run-dir", str(disk), "--", "echo", "ran")
        refused(done, 2, f"cannot write the run directory {disk}/runs/", "choose another directory with --run-dir")
        assert "Read-only file system" in done.stderr


# ---- limits of the kernel
# ---------------------------------------------------------------------------------------------

WITHOUT = Path(__file__).with_name("without.py")
SAYS_TWICE = ("--", "sh", "-c", "echo hi $RANK; until [ -e go$RANK ]; do sleep 0.05; done; echo bye")


@pytest.fixture
def lacking(muster: Any) -> Iterator[Callable[..., Any]]:
    """A muster for which some system calls fail."""
    if platform.machine() != "x86_64":
        pytest.skip("the filter is written for x86-64")
    plain = muster.argv
    muster.argv = lambda *words: [
        sys.executable,
        str(WITHOUT),
        "inotify,epoll,pidfd,memfd,close_range",
        "--",
        *plain(*words),
    ]
    yield muster
    muster.argv = plain


def test_without_inotify_and_epoll_output_is_shown_while_it_is_written(lacking: Any, tmp_path: Path) -> None:
    with RunProcesses(lacking, "run", "-g", "2", *SAYS_TWICE) as run:
        for _ in range(2):
            line = run.process.stdout.readline()
            (tmp_path / f"go{line.split()[-1]}").touch()
        status, out, err = run.end()
        assert (0, {"[0] bye", "[1] bye"}) == (status, set(out.splitlines())), err


def test_without_inotify_and_epoll_a_detached_run_is_seen_to_its_end(lacking: Any, tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"go{rank}").touch()
    assert 0 == lacking("run", "-d", "-g", "2", *SAYS_TWICE).returncode
    assert 0 == lacking("wait", "last").returncode
    assert [b"hi 0\nbye\n", b"hi 1\nbye\n"] == [lacking.log(rank) for rank in range(2)]


def test_without_local_sockets_a_run_continues_and_requests_that_need_them_are_rejected(muster: Any) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the filter is written for x86-64")
    plain = muster.argv
    muster.argv = lambda *words: [sys.executable, str(WITHOUT), "unix", "--", *plain(*words)]
    done = muster("run", "-g", "2", "--", "echo", "ran")
    assert (0, {"[0] ran", "[1] ran"}) == (done.returncode, set(done.stdout.splitlines())), done.stderr
    assert "`muster kill` and `muster stacks` are not available: Operation not permitted: a local socket" in done.stderr
    for options in (["-d"], ["--launcher", "torchrun"]):
        done = muster("run", *options, "-g", "2", "--", "echo", "ran")
        assert (True, "") == (done.returncode in (2, 3, 125), done.stdout)
        assert "a local socket" in done.stderr
        assert "Traceback" not in done.stderr


# ---- where muster is started ---------------------------------------------------------------------------------------


def test_a_deleted_working_directory_is_reported_if_it_is_needed(muster: Any, tmp_path: Path) -> None:
    for line, needed in (
        (["run", "--", "true"], True),
        (["plan", "train.py"], True),
        (["doctor"], True),
        (["check"], True),
        (["--version"], True),
        (["ps", "--run-dir", "runs"], True),
        (["ps"], False),
        (["run", "--cwd", str(tmp_path), "--", "true"], False),
    ):
        words = ["sh", "-c", 'mkdir -p gone && cd gone && rmdir ../gone && exec "$@"', "sh", *muster.argv(*line)]
        done = subprocess.run(
            words, env=muster.env, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert "Traceback" not in done.stderr, line
        told = "the current directory was deleted" in done.stderr and "\nhint: " in done.stderr
        assert (2 if needed else 0, needed) == (done.returncode, told), (line, done.stderr)


# ---- what ends while it is needed -----------------------------------------------------------------------------------


def test_a_directory_that_ranks_cannot_enter_is_reported(muster: Any, tmp_path: Path) -> None:
    done = muster("run", "--cwd", "missing", "--", "echo", "ran")
    refused(done, 2, "--cwd missing: directory not found", None)
    (tmp_path / "file").touch()
    refused(muster("run", "--cwd", "file", "--", "echo", "ran"), 2, "--cwd file: directory not found", None)
    none_begun(muster)


def test_a_run_directory_deleted_during_the_run_does_not_end_it(muster: Any, tmp_path: Path) -> None:
    text = "echo ready; until [ -e go ]; do sleep 0.02; done; exit 4"
    with RunProcesses(muster, "run", "-g", "2", "--", "sh", "-c", text) as run:
        run.wrote("ready", range(2))
        everybody = run.everybody()
        # once more if muster has written a file into it meanwhile
        until(lambda: subprocess.run(["rm", "-rf", run.path]).returncode == 0, "it is deleted")
        (tmp_path / "go").touch()
        status, _, err = run.end()
        assert 4 == status
        assert "Traceback" not in err
        assert [] == living(everybody)


# ---- what muster was started in -------------------------------------------------------------------------------------

NESTED = """
import os, subprocess, sys
if os.environ["RANK"] == "0":
    subprocess.run([sys.executable, "-m", "muster", "run", "-q", "--name", "inner", "--", "true"], check=True)
print(os.environ["RANK"], os.environ["WORLD_SIZE"])
"""
STARTS_EACH = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'muster', *sys.argv[1:]]))"


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_variables_of_another_world_change_nothing(muster: Any, script: Script, launcher: str) -> None:
    """Variables that a shell has kept, and those of a rank that starts a run itself."""
    left = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    path = str(script(NESTED))
    done = muster("run", "--launcher", launcher, "-g", "2", path, env={**muster.env, **left})
    assert 0 == done.returncode, done.stderr
    assert {"[0] 0 2", "[1] 1 2"} == set(done.stdout.splitlines())
    assert 2 == len(list((muster.home / "runs").iterdir()))


def test_started_once_for_each_rank_it_is_refused(muster: Any, tmp_path: Path, script: Script) -> None:
    """By torchrun, as muster detects it: a parent of that name, and its variables."""
    (tmp_path / "torchrun").write_text(STARTS_EACH)
    done = subprocess.run(
        [sys.executable, tmp_path / "torchrun", "run", "-g", "1", script(OK)],
        env={**muster.env, "RANK": "1", "WORLD_SIZE": "4"},
        capture_output=True,
        text=True,
    )
    refused(
        done,
        2,
        "torchrun started muster 4 times, which would create 4 separate process groups",
        "start muster once, without",
    )
    none_begun(muster)


def closed(line: list[str], descriptors: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line with some standard descriptors closed; stderr is captured unless it is closed."""
    close = " ".join(f"{number}>&-" if number != "0" else "<&-" for number in descriptors)
    return subprocess.run(["sh", "-c", f'exec "$@" {close}', "sh", *line], capture_output=True, text=True, **more)


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_closed_descriptors_change_no_status(muster: Any, script: Script, launcher: str) -> None:
    """As under cron, or after `>&-`; attached and detached, and for later commands."""
    path = script(
        "import os, pathlib, sys, time\n"
        "print('\\x0f', flush=True)\n"
        "written = pathlib.Path('written-' + os.environ['TORCHELASTIC_RUN_ID'])\n"
        "if os.environ['RANK'] == '0': written.touch()\n"
        "while not written.exists(): time.sleep(0.01)  # or rank 0 may be ended before it has written\n"
        "sys.exit(7 if os.environ['RANK'] == '1' else 0)\n"
    )
    more = {"env": muster.env, "cwd": muster.cwd, "timeout": 100}
    run = muster.argv("run", "--launcher", launcher, "-g", "2", str(path))
    for descriptors in ("012", "1") if launcher == "fork" else ("012",):
        done = closed(run, descriptors, **more)
        assert 7 == done.returncode, (descriptors, done.stderr)
        assert b"\x0f\n" == muster.log(0) == muster.log(1)
    if launcher == "fork":
        done = closed(muster.argv("run", "-d", "-g", "2", str(path)), "012", **more)
        assert 0 == done.returncode, done.stderr
        done = closed(muster.argv("wait", "last"), "1", **more)
        assert 7 == done.returncode, done.stderr


def test_many_ranks_with_few_descriptors(muster: Any) -> None:
    """Optional uses of descriptors leave the last ones free."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    done = muster("run", "-g", "60", "--", "sh", "-c", "echo $RANK", preexec_fn=limited)
    assert 0 == done.returncode, done.stderr
    assert 60 == len(done.stdout.splitlines())


@pytest.mark.parametrize(
    "words", ["wait last", "show", "show --json", "ps", "ps --json", "--help", "run --help", "version", "plan -- true"]
)
def test_output_that_cannot_be_written_is_an_error(muster: Any, words: str) -> None:
    """`> /dev/full` fails with one message; `| true`, `>&-`, and what happens to stderr, change no exit code."""
    muster("run", "--launcher", "exec", "-g", "1", "--", "sh", "-c", "exit 7")
    usual = 7 if words == "wait last" else 0
    lost = usual or 1
    full = "error: cannot write to stdout: No space left on device\n"
    ways = {
        '"$@" | true; exit ${PIPESTATUS[0]}': (usual, ""),
        '"$@" 2> /dev/full': (usual, ""),
        '"$@" > /dev/full': (lost, full),
        '"$@" >&-': (usual, ""),  # as under cron: the output is not wanted
    }
    for way, expected in ways.items():
        done = subprocess.run(
            ["bash", "-c", way, "bash", *muster.argv(*words.split())],
            env=muster.env,
            cwd=muster.cwd,
            capture_output=True,
            text=True,
        )
        assert expected == (done.returncode, done.stderr), way
