"""A runtime added by following docs/adding-a-runtime.md works with every launcher."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
print(os.uname().nodename, sys.argv[1], dist.get_world_size(), flush=True)
dist.barrier()  # a rank that exits while another one still connects makes that one fail
dist.destroy_process_group()
"""


def test_the_page_is_right(tmp_path: Path, env: dict[str, str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("a host name of its own wants root")
    page = (ROOT / "docs" / "adding-a-runtime.md").read_text()
    text, row = (dedent(block) for block in re.findall(r" *```python\n(.*?) *```", page, re.DOTALL))
    copy = tmp_path / "src" / "muster"
    shutil.copytree(ROOT / "src" / "muster", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "runtimes" / "box.py").write_text(text)
    table = copy / "runtimes" / "__init__.py"
    old = table.read_text()
    table.write_text(old.replace("    BARE: ", f"    {row.strip()}\n    BARE: "))
    assert old != table.read_text()
    env["PYTHONPATH"] = str(copy.parent)
    (tmp_path / "script.py").write_text(SCRIPT)

    def muster(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "muster", *words]
        return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)

    for launcher in ("fork", "exec", "torchrun"):
        done = muster("run", "--box", "crate", "--launcher", launcher, "-g", "2", "script.py", "word")
        assert 0 == done.returncode, (launcher, done.stderr)
        # torchrun's own lines are shown too
        shown = [line for line in done.stdout.splitlines() if "crate" in line]
        assert ["[0] crate word 2", "[1] crate word 2"] == sorted(shown), (launcher, done.stdout, done.stderr)
        assert "cannot fork" not in done.stderr
    fails = "until [ -e told ]; do sleep 0.05; done; exit 7"
    program = ("--", "sh", "-c", f"[ $RANK = 1 ] || {{ {fails}; }}; uname -n; touch told; sleep 60")
    done = muster("run", "--box", "crate", "-g", "2", *program)
    assert (7, "[1] crate\n") == (done.returncode, done.stdout), done.stderr
    assert "unshare --uts" in muster("plan", "--box", "crate", "-g", "2", "script.py").stdout
    assert "crate" != os.uname().nodename
