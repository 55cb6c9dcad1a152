"""Fixtures of the tests over ssh: another login on one host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_cluster import LabCluster, there

from muster.lab import Lab

__all__ = ["there"]


@pytest.fixture(scope="session")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose hosts share nothing but the interpreter; the files of the tests are on the head."""
    with Lab(nodes=3, shared_home=False, shared=[tmp_path_factory.getbasetemp()]) as lab:
        yield lab


@pytest.fixture
def alone(apart: Lab, tmp_path: Path) -> LabCluster:
    return LabCluster(apart, tmp_path)


@pytest.fixture
def login(there: LabCluster) -> Iterator[Callable[..., None]]:
    """Change root's login on a node: a .bashrc, a shell; undone at the end."""
    done: list[tuple[str, str]] = []

    def change(host: str, line: str, undo: str) -> None:
        assert 0 == there.lab.run(host, ["sh", "-c", line], cwd="/").returncode
        done.append((host, undo))

    yield change
    for host, undo in done:
        there.lab.run(host, ["sh", "-c", undo], cwd="/")


@pytest.fixture
def bashrc(login: Callable[..., None]) -> Callable[[str, str], None]:
    """Make root's shells on one host read these lines at their start, without changing the shared file."""

    def change(host: str, lines: str) -> None:
        path = os.path.expanduser("~root/.bashrc")
        if not os.path.exists(path):
            pytest.skip(f"there is no {path} that could be covered")
        cover = f"mkdir -p /run/rc && cat > /run/rc/bashrc <<'END'\n{lines}\nEND\nmount --bind /run/rc/bashrc {path}"
        login(host, cover, f"umount {path}")

    return change
