"""What is installed for an interpreter that is not ours. It is asked for what its files say; torch is not imported."""

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
    """What an interpreter has."""

    python: str
    torch: str
    """Empty where there is none."""


def versions(python: str) -> Versions | None:
    """Ask an interpreter; None when it does not answer."""
    try:
        # a wrapper, or a sitecustomize, may print before; with `-c` the working directory, where somebody's json.py may
        # lie, is first on sys.path
        python = os.path.abspath(python) if "/" in python else python
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_WITHIN, cwd="/")
        return Versions(*json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError, TypeError):
        return None
