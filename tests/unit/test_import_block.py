"""The imports at the beginning of a script, from its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.agent.import_block import CHANGES, ImportStatement, leading_imports, worth


class Case(NamedTuple):
    """A script, the modules that it imports first, and the other files of its project."""

    script: str
    imports: str
    files: Mapping[str, str] = {}


MODEL = (
    "import logging\nfrom heavy.nn import Net\nlog = logging.getLogger(__name__)\nclass Model(Net):\n    x: int = 1\n"
)
CASES = {
    "imports": Case(
        "import os, heavy.sub\nfrom other import a as b, c\nimport third as t", "heavy.sub other:a,c third"
    ),
    "a definition between": Case("import one\nX = 1\ndef f(): set()\nclass A(one.B): y = [1]\nimport two", "one two"),
    "pure calls between": Case(
        "import one, os, logging\nfrom pathlib import Path\nHERE = Path(__file__).resolve().parent\n"
        "log = logging.getLogger(__name__)\nN = int(os.environ.get('N', '1'))\nimport two",
        "one two",
    ),
    "a variable is set": Case("import one, os\nos.environ['A'] = '1'\nimport two", "one"),
    "a default is set": Case("import one, os\nos.environ.setdefault('A', '1')\nimport two", "one"),
    "a path is added": Case("import one, sys\nsys.path.insert(0, 'x')\nimport two", "one"),
    "a call": Case("import one, warnings\nwarnings.simplefilter('error')\nimport two", "one"),
    "a call with a result": Case("import one\nx = one.setup()\nimport two", "one"),
    "a call in a default": Case("import one\ndef f(x=one.setup()): ...\nimport two", "one"),
    "a decorator": Case("import one\n@one.register\ndef f(): ...\n@one.register('x')\ndef g(): ...\nimport two", "one"),
    "a call in a class": Case("import one\nclass A:\n    x = one.setup()\nimport two", "one"),
    "a call in a base": Case("import one\nclass A(one.setup()): ...\nimport two", "one"),
    "its own function": Case("def len(x): ...\nN = len('a')\nimport one", ""),
    "an attribute is replaced": Case("import one\none.f = None\nimport two", "one"),
    "a module is replaced": Case("import sys\nsys.modules['a'] = None\nimport two", ""),
    "a loop": Case("import one\nfor x in y: pass\nimport two", "one"),
    "with": Case("import one\nwith one.offline():\n    import two", "one"),
    "assert": Case("import one\nassert one.check()\nimport two", "one"),
    "try": Case("try:\n    import one\nexcept ImportError:\n    one = None\nimport two", "one two"),
    "type checking": Case(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import one\nelse:\n    import two", "two"
    ),
    "the main block": Case("import one\nif __name__ == '__main__':\n    import two", "one"),
    "a version": Case("import sys\nif sys.version_info >= (3, 11):\n    import one\nelse:\n    import two", "one two"),
    "a call as the test": Case("import one\nif one.setup():\n    import two", "one"),
    "a walrus": Case("import one\nif (x := one):\n    pass\nimport two", "one"),
    "in a function": Case("import one\ndef main():\n    import two\nmain()\nimport three", "one"),
    "the project": Case("import one\nfrom model import Model\nimport two", "one heavy.nn:Net two", {"model.py": MODEL}),
    "a package of the project": Case(
        "from lib import a, b\nimport two",
        "first heavy.nn:Net two",
        {"lib/__init__.py": "import first", "lib/a.py": "from .c import d", "lib/b.py": "", "lib/c.py": MODEL},
    ),
    "the project sets a variable": Case(
        "import one\nimport setup\nimport two", "one", {"setup.py": "import os\nos.environ['A'] = '1'"}
    ),
    "the project calls a function": Case("import model\nimport two", "heavy.nn:Net", {"model.py": MODEL + "Model()"}),
    "a namespace package": Case("import one\nimport data\nimport two", "one", {"data/x.txt": ""}),
    "a data directory": Case("import six, one", "six one", {"six/x": "", "site-packages/six.py": ""}),
    "not Python": Case("import one\nimport", ""),
    "from future": Case('"""Text."""\nfrom __future__ import annotations\nimport one', "one"),
    "everything": Case("from one import *\nimport two", "one:* two"),
    "dynamic": Case("import one\n__import__('os').environ['A'] = '1'\nimport two", "one"),
    "a name of a project's function": Case("from setup import len\nN = len()\nimport one", "", {"setup.py": ""}),
}


@pytest.mark.parametrize("name", CASES)
def test_imports_before_anything_else(name: str, tmp_path: Path) -> None:
    """Installed packages that the script imports before it does anything that an import could notice."""
    case = CASES[name]
    for path, text in {"train.py": case.script, **case.files}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text(text)
    found = leading_imports(["python", "train.py", "--lr", "1"], str(tmp_path), [str(tmp_path / "site-packages")])
    said = " ".join(module + (":" + ",".join(names) if names else "") for module, names in found)
    assert said == case.imports


def test_of_a_module(tmp_path: Path) -> None:
    """`python -m` imports the packages of a module first."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("import one\n")
    (tmp_path / "pkg" / "train.py").write_text("from .model import f\nimport two\n")
    (tmp_path / "pkg" / "model.py").write_text("import three\n")
    found = leading_imports(["python", "-m", "pkg.train"], str(tmp_path), [])
    assert [statement.module for statement in found] == ["one", "three", "two"]
    assert leading_imports(["python", "-c", "import one"], str(tmp_path), []) == []
    assert leading_imports(["python", "missing.py"], str(tmp_path), []) == []


def test_what_is_worth_importing() -> None:
    """Only what the last run imported; what may depend on an import that has to wait has to wait, too."""
    a, b, c = ImportStatement("a"), ImportStatement("b", ("x", "y")), ImportStatement("c")
    assert worth([a, b, c], ["a", "c"], {}) == [a, c]
    assert worth([a, b, c], ["a", "b", "c"], {"from b import x, y": "starts a thread"}) == [a, c]
    assert worth([a, b, c], ["a", "b", "c"], {"from b import x, y": CHANGES + "sys.path"}) == [a]
    assert worth([a, ImportStatement("mpi4py", ("MPI",)), c], ["a", "mpi4py", "c"], {}) == [a]
