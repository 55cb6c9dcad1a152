"""muster as a program, for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any


class Muster:
    """`muster`, started as a user would start it."""

    def __init__(self, env: dict[str, str], cwd: Path):
        self.env, self.cwd = env, cwd
        self.home = Path(env["MUSTER_HOME"])

    def __call__(self, *words: str, timeout: float = 240, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run to completion; stdout and stderr are text."""
        options: dict[str, Any] = {"env": self.env, "cwd": self.cwd, "text": True, "timeout": timeout}
        options["capture_output"] = True
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.argv(*words), **{**options, **more})

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start without waiting; stdout and stderr are text pipes."""
        options: dict[str, Any] = {"env": self.env, "cwd": self.cwd, "text": True, "start_new_session": True}
        for name in ("stdout", "stderr"):
            options[name] = subprocess.PIPE
        return subprocess.Popen(self.argv(*words), **{"stdin": subprocess.DEVNULL, **options, **more})

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "muster", *words]

    def newest(self) -> Path:
        """The newest run directory."""
        return sorted((self.home / "runs").iterdir())[-1]

    def log(self, rank: int, stream: str = "out", attempt: int = 0) -> bytes:
        """Output of a rank of the newest run."""
        return (self.newest() / f"attempt_{attempt}" / f"rank_{rank:05d}.{stream}").read_bytes()
