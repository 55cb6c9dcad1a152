"""A launcher added by following docs/adding-a-launcher.md works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


def test_the_page_is_right(tmp_path: Path, env: dict[str, str]) -> None:
    page = (ROOT / "docs" / "adding-a-launcher.md").read_text()
    text, row = (dedent(block) for block in re.findall(r" *```python\n(.*?) *```", page, re.DOTALL))
    copy = tmp_path / "src" / "muster"
    shutil.copytree(ROOT / "src" / "muster", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "launchers" / "loop.py").write_text(text)
    table = copy / "launchers" / "__init__.py"
    old = table.read_text()
    new = old.replace('    "srun":', f'    {row.strip()}\n    "srun":')
    assert '"loop"' in new
    table.write_text(new)
    env["PYTHONPATH"] = str(copy.parent)
    line = [sys.executable, "-m", "muster", "run", "--launcher", "loop", "-g", "3"]
    example = str(ROOT / "examples" / "distributed_sum.py")
    done = subprocess.run([*line, example], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 0 == done.returncode, done.stderr
    assert "[0] the sum of 0 to 2 is 3, as it should be" in done.stdout
    program = ["--", "sh", "-c", "[ $RANK = 2 ] && exit 7; sleep 60"]
    done = subprocess.run([*line, *program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert 7 == done.returncode, done.stderr
    assert "rank 2 failed first" in done.stderr
