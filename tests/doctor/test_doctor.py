"""`muster doctor` in the lab: without faults, and with each fault that is visible before a run."""

from __future__ import annotations

import json
import re

import pytest
from lab_cluster import LabCluster

_PLAIN = "/usr/bin/python3"
"""Debian's Python, without torch, whose two imports take most of doctor's time here."""


def test_a_healthy_lab_passes_without_a_warning(there: LabCluster) -> None:
    passed, failed = there.folder / "passed", there.folder / "failed"
    done = there.muster("doctor", "-H", "n1,n2,n3", "--pass-file", str(passed), "--fail-file", str(failed))
    assert 0 == done.returncode, done.stdout + done.stderr
    warned = set(re.findall("^(?:warning|error) +(.*)$", done.stdout, re.MULTILINE))
    assert warned <= {"import of torch"}, done.stdout  # a busy machine imports slowly
    assert re.search(r"^19 checks passed, 1 skipped$", done.stdout, re.MULTILINE), done.stdout
    assert ("n1\nn2\nn3\n", "") == (passed.read_text(), failed.read_text())
    there.nothing_left()


@pytest.mark.parametrize(
    ("fault", "check", "level", "says"),
    [
        ("partition", "hosts reachable", "error", ""),
        ("freeze", "hosts reachable", "error", ""),
        ("crash", "hosts reachable", "error", ""),
        ("drop-ssh", "hosts reachable", "error", ""),
        ("slow-dns", "unknown names fail quickly (NXDOMAIN)", "warning", "s to fail"),
        ("loopback-name", "hostname is not a loopback address", "warning", "its own hostname resolves to 127.0.1.1"),
        ("full-disk", "free disk space and write test", "error", "No space left on device"),
        ("stall", "free disk space and write test", "error", "hangs"),
    ],
)
def test_a_fault_is_named_with_its_host_and_advice(
    there: LabCluster, fault: str, check: str, level: str, says: str
) -> None:
    there.lab.fault(fault, "n2")
    folder = {"full-disk": there.lab.folder.scratch, "stall": f"{there.lab.folder.path}/share"}.get(fault)
    # ssh would wait for a host that is gone for half a minute
    where = ["--python", _PLAIN, "--ssh", "ssh -o ConnectTimeout=10", *(["--cwd", folder] if folder else [])]
    failed = there.folder / "failed"
    done = there.muster("doctor", "-H", "n1,n2", "--json", "--fail-file", str(failed), *where)
    assert 1 == done.returncode, done.stdout + done.stderr  # torch is missing in any case
    found = {item["check"]: item["findings"] for item in json.loads(done.stdout)["checks"] if item["findings"]}
    found.pop("import of torch")
    named = [finding for finding in found[check] if finding["host"] == "n2"]
    assert named, found
    assert {level} == {finding["level"] for finding in named}
    assert any(says in finding["found"] for finding in named), named
    assert all(finding["why"] and finding["do"] for finding in named), named
    assert "n2" in failed.read_text().split()
    assert not [item for name, items in found.items() for item in items if item["host"] == "n1"], found


def test_a_slurm_that_does_not_answer(there: LabCluster) -> None:
    there.lab.fault("slurmctld-down")
    done = there.muster("doctor", "-H", "n1", "--python", _PLAIN)
    assert "no answer from Slurm" in done.stdout, done.stdout + done.stderr


def test_variables_and_packages_of_one_host(there: LabCluster) -> None:
    done = there.muster(
        "doctor", "-H", "n1", "--python", _PLAIN, "--setup", "export MASTER_ADDR=old NCCL_SOCKET_IFNAME=ib0"
    )
    assert 1 == done.returncode
    assert "MASTER_ADDR=old is set in the environment" in done.stdout
    assert "NCCL_SOCKET_IFNAME=ib0: no such interface (interfaces: eth0, lo)" in done.stdout
    assert "`import torch` fails: ModuleNotFoundError: No module named 'torch'" in done.stdout


def test_this_machine_alone(there: LabCluster) -> None:
    done = there.muster("doctor")
    # this machine may have problems of its own, which are then reported
    assert (
        0 if re.search("checks passed(, [0-9]+ skipped)?$|: 0 errors", done.stdout, re.MULTILINE) else 1
    ) == done.returncode
    assert re.search("^(ok|warning) +import of torch", done.stdout, re.MULTILINE)  # a busy machine imports slowly


def test_a_full_disk_during_a_run_is_reported_with_host_and_advice(there: LabCluster) -> None:
    """The report includes doctor's finding, now and later."""
    there.lab.fault("full-disk", "n2")
    text = f"open('{there.lab.folder.scratch}/state', 'w').write('x' * 100000)"
    done = there.muster("run", "-H", "n1,n2", "-g", "1", there.script(text))
    assert 1 == done.returncode
    assert "rank 1 on n2 failed first" in done.stderr
    assert "No space left on device" in done.stderr
    hint = (
        "hint: a disk of n2 is full, or your quota is exceeded: see `df -h` and `df -i`; `muster doctor` with the same"
    )
    assert hint in done.stderr
    assert hint in there.muster("show", "last").stdout
    there.nothing_left()


def test_a_run_makes_the_cheap_checks(there: LabCluster) -> None:
    """A variable that a machine sets for all users is reported before it fails, with the machine's name."""
    line = ["--setup", "n2:export NCCL_SOCKET_IFNAME=ib0", there.script("print('well')")]
    done = there.muster("run", "-H", "n1,n2", "-g", "1", *line)
    assert 0 == done.returncode, done.stderr
    said = "muster: warning: n2: NCCL_SOCKET_IFNAME=ib0: no such interface (interfaces: eth0, lo): "
    assert 1 == done.stderr.count(said)
    assert "NCCL_SOCKET_IFNAME" not in there.muster("run", "-H", "n1,n2", "-g", "1", there.script("print(1)")).stderr
    here = there.muster("run", "-g", "2", "--env", "GLOO_SOCKET_IFNAME=ib0", there.script("print('well')"))
    assert ": GLOO_SOCKET_IFNAME=ib0: no such interface" in here.stderr
    there.nothing_left()


def test_nodes_of_slurm(there: LabCluster) -> None:
    """As many nodes as requested, for as long as it takes; inside an allocation its own nodes."""
    done = there.muster("doctor", "--slurm", "-N", "2", "--json", "--python", _PLAIN)
    assert 1 == done.returncode, "there is no torch"
    found = json.loads(done.stdout)
    assert 2 == len(found["hosts"])
    assert {"import of torch"} == {item["check"] for item in found["checks"] if item["findings"]}
    words = ["-N2", "-n4", *there.argv("doctor", "--json", "--python", _PLAIN)]
    inside = there.lab.run("head", ["salloc", *words], env={**there.lab.environment(), **there.env}, timeout=240)
    assert found["hosts"] == json.loads(inside.stdout)["hosts"]
    refused = there.muster("doctor", "--slurm", "-p", "nosuch")
    assert 1 == refused.returncode
    assert "invalid partition specified: nosuch" in refused.stderr
    both = there.muster("doctor", "--slurm", "-H", "n1")
    assert (2, True) == (
        both.returncode,
        "--slurm cannot be combined with --hosts: Slurm chooses the nodes" in both.stderr,
    )
    there.nothing_left()
