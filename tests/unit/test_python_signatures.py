"""`muster.run` and `muster.submit` are written from the option table, and the file is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import signatures  # noqa: E402


def test_the_file_is_up_to_date() -> None:
    assert signatures.PAGE.read_text() == signatures.page(), "run .venv/bin/python tools/signatures.py"


def test_importing_muster_imports_nothing_else() -> None:
    import subprocess

    code = "import sys; known = set(sys.modules); import muster; print(*sorted(set(sys.modules) - known))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__future__", "muster"]


def test_every_public_name_exists() -> None:
    import muster

    for name in muster.__all__:
        assert getattr(muster, name) is not None
    assert {*muster.__all__} <= {*dir(muster)}
