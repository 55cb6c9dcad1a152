"""What a script does before it imports torch, from its source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.agent.script_preamble import Change, Preamble, counts, read, why_plain

ENV = {"HOME": "/home/ann", "OMP_NUM_THREADS": "1", "PYTORCH_JIT": "1", "TMP": "/tmp"}


class Case(NamedTuple):
    """A project, and what it sets before it imports torch."""

    script: str
    sets: str
    """The variables, or what requires plain Python."""
    files: Mapping[str, str] = {}


FUNCTION = """
import os, sys
def prepare(jit):
    os.environ["PYTORCH_JIT"] = jit
def never():
    os.environ["NEVER"] = "1"
def main():
    import torch
    os.environ["LATE"] = "1"
"""
SET = "import os\nos.environ['A'] = '1'"
METHOD = """
import os
class Setup:
    def __init__(self):
        self.prepare()
    def prepare(self):
        os.environ["A"] = "1"
Setup()
"""
IN_ONE_BRANCH = """
import os
if os.cpu_count():
    import torch
else:
    os.environ["A"] = "1"
os.environ["B"] = "1"
"""
CASES = {
    "an item": Case("import os\nos.environ['A'] = '1'\nimport torch\nos.environ['B'] = '1'", "A"),
    "an item as bytes": Case("import os\nos.environb[b'A'] = b'1'", "A"),
    "by other names": Case("from os import environ as e, putenv\ne['A'] = '1'\nputenv('B', '1')", "A B"),
    "by a name of os": Case("import os as o\nv = o.environ\nv['A'] = '1'", "A"),
    "after from torch import": Case("import os\nfrom torch import nn\nos.environ['A'] = '1'", ""),
    "after import torch.nn": Case("import os\nimport torch.nn as nn\nos.environ['A'] = '1'", ""),
    "setdefault": Case("import os\nos.environ.setdefault('A', '1'); os.environ.setdefault('PYTORCH_JIT', '0')", "A"),
    "the value that there is": Case("import os\nos.environ['PYTORCH_JIT'] = '1'", ""),
    "update": Case("import os\nos.environ.update({'A': '1'}, B='2')\nos.environ.update(dict(C='3'))", "A B C"),
    "|=": Case("import os\nos.environ |= {'A': '1'}", "A"),
    "removed": Case("import os\ndel os.environ['PYTORCH_JIT']\nos.environ.pop('TMP')", "PYTORCH_JIT TMP"),
    "removed where there is none": Case("import os\nos.environ.pop('A', None)\nos.unsetenv('B')", ""),
    "a loop over names": Case("import os\nfor name in ('A', 'B'):\n    os.environ[name] = '1'", "A B"),
    "a loop over a table": Case("import os\nfor n, v in {'A': '1'}.items():\n    os.environ[n] = v", "A"),
    "a constant": Case("import os\nNAME = 'A'\nos.environ[NAME] = '1'", "A"),
    "a constant of the project": Case(
        "import os\nfrom names import NAME\nos.environ[NAME] = '1'", "A", {"names.py": "NAME = 'A'"}
    ),
    "a name that is computed": Case("import os, sys\nos.environ[sys.argv[1]] = '1'", "with computed names"),
    "values of a file": Case("import os, json\nos.environ.update(json.load(open('x')))", "with computed names"),
    "a function that is called": Case(FUNCTION + "prepare('0')\nmain()\nnever()", "PYTORCH_JIT"),
    "a function that is none of before": Case(FUNCTION + "main()\nprepare('0')", ""),
    "under the usual if": Case(FUNCTION + "if __name__ == '__main__':\n    prepare('0')\n    main()", "PYTORCH_JIT"),
    "a function that is passed on": Case(FUNCTION + "sys.setprofile(prepare)", "PYTORCH_JIT"),
    "a method": Case(METHOD, "A"),
    "one branch": Case(IN_ONE_BRANCH, "A B"),
    "a check of types": Case("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n" + SET, "A"),
    "torch that may not be there": Case("try:\n    import torch\nexcept ImportError:\n    torch = None\n" + SET, ""),
    "with": Case("import os\nwith open('x') as file:\n    os.environ['A'] = file.read()", "A"),
    "a module of the project": Case(
        "import project.setup\nimport torch",
        "A",
        {"project/__init__.py": "", "project/setup.py": "from .sets import *", "project/sets.py": SET},
    ),
    "one that imports torch": Case(
        "from project import setup\nimport os\nos.environ['B'] = '1'",
        "A",
        {"project/__init__.py": SET, "project/setup.py": "import torch"},
    ),
    "its function": Case(
        "import helpers, os\nhelpers.prepare()\nimport torch",
        "A",
        {"helpers.py": "import os\ndef prepare():\n    os.environ['A'] = '1'"},
    ),
    "its main, which does not run": Case(
        "import helpers", "", {"helpers.py": "import os\nif __name__ == '__main__':\n    os.environ['A'] = '1'"}
    ),
    "modules that import each other": Case("import a\n" + SET, "A", {"a.py": "import b", "b.py": "import a"}),
    "a .env": Case(
        "from dotenv import load_dotenv\nload_dotenv()", "A B", {".env": "export A=1\n# C=1\nB = '2'\nHOME=x\n"}
    ),
    "no .env": Case("import dotenv\ndotenv.load_dotenv()", ""),
    "another .env": Case(
        "from dotenv import load_dotenv\nload_dotenv('other.env')", "calls load_dotenv before it imports torch"
    ),
    "how libraries are loaded": Case(
        "import sys, os\nsys.setdlopenflags(os.RTLD_NOW)", "changes the loading of libraries"
    ),
    "a library for all": Case(
        "import ctypes\nctypes.CDLL('libx.so', mode=ctypes.RTLD_GLOBAL)", "changes the loading of libraries"
    ),
    "a simulator": Case("from isaacgym import gymapi\nimport torch", "imports isaacgym before torch"),
    "a simulator afterwards": Case("import torch\nimport isaacgym", ""),
    "no text of Python": Case("def f(:\n", ""),
    "nothing": Case("", ""),
}


def look(folder: Path, script: str, files: Mapping[str, str], *argv: str) -> Preamble:
    for name, text in {**files, "train.py": script}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(["python", *(argv or ["train.py"])], str(folder), [], ENV)


@pytest.mark.parametrize("name", CASES)
def test_what_is_set_before_torch(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = look(tmp_path, case.script, case.files)
    if " " in case.sets and case.sets != case.sets.upper():
        assert case.sets in found.needs_plain
    else:
        assert (case.sets, "") == (" ".join(change.name for change in found.changes), found.needs_plain)


@pytest.mark.parametrize("argv", [("-m", "project.train"), ("-m", "project"), ("folder",), ("-m", "pdb", "train.py")])
def test_every_way_to_name_a_program(argv: tuple[str, ...], tmp_path: Path) -> None:
    sets = "import os\nif __name__ == '__main__':\n    os.environ['A'] = '1'"
    names = ("project/train.py", "project/__main__.py", "folder/__main__.py")
    found = look(tmp_path, sets, {"project/__init__.py": "", **dict.fromkeys(names, sets)}, *argv)
    assert ["A"] == [change.name for change in found.changes]


def test_a_large_project_is_not_read_for_long(tmp_path: Path) -> None:
    """Endless modules: what is not read is detected in the rank."""
    files = {f"m{number}.py": f"import m{number + 1}\n" + "x = [1, 2, 3]\n" * 2000 for number in range(400)}
    assert look(tmp_path, "import m0", files) == Preamble()


def test_a_script_that_is_a_pipe_is_left_to_python(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "script")
    assert read(["python", "script"], str(tmp_path), [], ENV) == Preamble()


WHY = [
    ("read by Python", Change("X_DEBUG", "a.py"), ["X_DEBUG"], "a.py sets X_DEBUG before it imports torch"),
    ("read by nobody", Change("X_DEBUG", "a.py"), [], ""),
    ("read by a library", Change("KMP_AFFINITY", "a.py", "none"), [], "a.py sets KMP_AFFINITY before it imports torch"),
    ("the level of logs", Change("TORCH_LOGS", "a.py", "+dynamo"), ["TORCH_LOGS"], ""),
    ("threads", Change("OMP_NUM_THREADS", "a.py", "2"), [], ""),
    (
        "too many threads",
        Change("OMP_NUM_THREADS", "a.py", "9"),
        [],
        "a.py sets OMP_NUM_THREADS before it imports torch",
    ),
    ("threads that are computed", Change("OMP_NUM_THREADS", "a.py"), [], "a.py sets OMP_NUM_THREADS before it imports"),
]


@pytest.mark.parametrize(("change", "reads", "why"), [row[1:] for row in WHY], ids=[row[0] for row in WHY])
def test_what_needs_a_plain_interpreter(change: Change, reads: list[str], why: str) -> None:
    found = why_plain(Preamble((change,)), reads, ENV, 4)
    assert found.startswith(why) if why else found == ""


def test_mkl_has_a_say_in_threads() -> None:
    change = Change("OMP_NUM_THREADS", "a.py", "2")
    assert why_plain(Preamble((change,)), (), {**ENV, "MKL_NUM_THREADS": "2"}, 4)


def test_variables_that_are_read_when_they_are_used_do_not_count() -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "MASTER_PORT", "WANDB_MODE", "TOKENIZERS_PARALLELISM"):
        assert not counts(name, ())
