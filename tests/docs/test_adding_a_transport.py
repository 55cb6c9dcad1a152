"""A transport added by following docs/guides/adding-a-transport.md works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).parents[2]


def replaced(path: Path, pattern: str, text: str) -> None:
    """Replace the one occurrence."""
    new, count = re.subn(pattern, lambda _: text, path.read_text(), flags=re.MULTILINE)
    assert 1 == count, f"{pattern} is {count} times in {path}"
    path.write_text(new)


def test_the_page_is_right(tmp_path: Path, env: dict[str, str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting requires root")
    page = (ROOT / "docs" / "guides" / "adding-a-transport.md").read_text()
    text, row, option, place, transports = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    copy = tmp_path / "src" / "muster"
    shutil.copytree(ROOT / "src" / "muster", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "transports" / "private.py").write_text(text)
    replaced(copy / "transports" / "__init__.py", r"import local, ssh", "import local, private, ssh")
    replaced(copy / "transports" / "__init__.py", r'    "ssh": ', f'    {row}    "ssh": ')
    replaced(copy / "config" / "options.py", r"^    sync = flag\(\n", f"    {option}    sync = flag(\n")
    replaced(
        copy / "config" / "resolve.py",
        r"^    return JobRequest\(\n        job=job",
        indent(place, "    ") + "    return JobRequest(job=job",
    )
    replaced(copy / "launchers" / "__init__.py", r"    transports: tuple.*\n", f"    {transports}")
    env["PYTHONPATH"] = str(copy.parent)
    program = "df --output=size /dev/shm | tail -n 1; [ $RANK = 0 ] || exit 7"
    line = [sys.executable, "-m", "muster", "run", "-g", "2"]
    done = subprocess.run(
        [*line, "--private", "--", "sh", "-c", program],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert 7 == done.returncode, done.stderr
    assert ["[0] 7168", "[1] 7168"] == sorted(re.sub(" +", " ", line) for line in done.stdout.splitlines())
    size = os.statvfs("/dev/shm")
    assert 7168 << 10 != size.f_blocks * size.f_frsize, "the machine's own is another one"
