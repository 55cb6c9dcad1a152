"""Hosts that have only IPv6 addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cluster import EXAMPLE, LabCluster

from muster.lab import Lab

ADDRESSES = {"head": "fd77::100", "n1": "fd77::1", "n2": "fd77::2"}

CHANGE = """
set -e
echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
ip address add {address}/64 dev eth0 nodad
ip -4 address flush dev eth0
cat > /etc/hosts
sed -i 's/^Host .*/& fd77:*/' /etc/ssh/ssh_config
"""
"""Converts a host of the lab to one; its stdin is the new /etc/hosts. Slurm is lost, ssh is not."""


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose hosts have only IPv6 addresses."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    with Lab(nodes=2, gpus=0, shared=[tmp_path_factory.getbasetemp(), EXAMPLE.parents[1]]) as lab:
        key = " ".join(Path(lab.folder.ssh, "host_key.pub").read_text().split()[:2])
        with open(f"{lab.folder.ssh}/known_hosts", "a") as known:
            known.writelines(f"{address} {key}\n" for address in ADDRESSES.values())
        names = "127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{a} {host}\n" for host, a in ADDRESSES.items())
        for host, address in ADDRESSES.items():
            lab.run(host, ["sh", "-c", CHANGE.format(address=address)], cwd="/", check=True, input=names)
        yield lab


@pytest.fixture
def far(six: Lab, tmp_path: Path) -> Iterator[LabCluster]:
    made = LabCluster(six, tmp_path)
    yield made
    made.nothing_left()


@pytest.mark.xdist_group("ipv6")
@pytest.mark.parametrize(
    ("launcher", "hosts"),
    [
        ("fork", ["--hostfile", "hosts"]),
        ("torchrun", ["-H", "n1,n2", "-g", "1"]),
    ],
)
def test_hosts_that_have_ipv6_alone_meet(far: LabCluster, launcher: str, hosts: list[str]) -> None:
    """By name, and by addresses with numbers of ranks; agents, the store and gloo all use IPv6."""
    far.script("[fd77::1]:2\nfd77::2 slots=1\n", "hosts")
    script = far.script(
        f"import os, runpy\nprint('at', os.environ['MASTER_ADDR'])\nrunpy.run_path({str(EXAMPLE)!r}, None, '__main__')"
    )
    done = far.muster("run", *hosts, "--launcher", launcher, script)
    ranks = 3 if "--hostfile" in hosts else 2
    assert 0 == done.returncode, done.stderr
    assert f"[0] the sum of 0 to {ranks - 1} is {ranks * (ranks - 1) // 2}, as it should be" in done.stdout
    assert ranks == done.stdout.count("] at fd77::1\n")
    assert f"] rank {ranks - 1} of {ranks} on n2, local rank 0" in done.stdout
    assert "cannot fork" not in done.stderr


@pytest.mark.xdist_group("ipv6")
def test_a_detached_run_is_reached_by_an_ipv6_address(far: LabCluster) -> None:
    done = far.muster("run", "-d", "-H", "fd77::1,[fd77::2]", "-g", "1", "--name", "six", str(EXAMPLE))
    assert 0 == done.returncode, done.stderr
    assert 0 == far.muster("wait", "six").returncode
    assert "the sum of 0 to 1 is 1, as it should be" in far.muster("logs", "six").stdout
    assert "cannot fork" not in (far.run / "events.jsonl").read_text()


@pytest.mark.xdist_group("ipv6")
def test_the_doctor_finds_no_fault_in_ipv6(far: LabCluster) -> None:
    said = far.muster("doctor", "--hosts", "n1,n2").stdout
    assert "n1: " in said and "; eth0 fd77::1 (gloo uses eth0, NCCL eth0)" in said
    for check in (
        "host names resolve to the same addresses",
        "hostname is not a loopback address",
        "connectivity between nodes",
    ):
        assert f"ok       {check}\n" in said
