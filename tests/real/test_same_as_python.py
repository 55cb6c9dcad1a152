"""A rank is `python SCRIPT`: the same exit status, the same bytes, the same files left behind, case by case.

Each case runs twice in one folder and one environment: by Python alone, with files as stdout and stderr and with a
file as stdin, and as the one rank of `muster run -g 1`. What a case depends on torch for, its script imports.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SCRIPTS = Path(__file__).parent / "cases"
TORCH = "import torch, torch.distributed\n"


class Case(NamedTuple):
    """A script, and what shows that it works in plain Python."""

    script: str
    """Its text, or the name of a file in `cases`."""
    shows: str = ""
    """Text that plain Python's stdout or stderr must contain."""
    status: int = 0
    """Exit status of plain Python; -n for signal n."""
    args: tuple[str, ...] = ()
    name: str = "script.py"
    env: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    """More files in the directory."""
    run: tuple[str, ...] = ()
    """What to run instead of the script: a module by -m, a directory."""
    cut: str = ""
    """A pattern of what may differ."""
    forks: bool = True
    """True if muster can fork a rank for it; otherwise it must detect that, and start plain Python."""

    @property
    def words(self) -> tuple[str, ...]:
        """Arguments of `python`, and of `muster run` after its options."""
        return (*(self.run or (self.name,)), *self.args)


class Ended(NamedTuple):
    """The end of a process, and the files left by it."""

    status: int
    out: bytes
    err: bytes
    files: tuple[str, ...]

    def without(self, pattern: str) -> Ended:
        """Return a copy with equal addresses, and without what may differ."""

        def cut(data: bytes) -> bytes:
            data = re.sub(rb"0x[0-9a-f]{6,}", b"0x7f", data)
            return re.sub(pattern.encode(), b"", data) if pattern else data

        return self._replace(out=cut(self.out), err=cut(self.err))

    def __str__(self) -> str:
        out, err = (data.decode("utf-8", "backslashreplace") for data in (self.out, self.err))
        return f"status {self.status}\n--- stdout\n{out}\n--- stderr\n{err}\n--- files\n" + "\n".join(self.files)


