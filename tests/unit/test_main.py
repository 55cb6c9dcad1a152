"""The program `muster` itself: what it does with errors that a command did not expect."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from muster import cli
def call(*_):
    raise OSError(int(sys.argv[1]), sys.argv[2], "/full/outcome.json")
cli.call = call
cli.main(["kill"])
"""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_of_any_command(number: int) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(number), os.strerror(number)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    said = f"error: {os.strerror(number)}: /full/outcome.json\nhint: see `df`, `quota` and `ulimit -f`\n"
    assert (125, said) == (done.returncode, done.stderr)
