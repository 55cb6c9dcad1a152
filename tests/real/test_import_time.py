"""What torch reads during its import: a forked rank has it loaded already, and still behaves like plain Python.

Otherwise plain Python is started, and muster reports why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import pytest

from muster.agent.script_preamble import counts

Script = Callable[..., Path]

PROBE = """
import importlib.util, logging, sys, tempfile, warnings
print("torch" in sys.modules, "numpy" in sys.modules, len(warnings.filters), importlib.util.find_spec("torch").origin)
print(type(importlib.util.find_spec("numpy").loader).__name__, tempfile.tempdir)
import numpy
print("torch" in sys.modules, "numpy.linalg" in sys.modules, numpy.__spec__.loader.path == numpy.__file__)
import torch.nn
from torch import distributed
import ctypes, glob, os
print("torch" in sys.modules, [entry[:3:2] for entry in warnings.filters], torch.__spec__.origin == torch.__file__)
print("temporary files", tempfile.tempdir, tempfile.gettempdir())
print("jit", torch.jit._state._enabled.enabled, "debug", distributed.get_debug_level())
print("levels", *[logging.getLogger("torch" + name).level for name in ("", "._dynamo", "._inductor", ".distributed")])
blas, = glob.glob(os.path.dirname(numpy.__file__) + ".libs/*openblas*")
print("threads", torch.get_num_threads(), ctypes.CDLL(blas).scipy_openblas_get_num_threads64_())
print(torch.__config__.parallel_info())
# These are imported when they are used, and read the environment then.
import torch._dynamo.config as dynamo, torch._inductor.config as inductor
print("later", dynamo.verbose, dynamo.suppress_errors, inductor.compile_threads, inductor.max_autotune)
"""

LATER = {
    "TORCHDYNAMO_VERBOSE": "1",
    "TORCHDYNAMO_SUPPRESS_ERRORS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "3",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    "NCCL_DEBUG": "INFO",
    "CUDA_VISIBLE_DEVICES": "",
}
"""Environment variables that are read when something is used."""
DONE_LATE = {"OMP_NUM_THREADS": "2", "TORCH_LOGS": "+dynamo", "TORCH_DISTRIBUTED_DEBUG": "DETAIL", "TMPDIR": "/var/tmp"}
"""Those for which the rank does what torch would have done."""
AT_LOAD = {"PYTORCH_JIT": "0", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Those that need plain Python."""


TORCH = {
    "__init__.py": """
import warnings
warnings.filterwarnings("ignore", message="of torch")
from .version import __version__
from . import distributed, version
class default_generator:
    seed = staticmethod(lambda: None)
def set_num_threads(number):
    print("threads", number)
""",
    "version.py": "__version__ = '2.13.0'\ncuda = None",
    "distributed.py": "def is_available(): return False",
}
"""The parts of torch that a fork server needs. It imports quickly, in any Python."""


@pytest.fixture
def small_torch(muster: Any, tmp_path: Path) -> Path:
    """A PYTHONPATH directory with a fake torch; more modules can be added."""
    folder = tmp_path / "small"
    (folder / "torch").mkdir(parents=True)
    for name, text in TORCH.items():
        (folder / "torch" / name).write_text(text)
    muster.env["PYTHONPATH"] = str(folder)
    return folder


def forked(muster: Any) -> bool:
    events = map(json.loads, (muster.newest() / "events.jsonl").read_text().splitlines())
    return [True] == [event["fork"] for event in events if event["event"] == "warm"]


def see(muster: Any, path: Path, *options: str) -> tuple[str, str]:
    """Return the output of a script as the only rank of a run, and muster's messages."""
    done = muster("run", "-g", "1", *options, str(path))
    assert 0 == done.returncode, done.stderr
    return muster.log(0).decode(), done.stderr


def plain(muster: Any, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, path], env=muster.env, cwd=muster.cwd, capture_output=True, text=True, check=True
    )
    return done.stdout


def sets(names: Mapping[str, str]) -> str:
    """Return lines that set environment variables."""
    return "import os\n" + "".join(f"os.environ[{name!r}] = {value!r}\n" for name, value in names.items())


@pytest.mark.parametrize(
    ("names", "why"),
    [
        pytest.param(LATER, "", id="read when used"),
        pytest.param(DONE_LATE, "", id="done late"),
        pytest.param(
            {**AT_LOAD, **DONE_LATE}, "script.py sets MKL_NUM_THREADS before it imports torch", id="read at load"
        ),
    ],
)
def test_variables_set_before_the_import_apply_to_torch(
    names: Mapping[str, str], why: str, muster: Any, script: Script
) -> None:
    """Before the script imports torch, nothing reveals that it is loaded."""
    path = script(sets(names) + PROBE)
    out, err = see(muster, path)
    assert plain(muster, path) == out
    assert forked(muster) == (not why), err
    assert (f"starting one interpreter per rank: {why}" in err) if why else "one interpreter per rank" not in err


