"""Whether the nodes of a job see what is on this machine, asked with an srun that runs the command here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from muster.agent.code_tree import on_one_machine
from muster.errors import InvalidRequest
from muster.schedulers import client
from muster.schedulers.client import SchedulerClient
from muster.schedulers.scheduler import Request

SRUN = """#!/bin/sh
echo >>"$0.asked"
[ ! -e "$0.busy" ] || exit 1
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/srun"
    program.parent.mkdir()
    program.write_text(SRUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    client.client.cache_clear()
    return program


def asks(root: Path, python: str = "", partition: str = "") -> bool:
    wanted = Request("train", 2, (("partition", partition),) if partition else ())
    return SchedulerClient("slurm").try_folder(root, wanted, os.environ, python)


def times(srun: Path) -> int:
    return srun.with_name("srun.asked").read_text().count("\n")


def test_nodes_are_asked_once_for_each_partition_and_interpreter(srun: Path, tmp_path: Path) -> None:
    for python, partition, asked in (
        *(("", "", 1), ("", "", 1), (sys.executable, "", 2), (sys.executable, "", 2), ("", "", 2)),
        *((sys.executable, "gpu", 3), ("", "gpu", 3)),
    ):
        assert asks(tmp_path, python, partition)
        assert asked == times(srun), f"{python} {partition}"


def test_an_environment_that_nodes_do_not_see_is_an_error(srun: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="--ship-env: Slurm nodes do not see /no/such/venv/bin/python, which"):
            asks(tmp_path, "/no/such/venv/bin/python")
    assert asks(tmp_path), "without it they can be used"


def test_if_no_node_is_free_nothing_is_known(srun: Path, tmp_path: Path) -> None:
    srun.with_name("srun.busy").touch()
    assert not asks(tmp_path, sys.executable)
    srun.with_name("srun.busy").unlink()
    assert asks(tmp_path, sys.executable)


def test_a_directory_that_nodes_cannot_write(srun: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot write to the shared run directory"):
        asks(tmp_path / "absent")


def test_which_file_systems_other_machines_do_not_see(tmp_path: Path) -> None:
    assert on_one_machine("/dev/shm"), "tmpfs"
    assert not on_one_machine("/proc/self") and not on_one_machine(str(tmp_path / "absent"))
