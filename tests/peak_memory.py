"""The peak of a program's memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_MEASURE = """
# a small parent of the program: the peak of a child includes what its parent was at the fork
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def measured(argv: Sequence[str]) -> list[str]:
    """Return the command line that runs a program and tells the peak of its memory in the last line of stderr."""
    return [sys.executable, "-I", "-S", "-c", _MEASURE, *argv]


def peak_of(err: str) -> int:
    """Return the peak that this stderr tells, in KiB."""
    name, number = err.splitlines()[-1].split()
    assert name == "peak", err
    return int(number)
