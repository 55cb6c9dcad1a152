"""What the last run of a script imported is imported once, before the fork of ranks; the script sees no difference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

Script = Callable[..., Path]

TORCH = {
    "__init__.py": """
import warnings
warnings.filterwarnings("ignore", message="of torch")
from .version import __version__
from . import distributed, version
class default_generator:
    seed = staticmethod(lambda: None)
    get_state = staticmethod(lambda: default_generator)
    tolist = staticmethod(lambda: [1])
class cuda:
    is_initialized = staticmethod(lambda: False)
def set_num_threads(number): ...
def get_num_threads(): return 1
def get_default_dtype(): return "float32"
""",
    "version.py": "__version__ = '2.13.0'\ncuda = None",
    "distributed/__init__.py": """
from . import c10d_logger
def is_available(): return False
def init_process_group(): c10d_logger._WaitCounter("torch.init_process_group")
""",
    "distributed/c10d_logger.py": "class _WaitCounter:\n    def __init__(self, name): ...\n",
}
"""The parts of torch that a fork server needs, and the call with which a rank records what it has imported."""

NOTED = """
import os
with open(os.environ['IMPORTED'], 'a') as file:
    print(__name__, os.readlink('/proc/self'), file=file)
"""
"""Statements of a package that note which process imports it."""

PACKAGES = {
    "base/__init__.py": NOTED + "import warnings\nwarnings.filterwarnings('ignore', message='of base')\n",
    "good/__init__.py": NOTED
    + """
import os, sys, warnings, importlib
import base
LEVEL = os.environ.get("GOOD_LEVEL")
os.environ.setdefault("GOOD_ADDED", "1")
warnings.filterwarnings("ignore", message="of good")
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None): return None
sys.meta_path.append(Finder)
def __getattr__(name):
    if name == "Lazy":
        return importlib.import_module("good.lazy").Lazy
    raise AttributeError(name)
""",
    "good/lazy.py": NOTED + "import torch.extra\nclass Lazy: ...\n",
    "torch/extra.py": NOTED,
    "threads/__init__.py": NOTED
    + "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
    "ranks/__init__.py": NOTED + "import os\nRANK = os.environ.get('RANK')\n",
    "after/__init__.py": NOTED,
    "unique/__init__.py": NOTED + "import uuid\nID = uuid.uuid4()\n",
    "process/__init__.py": NOTED + "import os\nPID = os.getpid()\n",
    "binds/__init__.py": NOTED
    + """
from os import getpid, urandom
from atexit import register
ALL = lambda: (getpid, urandom, register)
""",
    "changes/__init__.py": NOTED + "import sys\nsys.path.append('/nonexistent')\n",
    "ends/__init__.py": NOTED + "import os\nif 'RANK' not in os.environ: os._exit(3)\n",
}

PROBE = """
import os
import sys
import warnings

NAMES = ("base", "good", "good.lazy", "torch.extra", "threads", "ranks", "after", "torch")


class Mine:
    'A definition between the imports.'

    def __init__(self, x: int = 1): ...


