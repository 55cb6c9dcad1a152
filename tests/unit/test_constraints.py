"""The exact versions that CI installs: all packages of pyproject.toml have one, and it is what the tests run with."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = dict(line.split("==") for line in (ROOT / "tools" / "constraints.txt").read_text().splitlines() if "==" in line)


def test_packages_with_one_version_in_pyproject_have_the_same_here() -> None:
    named = dict(re.findall(r'"([\w.-]+)(?:\[\w+\])?==([^";]+)"', (ROOT / "pyproject.toml").read_text()))
    assert len(named) > 20
    assert named == {name: PINS.get(name) for name in named}, "write tools/constraints.txt again: make lock"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the versions are those for Python 3.11")
def test_what_is_installed_has_these_versions() -> None:
    found = {}
    for name in PINS:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:  # only for the bill of materials
            continue
    assert len(found) > 100
    assert found == {name: PINS[name] for name in found}