def test_what_the_source_does_not_show_is_reported_by_the_rank(muster: Any, script: Script) -> None:
    """Once, with the name and with advice; what can be done late is done."""
    hidden = f"exec({sets({'PYTORCH_JIT': '0', 'KMP_BLOCKTIME': '0', **DONE_LATE})!r})\n"
    path = script(hidden + PROBE)
    out, err = see(muster, path)
    assert forked(muster)
    expected = plain(muster, path).replace("jit False", "jit True")
    assert expected == out
    told = "muster: warning: this rank set KMP_BLOCKTIME, PYTORCH_JIT too late: numpy was already loaded; "
    lines = [line for line in muster.log(0, "err").decode().splitlines() if "muster" in line]
    assert [told + "use `--launcher exec` for one interpreter per rank"] == lines, err


SMALL_PROBE = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import importlib, importlib.util, warnings
print("torch" in sys.modules, len(warnings.filters), importlib.util.find_spec("torch").loader.path)
distributed = importlib.import_module("torch.distributed")
print("torch" in sys.modules, len(warnings.filters), distributed, type(sys.modules["torch"].__spec__.loader))
print(os.path.basename(sys.executable), [getattr(finder, "__name__", "") for finder in sys.meta_path])
"""


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_hidden_modules_reappear_in_any_python(version: str, muster: Any, script: Script, small_torch: Path) -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [str(path) for path in pyenv.glob(f"versions/{version}.*/bin/python")] + [f"python{version}"]
    python = next(filter(None, map(shutil.which, found)), None)
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode:  # a shim without one
        pytest.skip(f"there is no Python {version}")
    muster.env["OMP_NUM_THREADS"] = "2"
    path = script(SMALL_PROBE)
    out, err = see(muster, path, "--python", python)
    alone = subprocess.check_output([python, path], env=muster.env, cwd=muster.cwd, text=True)
    assert forked(muster), err
    assert alone == out.replace("threads 1\n", "")
    assert "threads 1\n" in out


def test_a_torch_of_the_scripts_own_is_the_one_it_gets(muster: Any, script: Script) -> None:
    """Directories that it adds to sys.path count, and modules that it puts into sys.modules."""
    script("mine = True", "lib/torch/__init__.py")
    script("mine = 'nn'", "lib/torch/nn.py")
    text = "import sys, types\nsys.path.insert(0, 'lib')\nsys.modules['numpy'] = types.ModuleType('mine')\n"
    path = script(text + "import torch.nn, numpy\nprint(torch.mine, torch.nn.mine, numpy)\n")
    out, _ = see(muster, path)
    assert forked(muster)
    assert plain(muster, path) == out == "True nn <module 'mine'>\n"
    assert "this rank imports torch from " in muster.log(0, "err").decode()


def test_a_preloaded_module_has_its_variables(muster: Any, script: Script, small_torch: Path) -> None:
    """Reads by Python code during an import are detected, whatever the module's name."""
    (small_torch / "mine.py").write_text("import os\nlevel = os.environ.get('MINE_LEVEL')")
    text = "import os\nos.environ['MINE_LEVEL'] = '3'\nimport mine\nprint(mine.level)"
    out, err = see(muster, script(text), "--preload", "mine")
    assert ("3\n", False) == (out, forked(muster))
    assert "script.py sets MINE_LEVEL before it imports torch" in err


def test_a_warning_of_an_import_is_the_ranks_own(muster: Any, script: Script, small_torch: Path) -> None:
    """On its stderr, unless the script suppresses it."""
    (small_torch / "mine.py").write_text("import warnings\nwarnings.warn('mine is old')")
    text = "import os, sys, warnings\nif os.environ['RANK'] == '1':\n    warnings.simplefilter('ignore')\nimport mine"
    done = muster("run", "-g", "2", "--preload", "mine", str(script(text)))
    assert (0, True) == (done.returncode, forked(muster)), done.stderr
    line = f"{small_torch}/mine.py:2: UserWarning: mine is old\n  warnings.warn('mine is old')\n"
    assert [line, ""] == [muster.log(rank, "err").decode() for rank in range(2)]


