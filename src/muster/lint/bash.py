"""Asks bash whether it can parse a script, without executing it."""

from __future__ import annotations

import os
import re
import subprocess

_MESSAGE = re.compile(r"[^:]*: line (\d+): (.*)")
_WITHIN = 10.0
"""Seconds for bash to parse a script."""


def said_by_bash(text: str) -> tuple[int, str] | None:
    """Return the line and the message of the first error in a script; None without one, or without bash."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}  # without BASH_ENV, which is a script to run
    try:
        # with the patterns of `shopt -s extglob`, which is not executed
        done = subprocess.run(
            ["bash", "-O", "extglob", "-n", "/dev/stdin"],
            input=text.encode(),
            capture_output=True,
            env=env,
            timeout=_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return None
    found = [_MESSAGE.fullmatch(line) for line in done.stderr.decode(errors="replace").splitlines()]
    first = next((match for match in found if match is not None), None)
    return (int(first[1]), first[2].removeprefix("syntax error: ")) if first is not None else None
