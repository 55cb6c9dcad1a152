"""A host list is data: no part of it reaches a shell, and none is taken for an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

GROUPS = """[Main]
default: lists
[lists]
map: echo '$GROUP' >/dev/null; echo n[1-2]
"""
"""A groups.conf(5) of ClusterShell, whose command line contains the group's name."""

EVIL = "@x';touch${IFS}p;'"


@pytest.fixture
def grouped(muster: Any, tmp_path: Path) -> Any:
    """muster where ClusterShell runs a shell command for the hosts of a group."""
    folder = tmp_path / "clustershell"
    folder.mkdir()
    (folder / "groups.conf").write_text(GROUPS)
    muster.env["CLUSTERSHELL_CFGDIR"] = str(folder)
    (tmp_path / "s.py").write_text("")
    return muster


def test_a_group_resolves(grouped: Any) -> None:
    done = grouped("plan", "-H", "@racks", "-g", "1", "s.py")
    assert 0 == done.returncode and "on n2" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "-g", "1", "-H", EVIL, "s.py"),
        ("plan", "-g", "1", "-H", f"n1,n2&{EVIL}", "s.py"),
        ("plan", "-g", "1", "--hostfile", "hosts", "s.py"),
        ("plan", "-g", "1", "-H", "n[1-2]", "--include", EVIL[1:], "s.py"),
        ("doctor", "-H", EVIL),
        ("clean", "-H", EVIL),
        ("show", f"{EVIL}:last"),
        ("show", "-oProxyCommand=touch p:last"),
        ("logs", "a;touch p;@n1:last"),
    ],
)
def test_names_are_compared_with_a_pattern_first(grouped: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "hosts").write_text("n1\n@x';touch${IFS}p;'\n")
    done = grouped(*words)
    assert 2 == done.returncode, done.stderr
    assert "hint: " in done.stderr and "Traceback" not in done.stderr
    assert [] == list(tmp_path.rglob("p"))


def test_a_value_for_one_host_is_not_expanded(grouped: Any, tmp_path: Path) -> None:
    """The part before the colon of `--setup` may be a shell line of the user's, but is not run here."""
    done = grouped("plan", "-H", "n1", "-g", "1", "--setup", f"{EVIL}:true", "s.py")
    assert 0 == done.returncode, done.stderr
    assert [] == list(tmp_path.rglob("p"))


def test_hosts_of_slurm(grouped: Any, tmp_path: Path) -> None:
    grouped.env.update(SLURM_JOB_ID="1", SLURM_JOB_NODELIST="-oProxyCommand=touch${IFS}p,n1", SLURM_JOB_NUM_NODES="2")
    done = grouped("run", "--slurm", "-g", "1", "s.py")
    assert 2 == done.returncode and "invalid host name" in done.stderr, done.stderr
