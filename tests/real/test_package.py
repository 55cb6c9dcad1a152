"""The wheel and the source archive: built, installed into a new environment, and used."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from muster import __version__

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("package")  # it is built once


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source archive, and the wheel built from that archive."""
    folder = tmp_path_factory.mktemp("dist")
    # hatchling as it is installed here: nothing is downloaded
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert 0 == done.returncode, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def fresh(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `muster` of an environment with the wheel, and with this environment's torch."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=240)
    (wheel,) = built.glob("*.whl")
    line = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*line, "--no-index", "--disable-pip-version-check", str(wheel)], check=True, timeout=240)
    there = next((folder / "lib").glob("python*/site-packages"))
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    # after the environment's own packages: a muster installed here is not used
    (there / "torch.pth").write_text(f"{Path(str(torch.origin)).parents[1]}\n")
    return folder / "bin" / "muster"


def test_the_source_archive_has_what_is_needed_and_no_more(built: Path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src/muster/cli/__init__.py",
        "docs/design.md",
        "tests/lab_cluster.py",
    } <= names
    assert not {name for name in names if re.search(r"(^|/)(\.venv|build|__pycache__|\.git)(/|$)", name)}


def test_the_wheel_has_all_of_muster_and_nothing_else(built: Path):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    code = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src" / "muster").rglob("*.py")}
    code.add("muster/py.typed")  # users' type checkers read the annotations
    pages = {f"muster/docs/{file.relative_to(ROOT / 'docs')}" for file in (ROOT / "docs").rglob("*") if file.is_file()}
    assert {"muster/docs/hangs.md", "muster/docs/guides/failures.md"} <= pages <= names, "`muster docs` prints them"
    names -= pages
    assert code == {name for name in names if ".dist-info/" not in name}
    assert f"\nVersion: {__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text


def test_it_runs_in_a_fresh_environment(fresh: Path, tmp_path: Path):
    env = {"PATH": os.defpath, "HOME": str(tmp_path)}
    run = [str(fresh), "run", "-g", "2", str(ROOT / "examples" / "distributed_sum.py")]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 1 is 1, as it should be" in done.stdout
    assert "launcher fork" in done.stderr
    page = subprocess.run(
        [str(fresh), "docs", "recover"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert (0, (ROOT / "docs" / "recover.md").read_text(), "") == (page.returncode, page.stdout, page.stderr)
    assert str(fresh.parent) in done.stderr, "the ranks have the Python of the environment"
    line = [str(fresh.with_name("python")), "-c", "import muster; print(muster.__file__)"]
    found = subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert found.stdout.startswith(str(fresh.parents[1])), found


@pytest.mark.lab
def test_the_bill_of_materials_lists_what_the_wheel_requires() -> None:
    """`make sbom`: CycloneDX, by a program that is installed for that alone."""
    done = subprocess.run([ROOT / "tools" / "sbom"], capture_output=True, text=True, timeout=280)
    assert 0 == done.returncode, done.stderr
    bom = json.loads((ROOT / "build" / f"torchmuster-{__version__}.cdx.json").read_text())
    root = bom["metadata"]["component"]
    assert ("CycloneDX", "torchmuster", __version__) == (bom["bomFormat"], root["name"], root["version"])
    assert {"ClusterShell", "cloudpickle"} <= {part["name"] for part in bom["components"]}
    assert all(part["version"] and part["licenses"] for part in bom["components"])
