"""The archive that stays with a run: what is in it, and the copy in muster's directory."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import muster
from muster import bundle

ROOT = Path(muster.__file__).parent


def modules_of(path: Path) -> set[str]:
    """Return what a module imports anywhere, as names of modules or of things in them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def file_of(module: str) -> Path | None:
    base = ROOT.parent.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def test_it_has_all_that_its_programs_import() -> None:
    """Also what functions import when they are called."""
    names = zipfile.ZipFile(io.BytesIO(bundle.build())).namelist()
    queue, seen = list(modules_of_text(bundle._MAIN)), set[str]()
    while queue:
        module = queue.pop()
        path = file_of(module)
        if module in seen or path is None or not module.startswith("muster"):
            continue
        if module.startswith(("muster.api", "muster.python.")):
            continue  # what `import muster` names is imported when it is first used, which is not here
        seen.add(module)
        assert f"muster/{path.relative_to(ROOT)}" in names, module
        queue += modules_of(path) | ({module.rpartition(".")[0]} if "." in module else set())
    assert {"muster.controller.batch", "muster.agent.join", "muster.report.page"} <= seen


def modules_of_text(text: str) -> set[str]:
    nodes = ast.walk(ast.parse(text))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The calls of `build`, which returns their number."""
    calls: list[bool] = []

    def build(compiled: bool = False) -> bytes:
        calls.append(compiled)
        return b"archive %d" % len(calls)

    monkeypatch.setattr(bundle, "build", build)
    return calls


def test_it_is_built_once(tmp_path: Path, built: list[bool]) -> None:
    home = tmp_path / "home"
    assert [bundle.kept(home), bundle.kept(home)] == [b"archive 1"] * 2
    assert built == [True]
    assert oct((home / bundle.KEPT).stat().st_mode)[-3:] == "600"
    assert [path.name for path in home.iterdir()] == [bundle.KEPT]


def test_it_is_built_again_if_a_file_has_changed(
    tmp_path: Path, built: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "module.py"
    source.write_text("a = 1\n")
    monkeypatch.setattr(bundle, "_files", lambda: [("module.py", str(source))])
    bundle.kept(tmp_path)
    os.utime(source, (1, 1))
    assert bundle.kept(tmp_path) == b"archive 2"
    monkeypatch.setattr(sys.implementation, "cache_tag", "other-314")  # the bytecode of another Python
    assert bundle.kept(tmp_path) == b"archive 3"


@pytest.mark.parametrize("damage", (b"", b"x", None))
def test_a_damaged_one_is_not_used(tmp_path: Path, built: list[bool], damage: bytes | None) -> None:
    bundle.kept(tmp_path)
    path = tmp_path / bundle.KEPT
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert bundle.kept(tmp_path) == b"archive 2"


def test_one_that_others_could_have_written_is_not_used(tmp_path: Path, built: list[bool]) -> None:
    bundle.kept(tmp_path)
    (tmp_path / bundle.KEPT).chmod(0o666)
    assert bundle.kept(tmp_path) == b"archive 2"
    tmp_path.chmod(0o777)
    assert bundle.kept(tmp_path) == b"archive 3"
    tmp_path.chmod(0o700)
    (tmp_path / bundle.KEPT).rename(tmp_path / "other")
    (tmp_path / bundle.KEPT).symlink_to(tmp_path / "other")
    assert bundle.kept(tmp_path) == b"archive 4"


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path, built: list[bool]) -> None:
    (tmp_path / "home").write_text("a file")
    assert bundle.kept(tmp_path / "home") == b"archive 1"


def file_of_shim(path: Path) -> str:
    """Return the file that a function of the shim names, as a rank imports it."""
    show = "import sys; sys.path.insert(0, sys.argv[1]); from muster.agent.rank_shim import main; "
    show += "print(main.__code__.co_filename)"
    done = subprocess.run([sys.executable, "-c", show, str(path)], capture_output=True, text=True, cwd="/", env={})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ranks_do_not_compile_the_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another Python do."""
    shim = tmp_path / "rank.pyz"
    shim.write_bytes(bundle.build_shim("token 1"))
    assert file_of_shim(shim) == "muster/agent/rank_shim.py"
    monkeypatch.setattr(bundle.importlib.util, "MAGIC_NUMBER", b"?\r\r\n")
    shim.write_bytes(bundle.build_shim("token 2"))
    assert file_of_shim(shim) == f"{shim}/muster/agent/rank_shim.py"


COMPILED = """
import sys
sys.path.insert(0, sys.argv[1])
compiled = []
def seen(frame, event, arg):
    if event == "call" and frame.f_code.co_name == "_compile_source":
        compiled.append(frame.f_locals)
sys.setprofile(seen)
import muster.controller.detached
sys.setprofile(None)
assert muster.controller.detached.__file__.startswith(sys.argv[1])
print(len(compiled))
"""


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("kept", [True, False], ids=["bytecode kept", "none kept"])
def test_no_controller_compiles_what_the_archive_has(kept: bool, zone: str, tmp_path: Path) -> None:
    """Whatever the time zone there, in which archives tell times of files, and if Python keeps no bytecode."""
    env = {**os.environ, "TZ": "UTC", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    if not kept:
        env["PYTHONDONTWRITEBYTECODE"] = "1"
    path = tmp_path / "muster.pyz"
    make = "import sys; from muster import bundle; sys.stdout.buffer.write(bundle.build(compiled=True))"
    path.write_bytes(subprocess.run([sys.executable, "-c", make], env=env, capture_output=True, check=True).stdout)
    words = [sys.executable, "-I", "-S", "-c", COMPILED, str(path)]
    done = subprocess.run(words, env={**env, "TZ": zone}, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