class Both:
    """A directory in which scripts run by plain Python and as a rank."""

    def __init__(self, folder: Path, muster: Any):
        self.folder, self.muster = folder, muster
        self.work = folder / "work"
        self.env = {**muster.env, "TMPDIR": str(folder / "tmp")}
        for path in (self.work, folder / "tmp"):
            path.mkdir()

    def write(self, case: Case) -> None:
        """Create the files of a case."""
        text = (SCRIPTS / case.script).read_text() if case.script.endswith(".py") else case.script
        for name, content in {**case.files, **({case.name: text} if case.script else {})}.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def plain(self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ended:
        """Return the end of `python WORDS`."""
        out, err = self.folder / "plain.out", self.folder / "plain.err"
        (self.folder / "typed").write_text("typed\n")
        for path in (out, err):
            path.unlink(missing_ok=True)
        with (
            open(self.folder / "typed") as typed,
            open(out, "ab") as stdout,
            open(err, "ab") as stderr,
        ):  # as a rank does
            ended = subprocess.run(
                [sys.executable, *words],
                env={**self.env, **(env or {})},
                cwd=cwd or self.work,
                stdin=typed,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                umask=0o027,
                timeout=200,
            )
        return Ended(ended.returncode, out.read_bytes(), err.read_bytes(), self.files())

    def rank(self, *words: str, options: tuple[str, ...] = (), **env: str) -> Ended:
        """Return the end of the only rank of `muster run WORDS`. Its stdin is muster's own."""
        (self.folder / "typed").write_text("typed\n")
        with open(self.folder / "typed") as typed:
            said = self.muster(
                *("run", "-g", "1", *options, *words),
                env={**self.env, **env},
                cwd=self.work,
                stdin=typed,
                errors="backslashreplace",
                umask=0o027,
                timeout=200,
            )
        outcome = self.muster.newest() / "outcome.json"
        assert outcome.exists(), f"muster did not finish: {said}"
        (end,) = json.loads(outcome.read_text())["exits"] or [None]
        assert end is not None, f"muster started no rank:\n{said.stderr}"
        status = end["code"] if end["signal"] is None else -end["signal"]
        expected = status if status >= 0 else 128 - status
        assert expected == said.returncode, (
            f"the rank ended with {status}, muster with {said.returncode}:\n{said.stderr}"
        )
        return Ended(status, self.muster.log(0), self.muster.log(0, "err"), self.files())

    def forked(self) -> bool:
        """Return whether the newest run forked its ranks, which not every Python supports."""
        events = map(json.loads, (self.muster.newest() / "events.jsonl").read_text().splitlines())
        return [True] == [event["fork"] for event in events if event["event"] == "warm"]

    def files(self) -> tuple[str, ...]:
        """Return the files in the directory of the script and in that of temporary files."""
        found = [path for name in ("work", "tmp") for path in sorted((self.folder / name).rglob("*"))]
        return tuple(str(path.relative_to(self.folder)) for path in found if "__pycache__" not in path.parts)


@pytest.fixture
def both(env: dict[str, str], muster: Any) -> Iterator[Both]:
    """Both ways to run, in a short path: the sockets of multiprocessing allow 108 bytes."""
    folder = tempfile.mkdtemp(prefix="same")
    muster.home = Path(folder) / "muster home"
    env["MUSTER_HOME"] = str(muster.home)
    yield Both(Path(folder), muster)
    shutil.rmtree(folder, ignore_errors=True)


def compare(both: Both, case: Case, *options: str) -> None:
    """Check that both ways end the same, and as the case expects; options of `muster run` request plain ranks."""
    both.write(case)
    plain = both.plain(*case.words, env=case.env)
    assert case.status == plain.status, f"plain Python does not do what the case is for:\n{plain}"
    assert case.shows in str(plain), f"plain Python does not do what the case is for:\n{plain}"
    rank = both.rank(*case.words, options=options, **case.env)
    plain, rank = plain.without(case.cut), rank.without(case.cut)
    assert plain == rank, f"=== python\n{plain}\n\n=== a rank of muster\n{rank}"
    assert both.forked() == (case.forks and "exec" not in options), "the rank is not started by what the test is for"


ARGPARSE = """
import argparse
parser = argparse.ArgumentParser(description="Train.")
parser.add_argument("--name", required=True, help="a name")
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("words", nargs="*")
print(ascii(parser.parse_args()))
"""
WORDS = (
    "two words",
    "it's",
    'a "quote"',
    "größe 漢字 😀",
    "",
    "line\nbreak",
    "tab\t",
    "$HOME",
    "*",
    "\\",
    "`id`",
    "a=b",
)
EXTENSIONS = r"\n(Extension modules: .*|\n)+"

ENDINGS = {
    "exit 7": Case("import sys; print('here'); sys.exit(7)", "here", 7),
    "exit None": Case("import sys; print('here'); sys.exit(None)", "here"),
    "exit by a text": Case("import sys; print('out'); sys.exit('the text')", "the text", 1),
    "exit 300": Case("raise SystemExit(300)", "", 44),
    "exit by an object": Case("raise SystemExit(['a', 1])", "['a', 1]", 1),
    "os._exit": Case("import os; print('kept', flush=True); print('lost', end=''); os._exit(9)", "kept", 9),
    "an exception": Case("def f(x):\n    return 1 / x\nprint('out')\nf(0)", "ZeroDivisionError", 1),
    "raise from": Case(
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('bad\\nlines') from error",
        "direct cause",
        1,
    ),
    "raised during handling": Case(
        "def f():\n    try:\n        {}['a']\n    finally:\n        raise ValueError('x')\nf()", "During handling", 1
    ),
    "recursion": Case("def f(n):\n    return f(n + 1)\nf(0)", "Previous line repeated", 1),
    "a syntax error": Case("print('never')\ndef f(:\n    pass\n", "SyntaxError", 1),
    "bytes that are no text": Case("# coding: ascii\nprint('ü')\n", "SyntaxError", 1),
    "KeyboardInterrupt": Case("print('out')\nraise KeyboardInterrupt", "KeyboardInterrupt", -signal.SIGINT),
    "SIGINT": Case("import os, signal\nos.kill(os.getpid(), signal.SIGINT)", "KeyboardInterrupt", -signal.SIGINT),
    "SIGTERM": Case("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "", -signal.SIGTERM),
    "abort": Case("import os\nprint('out', flush=True)\nos.abort()", "out", -signal.SIGABRT),
    "SIGSEGV with faulthandler": Case(
        TORCH + "import ctypes, faulthandler\nfaulthandler.enable()\ndef f():\n    ctypes.string_at(0)\nf()",
        "Fatal Python error: Segmentation fault",
        -signal.SIGSEGV,
        cut=EXTENSIONS,
    ),
    "a closed stdout": Case("import os\nprint('lost', end='')\nos.close(1)", "Bad file descriptor", 120),
    "argparse": Case(ARGPARSE, r"gr\xf6\xdfe", args=("--name", "a b", "--", *WORDS)),
    "argparse error": Case(ARGPARSE, "error: argument --steps", 2, ("--name", "x", "--steps", "many")),
    "argparse help": Case(ARGPARSE, "Train.", args=("--help",)),
    "stdin": Case(
        "import sys; print(repr(sys.stdin.read()), sys.stdin.buffer.read(), sys.stdin.isatty())", "'typed\\n' b''"
    ),
}
"""Scripts that exit by themselves, depending on their arguments or input."""

CYCLE = """
import glob, tempfile
held = tempfile.NamedTemporaryFile(dir=".", prefix="held")
def name():  # it holds the globals, and they hold it
    return held.name
print(len(glob.glob("held*")), "held")
"""
DEL = """
import torch
class Loud:
    def __init__(self, name):
        self.name = name
    def __del__(self, print=print):
        print("gone", self.name)
first, second = Loud("first"), Loud("second")
second.cycle = second
"""
DILL = """
import torch, dill
table = list(range(1000))
def known():
    return table
print("bytes", len(dill.dumps(known)), len(dill.dumps(known, recurse=True)), dill.loads(dill.dumps(known))() == table)
"""
DEL_IMPORTS = """
import torch
class Loud:
    def __del__(self):
        from torch import distributed
        import numpy
        print("gone", distributed.is_available(), numpy.ones(2).sum())
loud = Loud()
"""
FINALIZE = """
import atexit, weakref
class Thing:
    pass
kept, dropped = Thing(), Thing()
weakref.finalize(kept, print, "kept is finalized")
atexit.register(print, "atexit after it")
weakref.finalize(dropped, print, "dropped is finalized")
del dropped
print("main ends")
"""
THREAD = """
import threading
def last():
    threading.main_thread().join()
    print("after main")
threading.Thread(target=last).start()
print("main ends")
"""
DAEMON = """
import threading
began = threading.Event()
def work():
    try:
        began.set()
        threading.Event().wait()
    finally:
        print("never")
threading.Thread(target=work, daemon=True).start()
began.wait()
print("main ends")
"""

FINALS = {
    "atexit": Case(
        TORCH + "import atexit\nfor n in (1, 2): atexit.register(print, 'atexit', n)\nprint('main ends')", "atexit 1"
    ),
    "an atexit handler that raises": Case(
        TORCH + "import atexit\natexit.register(print, 'last')\natexit.register(lambda: 1 / 0)", "ZeroDivisionError"
    ),
    "a thread that outlives main": Case(THREAD, "after main"),
    "a daemon thread": Case(DAEMON, "main ends"),
    "a file in a cycle": Case(TORCH + CYCLE, "1 held"),
    "a file in a cycle, and an exception": Case(TORCH + CYCLE + "1 / 0", "1 held", 1),
    "a temporary folder": Case(
        TORCH
        + "import os, tempfile\nheld = tempfile.TemporaryDirectory()\nprint(len(os.listdir(tempfile.gettempdir())))",
        "stdout\n1\n",
    ),
    "what dill pickles by reference to __main__": Case(DILL, "bytes"),
    "weakref.finalize": Case(TORCH + FINALIZE, "kept is finalized"),
    # if dill is installed torch imports it, and it keeps a reference to `__main__`: then the cycle outlives the module
    "__del__": Case(DEL, "gone first"),
    "__del__ that imports": Case(DEL_IMPORTS, "sys.meta_path is None"),
    "__del__ that raises": Case("class A:\n    def __del__(self): 1 / 0\na = A()", "Exception ignored in"),
    "an unfinished line": Case("import sys\nsys.stdout.write('no end')\nsys.stderr.write('here neither')", "no end"),
    "an unfinished line of C": Case(
        TORCH + "import ctypes, sys\nctypes.CDLL(None).printf(b'by %s', b'printf')\nsys.exit(3)", "by printf", 3
    ),
    "a generator that is not finished": Case(
        "def f():\n    try:\n        yield\n    finally:\n        print('closed')\ng = f()\nnext(g)", "closed"
    ),
    "a logger": Case(
        TORCH + "import logging\nlogging.basicConfig()\nlogging.warning('careful')", "WARNING:root:careful"
    ),
}
"""Code that runs after the last line of a script."""

EXCEPTHOOK = """
import sys
def hook(kind, value, trace):
    print("hooked", kind.__name__, value, trace.tb_frame.f_code.co_name, trace.tb_next, file=sys.stderr)
sys.excepthook = hook
raise ValueError("for the hook")
"""
THREADING_HOOK = """
import threading
def fail():
    raise ValueError("in a thread")
def run():
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
run()
threading.excepthook = lambda args: print("hooked", args.exc_type, args.exc_value, args.thread.name)
run()
"""
WARNINGS = """
import warnings
def f():
    for _ in range(3):
        warnings.warn("careful")
    warnings.warn("old", DeprecationWarning, stacklevel=2)
f()
f()
"""
SOCKET = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
here = socket.create_connection(listener.getsockname())
there, _ = listener.accept()
here.sendall(b"over the loopback")
print(there.recv(99), socket.getfqdn("127.0.0.1") != "", socket.getdefaulttimeout())
"""
MODULE = """
import sys
from . import part
print("I am", __spec__.name, __name__, __package__, __file__, sys.argv, sys.path, part.name)
def f():
    raise ValueError(part.name)
f()
"""
PART = "import part, sys\nprint(__file__, __package__, __spec__, sys.path[0])\nraise ValueError(part.mine)"
PACKAGE = {
    "package/__init__.py": "print('package', __name__)",
    "package/part.py": "name = 'part'",
    "package/__main__.py": MODULE,
    "package/module.py": MODULE,
}
ODD = 'a \'folder\' "of"\n$HOME/it\'s a "script"\n of mine.py'
NAMESAKE = "a module named like one of Python's"
SITE = "import atexit, builtins\nbuiltins.customized = 'yes'\natexit.register(print, 'the end of sitecustomize')"

TRACKED = r"\S+/resource_tracker\.py:\d+: UserWarning: resource_tracker: .*\n  warnings\.warn\(.*\n"
"""Message of Python's resource tracker if a worker unlinks a semaphore just when it checks for leaks."""

NATURES = {
    "a loader of spawned workers": Case("loader.py", "[49, ", args=("spawn",), cut=TRACKED),
    "a loader of forked workers": Case("loader.py", "[49, ", args=("fork",)),
    "a loader with a forkserver": Case("loader.py", "[49, ", args=("forkserver",), cut=TRACKED),
    "a class of __main__ pickled": Case("pickled.py", "Point(x=4, y=-3) True"),
    "children of its own": Case("children.py", "[0, 1, 4, 9]"),
    "itself": Case("itself.py", "depth 2 None", args=("--lr", "0.1")),
    "itself, under variables of Python": Case(
        "itself.py",
        "optimize=1",
        env={
            "PYTHONOPTIMIZE": "1",
            "PYTHONWARNINGS": "ignore::FutureWarning",
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "7",
            "PYTHONIOENCODING": "latin-1:replace",
        },
    ),
    "what it starts with": Case("state.py", "leader True True"),
    "an excepthook": Case(EXCEPTHOOK, "hooked ValueError for the hook <module> None", 1),
    "threading.excepthook": Case(TORCH + THREADING_HOOK, "hooked <class 'ValueError'> in a thread"),
    "warnings": Case(TORCH + WARNINGS, "UserWarning: careful"),
    "a socket": Case(TORCH + SOCKET, "b'over the loopback' True None"),
    "an odd path": Case("import sys\nprint(sys.argv, __file__)\n1 / 0", "ZeroDivisionError", 1, name=ODD),
    "a package by -m": Case("", "I am package.__main__", 1, ("a b", "-m"), files=PACKAGE, run=("-m", "package")),
    "a module by -m": Case("", "I am package.module", 1, ("--x",), files=PACKAGE, run=("-m", "package.module")),
    "a missing module by -m": Case("", "No module named nothing_here", 1, run=("-m", "nothing_here")),
    "a folder": Case(
        "", "ValueError: True", 1, files={"it/__main__.py": PART, "it/part.py": "mine = True"}, run=("it",)
    ),
    NAMESAKE: Case(
        "import json, calendar\nprint(json.mine, calendar.mine)",
        "True True",
        # beside the script, and not in the directory where muster is started
        name="sub/script.py",
        files={"sub/json.py": "mine = True", "sub/calendar.py": "mine = True"},
        forks=False,
    ),
    "a sitecustomize": Case(
        "import sys\nprint(sys.modules['sitecustomize'].__file__, customized)",
        "the end of sitecustomize",
        env={"PYTHONPATH": "site"},
        files={"site/sitecustomize.py": SITE},
    ),
    "a sitecustomize that raises": Case(
        "import sys\nprint('sitecustomize' in sys.modules)",
        "Error in sitecustomize",
        env={"PYTHONPATH": "site"},
        files={"site/sitecustomize.py": "raise RuntimeError('not today')"},
    ),
}
"""What a script sees: itself, its process, its modules, its children."""

if sys.version_info >= (3, 11):
    GROUP = "raise ExceptionGroup('several', [ValueError(1), ExceptionGroup('inner', [KeyError('x')])])"
    ENDINGS["an exception group"] = Case(GROUP, "+-+---------------- 1 ----------------", 1)

CASES = {**ENDINGS, **FINALS, **NATURES}
EXEC = ("exit 7", "an exception", "SIGSEGV with faulthandler", "stdin", "argparse error", NAMESAKE)


def ids(names: Any) -> Any:
    return pytest.mark.parametrize("name", [pytest.param(name, id=name.replace(" ", "_")) for name in names])


@ids(CASES)
def test_a_forked_rank_is_what_python_is(name: str, both: Both) -> None:
    compare(both, CASES[name])


@ids(EXEC)
def test_a_plain_rank_is_what_python_is(name: str, both: Both) -> None:
    compare(both, CASES[name], "--launcher", "exec")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
@pytest.mark.slow
def test_torch_compiles_in_a_forked_rank(both: Both) -> None:
    cache = tempfile.mkdtemp(prefix="inductor")
    try:
        # torch's own log about a machine with a compiler and no GPU begins with time and pid
        compare(both, Case("compiled.py", "True", env={"TORCHINDUCTOR_CACHE_DIR": cache}, cut=r"W\d{4} [\d:.]+ \d+ "))
    finally:
        shutil.rmtree(cache)


NATIVE = """
#include <unistd.h>
#include <stdlib.h>
static void __attribute__((destructor)) ends(void) { write(1, "the destructor\\n", 15); }
static void exits(void) { write(1, "the handler\\n", 12); }
static void __attribute__((constructor)) begins(void) { atexit(exits); }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("how", ["a library of the script", "LD_PRELOAD"])
def test_native_code_of_others_runs_to_its_end(how: str, both: Both) -> None:
    """The end is cut short only if all native code in the process is known to do nothing there."""
    library = both.folder / "native.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=NATIVE, text=True, check=True)
    of_script = how != "LD_PRELOAD"
    script = TORCH + (f"import ctypes\nctypes.CDLL({str(library)!r})\n" if of_script else "") + "print('main ends')"
    compare(both, Case(script, "the destructor", env={} if of_script else {"LD_PRELOAD": str(library)}))


def test_a_relative_script_is_found_from_cwd(both: Both) -> None:
    """`--cwd` is the base of a relative path, and the working directory of the rank."""
    text = "import os, sys\nprint(os.getcwd(), __file__, sys.argv, sys.path[0])\nimport part\nprint(part.__file__)"
    both.write(Case(text, name="there/sub/script.py", files={"there/sub/part.py": ""}))
    there = both.work / "there"
    plain = both.plain("sub/script.py", "x", cwd=there)
    assert 0 == plain.status, plain
    for option in (str(there), "there"):
        rank = both.rank("sub/script.py", "x", options=("--cwd", option))
        assert plain == rank, f"=== python\n{plain}\n\n=== a rank of muster\n{rank}"


ADDED = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *(
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_MAX_RESTARTS",
        "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_SIGNALS_TO_HANDLE",
    ),
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"),
    *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "GLOO_SOCKET_IFNAME"),
}
"""Environment variables of a rank beside those of muster's own environment."""


@pytest.mark.parametrize(
    ("launcher", "pythonpath"),
    [("fork", None), ("fork", ""), ("fork", "lib:also lib::"), ("exec", None), ("exec", "lib")],
)
def test_the_environment_is_the_users_own(launcher: str, pythonpath: str | None, both: Both) -> None:
    """A rank and its children have plain Python's environment and a rank's variables: no trace of how it started."""
    both.write(Case("surroundings.py", files={"lib/aside.py": "", "also lib/other.py": ""}))
    env = {} if pythonpath is None else {"PYTHONPATH": pythonpath}
    expected = json.loads(both.plain("script.py", env=env).out)
    assert expected["script"]["env"].get("PYTHONPATH") == pythonpath
    assert (expected["aside"] is not None) == bool(pythonpath)
    found = json.loads(both.rank("script.py", options=("--launcher", launcher), **env).out)
    for view in ("script", "python", "program", "spawned"):
        assert ADDED == set(found[view]["env"]) - set(expected[view]["env"]), view
        kept = {name: value for name, value in found[view]["env"].items() if name not in ADDED}
        assert expected[view] == {**found[view], "env": kept}, view
    assert expected["aside"] == found["aside"]


def test_random_numbers_differ_by_rank_and_by_attempt(muster: Any, tmp_path: Path) -> None:
    """Seeds drawn by an import would be the same in all ranks forked after it."""
    shutil.copy(SCRIPTS / "draws.py", tmp_path)
    said = muster("run", "-g", "4", "--preload", "numpy.random", "--max-restarts", "1", "draws.py")
    assert 0 == said.returncode, said.stderr
    drawn = [json.loads(muster.log(rank, attempt=attempt)) for attempt in (0, 1) for rank in range(4)]
    for kind in drawn[0]:
        values = [str(draws[kind]) for draws in drawn]
        assert 8 == len(set(values)), f"{kind} is not different in each rank and attempt: {values}"


@pytest.mark.parametrize("launcher", ["fork", "exec"])
def test_a_killed_ranks_last_line_is_in_its_log(launcher: str, muster: Any, script: Any) -> None:
    """A line is in the log when `print` returns: no flush is needed, and it cannot be lost."""
    script("import os, signal\nprint('first\\nlast')\nos.kill(os.getpid(), signal.SIGKILL)")
    said = muster("run", "-g", "1", "--launcher", launcher, "script.py")
    assert 128 + signal.SIGKILL == said.returncode, said.stderr
    assert b"first\nlast\n" == muster.log(0)


def test_output_is_bytes(muster: Any, script: Any) -> None:
    """All byte values, invalid UTF-8 and an unterminated last line are in the log as they were written."""
    write = ".buffer.write(bytes(range(256)) + b'\\xff\\xc3(\\r\\n\\0end')"
    script(f"import sys\nsys.stdout{write}\nsys.stderr{write}")
    said = muster("run", "-g", "1", "script.py", errors="backslashreplace")
    assert 0 == said.returncode, said.stderr
    for stream in ("out", "err"):
        assert bytes(range(256)) + b"\xff\xc3(\r\n\0end" == muster.log(0, stream)
