"""A browser without a window, for the tests of pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def look(url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Chromium makes of a page: its elements on stdout, its messages on stderr. It writes in `folder`."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.geteuid() != 0, "tools/system installs chromium"
        pytest.skip("there is no chromium; tools/system installs it")
    line = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--dump-dom"]
    line += ["--virtual-time-budget=5000", f"--user-data-dir={folder}/profile", *words, url]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    done = subprocess.run([chromium, *line], env=env, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done