A = [name in sys.modules for name in NAMES], os.environ.get("GOOD_ADDED"), len(warnings.filters)
import good
B = [name in sys.modules for name in NAMES], os.environ.get("GOOD_ADDED"), len(warnings.filters), hasattr(good, "lazy")
import torch
C = [name in sys.modules for name in NAMES], len(warnings.filters), hasattr(torch, "extra")
from good import Lazy
D = [name in sys.modules for name in NAMES], hasattr(torch, "extra"), sys.modules["good.lazy"].Lazy is Lazy
ORDER = [name for name in sys.modules if name in NAMES]
import torch.distributed
print(A, B, C, D, sorted(ORDER), good.__spec__.origin, good.Finder in sys.meta_path, good.LEVEL, Lazy.__module__)
"""
RECORD = "\nif 'RANK' in os.environ: torch.distributed.init_process_group()\n"


@pytest.fixture
def installed(muster: Any, tmp_path: Path) -> Path:
    """A directory of installed packages, which note who imports them."""
    folder = tmp_path / "lib" / "site-packages"
    for name, text in {**{f"torch/{name}": text for name, text in TORCH.items()}, **PACKAGES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    muster.env.update(PYTHONPATH=str(folder), IMPORTED=str(tmp_path / "imported"), PYTHONDONTWRITEBYTECODE="1")
    return folder


def see(muster: Any, path: Path, *options: str) -> tuple[dict[str, int], str]:
    """Run a script twice in parallel: in how many processes each package was imported, and muster's messages.

    Both ranks must have printed what plain Python prints.
    """
    alone = subprocess.run([sys.executable, path], env=muster.env, cwd=muster.cwd, capture_output=True, text=True)
    imported = Path(muster.env["IMPORTED"])
    imported.unlink()
    done = muster("run", "-g", "2", *options, str(path))
    assert 0 == done.returncode == alone.returncode, (done.stderr, alone.stderr)
    assert [alone.stdout] * 2 == [muster.log(rank).decode() for rank in range(2)]
    pairs = {tuple(line.split()) for line in imported.read_text().splitlines()}
    names = [name for name, _ in pairs]
    return {name: names.count(name) for name in names}, done.stderr


def warm(muster: Any) -> dict[str, Any]:
    events = map(json.loads, (muster.newest() / "events.jsonl").read_text().splitlines())
    return next(event for event in events if event["event"] == "warm")


def test_what_the_last_run_imported_is_imported_once(muster: Any, script: Script, installed: Path) -> None:
    """For all ranks; the script sees plain Python's state before, between and after its imports."""
    path = script(PROBE + RECORD)
    first, _ = see(muster, path)
    assert {"base": 2, "good": 2, "good.lazy": 2, "torch.extra": 2} == first
    planned = muster("plan", "-g", "2", str(path)).stdout
    assert f"preload   the first imports of the script, as run {muster.newest().name} made them" in planned
    second, said = see(muster, path)
    assert {"base": 1, "good": 1, "good.lazy": 1, "torch.extra": 1} == second, said
    assert ["good", "torch", "torch.distributed"] == sorted(warm(muster)["found"])
    assert "preload  good, torch, torch.distributed (imported by the last run" in muster("show", "last").stdout
    # an edit that keeps the first imports changes nothing; one that sets a variable before them does
    third, _ = see(muster, script(PROBE + "print('more')" + RECORD))
    assert second == third
    early = "import os\nos.environ['GOOD_LEVEL'] = '3'\n"
    fourth, said = see(muster, script(early + PROBE + RECORD))
    assert (first, True) == (fourth, warm(muster)["fork"]), said
    fifth, _ = see(muster, path := script(PROBE + RECORD), "--no-auto-preload")
    assert first == fifth
    assert second == see(muster, path)[0]
    (installed / "another.py").touch()  # something was installed
    assert first == see(muster, path)[0]
    assert second == see(muster, path)[0]


def test_what_ranks_cannot_share_waits_for_the_script(muster: Any, script: Script, installed: Path) -> None:
    """With a sentence, and only once; the other packages are imported ahead."""
    text = "import os\nimport good\nimport threads\nfrom ranks import RANK\nimport after\nimport torch.distributed\n"
    path = script(text + RECORD)
    see(muster, path)
    again, said = see(muster, path)
    assert "`import threads` starts a thread" in said
    assert "`from ranks import RANK` reads RANK, which each rank has for itself" in said
    third, said = see(muster, path)
    assert "`" not in said
    expected = {"good": 1, "base": 1, "threads": 2, "ranks": 2, "after": 1}
    assert expected == third
    assert expected == {name: min(number, 2) for name, number in again.items()} | {"good": 1, "base": 1, "after": 1}


def test_what_is_unique_in_a_process_waits_for_the_script(muster: Any, script: Script, installed: Path) -> None:
    """Random and process ids; functions that are imported from os and atexit are the real ones."""
    text = "import atexit, os\nimport unique\nimport process\nimport binds\nimport after\nimport torch.distributed\n"
    path = script(text + "assert (os.getpid, os.urandom, atexit.register) == binds.ALL()\n" + RECORD)
    see(muster, path)
    _, said = see(muster, path)
    assert "`import unique` draws random bytes" in said
    assert "`import process` asks for its process id" in said
    third, said = see(muster, path)
    assert ({"unique": 2, "process": 2, "after": 1, "binds": 1}, False) == (third, "`" in said)


def test_what_changes_the_process_holds_back_what_follows(muster: Any, script: Script, installed: Path) -> None:
    """Later imports may depend on the change. An import that ends the fork server waits, too."""
    text = "import os\nimport good\nimport changes\nimport after\nimport torch.distributed\n" + RECORD
    path = script(text)
    see(muster, path)
    _, said = see(muster, path)
    assert "`import changes` changes sys.path" in said
    third, said = see(muster, path)
    assert ({"good": 1, "base": 1, "changes": 2, "after": 2}, False) == (third, "`" in said)
    path = script("import os\nimport ends\nimport torch.distributed\n" + RECORD, "ends.py")
    for _ in range(3):
        done = muster("run", "-g", "2", str(path))
        assert (0, True) == (done.returncode, warm(muster)["fork"]), done.stderr
    assert "found" not in warm(muster) or "ends" not in warm(muster)["found"]
