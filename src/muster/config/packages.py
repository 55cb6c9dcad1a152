"""Versions installed for another interpreter, read from its package metadata without importing torch."""

from __future__ import annotations

import json
import os
import subprocess
from typing import NamedTuple

_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
try:
    torch = version("torch")
except PackageNotFoundError:
    torch = ""
print(json.dumps([sys.version.split()[0], torch]))
"""
_WITHIN = 20.0


class Versions(NamedTuple):
    """The versions of an interpreter and its torch."""

    python: str
    torch: str
    """Empty if torch is not installed."""


def versions(python: str) -> Versions | None:
    """Return the versions of an interpreter; None if it does not start."""
    try:
        # a wrapper, or a sitecustomize, may print something first; with `-c` the working directory, which may contain a
        # json.py, is first on sys.path
        python = os.path.abspath(python) if "/" in python else python
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_WITHIN, cwd="/")
        return Versions(*json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError, TypeError):
        return None