@pytest.mark.parametrize("kind", ["sitecustomize", "pth"])
def test_what_python_runs_at_its_start_may_look_at_the_rank(
    kind: str, muster: Any, tmp_path: Path, small_torch: Path
) -> None:
    """It runs once in a fork server, which has no rank: so plain ranks are started."""
    chooses = "import builtins, os\nbuiltins.device = os.environ.get('LOCAL_RANK')\n"
    (tmp_path / "script.py").write_text("print(device)")
    if kind == "sitecustomize":
        (small_torch / "sitecustomize.py").write_text(chooses)
        python = sys.executable
    else:
        venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
        subprocess.run(venv, check=True)
        (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
        (packages / "ours.pth").write_text("import chooses\n")
        (packages / "chooses.py").write_text(chooses)
        python = str(tmp_path / "venv" / "bin" / "python")
    done = muster("run", "-g", "2", "--python", python, "script.py")
    assert {"[0] 0", "[1] 1"} == set(done.stdout.splitlines()), done.stderr
    assert "reads LOCAL_RANK, which is set only in ranks" in done.stderr


def test_an_end_before_torch_was_imported_has_its_hint(muster: Any, script: Script, small_torch: Path) -> None:
    """A library that apparently cannot be loaded after torch; later failures have other causes."""
    ends = "import os, signal\nif os.environ['RANK'] == '1':\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    path = str(script(ends + "raise ImportError('libsim.so: cannot be loaded after torch')"))
    done = muster("run", "-g", "2", path)
    said = re.findall(r"rank \d exited before it imported torch, .* use `--launcher exec`", done.stderr)
    assert 1 == len(said), done.stderr
    done = muster("run", "-g", "1", str(script("import torch\nraise ImportError('something else')")))
    assert 1 == done.returncode
    assert "before it imported torch" not in done.stderr


LOOK = """
import sys
before = set(sys.modules)
import torch, torch.distributed
import json, _imp
first = {*sys.builtin_module_names, *filter(_imp.is_frozen, sys.stdlib_module_names)}
print(json.dumps(sorted({*sys.stdlib_module_names} & {*sys.modules} - before - first)))
"""


def test_every_module_of_python_may_be_hidden_by_one_beside_the_script(muster: Any, tmp_path: Path) -> None:
    """A file for each module name: those count that plain Python would import instead of what torch has loaded."""
    from muster.agent.bootstrap import hook_sources
    from muster.agent.forkserver import CAUGHT_UP, READ_AT_LOAD, READ_AT_LOAD_PREFIXES, HookedPython, write_hook

    taken = json.loads(subprocess.check_output([sys.executable, "-c", LOOK], env=muster.env, text=True))
    assert {"types", "enum", "json", "contextlib", "tokenize", "traceback"} <= set(taken)
    folder = tmp_path / "script"
    folder.mkdir()
    for name in sys.stdlib_module_names:
        (folder / f"{name}.py").write_text("")
    (folder / "train.py").write_text("")
    write_hook(str(tmp_path / "hook"), hook_sources())
    warm = HookedPython()
    counting = {"names": READ_AT_LOAD, "prefixes": READ_AT_LOAD_PREFIXES, "caught_up": CAUGHT_UP, "threads": 1}
    with open("/dev/null", "r+") as null:
        warm.start(
            [sys.executable, str(folder / "train.py")],
            muster.env,
            str(tmp_path),
            (null.fileno(),) * 3,
            str(tmp_path / "hook"),
            mode="serve",
            preload=["torch", "torch.distributed"],
            stdin=None,
            asked=None,
            counting={**counting, "names": sorted(READ_AT_LOAD)},
        )
    said: list[dict[str, Any]] = []
    while not said:
        said = warm.messages() or [{}]
    warm.close()
    assert taken == sorted(name.partition(".")[0] for name in said[0]["namesakes"])


GETENV = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
extern char **environ;
static char *look(const char *n) {
  size_t l = strlen(n);
  for (char **e = environ; e && *e; e++) if (!strncmp(*e, n, l) && (*e)[l] == '=') return *e + l + 1;
  return 0;
}
static char *note(const char *n) {
  char *path = look("GETENV_LOG"), line[300];
  int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
  if (fd >= 0) { dprintf(fd, "%.250s\n", n); close(fd); }
  return look(n);
}
char *getenv(const char *n) { return note(n); }
char *secure_getenv(const char *n) { return note(n); }
"""

TELLS_NOTHING = {"I_MPI_NUMBER_OF_MPI_PROCESSES_PER_NODE", "I_MPI_PIN_MAPPING", "I_MPI_THREAD_LEVEL"} | {
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "NUMPY_WARN_IF_NO_MEM_POLICY",
}
"""MKL reads these, which an MPI sets before Python starts; numpy too, when it frees memory."""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="what C++ code reads is traced by a library that gcc makes")
def test_the_table_holds_what_libraries_read_at_load(tmp_path: Path, env: dict[str, str]) -> None:
    """For the installed torch. Reads by Python code are detected in each run."""
    (tmp_path / "getenv.c").write_text(GETENV)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "getenv.so", "getenv.c"], cwd=tmp_path, check=True)
    read = {}
    for kind, text in (("bare", "import ssl, urllib.request"), ("torch", "import torch, torch.distributed")):
        traced = {**env, "LD_PRELOAD": str(tmp_path / "getenv.so"), "GETENV_LOG": str(tmp_path / kind)}
        subprocess.run([sys.executable, "-c", text], env=traced, check=True)
        read[kind] = set((tmp_path / kind).read_text().split())
    found = read["torch"] - read["bare"]
    assert {"OMP_NUM_THREADS", "TORCH_DISTRIBUTED_DEBUG"} <= found
    assert [] == sorted(name for name in found - TELLS_NOTHING if not counts(name, ()))
