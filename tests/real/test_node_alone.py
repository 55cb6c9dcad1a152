"""What happens on a node if a process dies, is slow, or has the pid of another one, at an awkward moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node_alone.py"


SCENARIOS = (
    *("died", "died_before_a_signal", "signalled_early", "interrupted"),
    *("reused", "shim_of_reused", "external_reused", "warned", "crashed"),
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_node_alone(scenario: str, env: dict[str, str], tmp_path: Path) -> None:
    """The scenarios are in `node_alone.py`."""
    done = subprocess.run(
        [sys.executable, NODE, scenario, tmp_path], env=env, capture_output=True, text=True, timeout=120
    )
    assert 0 == done.returncode, done.stdout + done.stderr
