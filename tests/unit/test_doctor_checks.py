"""Doctor's findings from the facts of machines: one problem at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from changing import Change, set_to

from muster.diagnostics.checks import CHECKS, passed, run_checks
from muster.diagnostics.findings import ClusterFacts, Finding
from muster.diagnostics.preflight import preflight


def machine(number: int) -> dict[str, Any]:
    """Return the facts of a healthy machine."""
    names = {
        f"n{other}": {"addresses": [f"10.0.0.{other}"], "back": f"n{other}", "seconds": 0.001, "forward": 0.001}
        for other in (1, 2, 3)
    }
    room = {"free": 1 << 40, "total": 1 << 41, "files": 1 << 20, "there": True, "writes": True, "seconds": 0.01}
    return {
        "python": "3.11.7",
        "executable": "/venv/bin/python",
        "shared": True,
        "cores": 64,
        "all_cores": 64,
        "interfaces": [("eth0", f"10.0.0.{number}")],
        "mtus": {"eth0": 1500},
        "infiniband": [],
        "limits": {"open files": 65536, "processes": -1, "locked": -1},
        "env": {},
        "kills_user_processes": False,
        "own": {"addresses": [f"10.0.0.{number}"], "seconds": 0.0},
        "names": names,
        "nobody": {"error": "unknown", "seconds": 0.01},
        "folders": {"/work": dict(room), "/runs": dict(room)},
        "shm": {"free": 1 << 34, "total": 1 << 34, "files": None},
        "torch": {
            "version": "2.13.0",
            "cuda": "13.0",
            "nccl": [2, 28],
            "gpus": 8,
            "seconds": 2.0,
            "first": 3.0,
            "again": 2.0,
        },
        "interface_names": ["lo", "eth0"],
        "gpus": [str(index) for index in range(8)],
        "smi": {"gpus": [{"index": str(index), "driver_version": "580", "memory.used": "4"} for index in range(8)]},
    }


def patient(**more: Any) -> ClusterFacts:
    hosts = {f"n{number}": machine(number) for number in (1, 2, 3)}
    ways = {(a, b): "" for a in hosts for b in hosts if a != b}
    known = ClusterFacts(
        hosts,
        ways,
        dict.fromkeys(hosts, 0.0),
        "/work",
        dict.fromkeys(hosts, ("idle", "")),
        {},
    )
    return known._replace(**more)


def findings(known: ClusterFacts) -> list[tuple[str, Finding]]:
    return [(name, finding) for name, found in run_checks(known) for finding in found]


def test_a_healthy_cluster_has_no_findings() -> None:
    assert [] == findings(patient())
    assert passed(run_checks(patient()))
    assert len(CHECKS) == len(run_checks(patient()))


@pytest.mark.parametrize(
    ("change", "check", "level", "says"),
    [
        (set_to("names", "n1", {"hangs": 8.0}), "host names resolve", "error", "resolving n1 takes 8.0s"),
        (set_to("names", "n1", {"error": "unknown"}), "host names resolve", "warning", "cannot resolve n1"),
        (set_to("names", "n1", "seconds", 0.5), "host names resolve", "warning", "takes 0.50s"),
        (set_to("nobody", "seconds", 5.0), "unknown names", "warning", "takes 5.0s to fail"),
        (
            set_to("names", "n1", "addresses", ["10.9.9.9"]),
            "host names resolve to",
            "error",
            "n1 resolves to 10.9.9.9 on n2; 10.0.0.1 on n3",
        ),
        (set_to("own", "addresses", ["127.0.1.1"]), "hostname is", "warning", "its own hostname resolves to 127.0.1.1"),
        (set_to("own", {"error": "unknown"}), "hostname is", "warning", "cannot resolve its own hostname"),
        (set_to("mtus", "eth0", 9000), "same MTU", "warning", "9000 on n2"),
        (set_to("torch", {"error": "No module named 'torch'"}), "import of torch", "error", "No module named"),
        (set_to("torch", {"hangs": 120.0}), "import of torch", "error", "did not finish within 120s"),
        (set_to("torch", "first", 90.0), "import of torch", "warning", "takes 90s, and 2s the second time"),
        (
            set_to("torch", "version", "2.12.0"),
            "same versions",
            "error",
            "torch differs: 2.13.0 on n1, n3; 2.12.0 on n2",
        ),
        (set_to("torch", "nccl", [2, 27]), "same versions", "error", "NCCL differs"),
        (set_to("python", "3.12.1"), "same versions", "error", "Python differs: 3.11 on n1, n3; 3.12 on n2"),
        (set_to("smi", "gpus", 0, "driver_version", "550"), "same versions", "error", "driver differs"),
        (lambda facts: facts["gpus"].pop(), "GPUs", "error", "7 GPUs, other hosts have 8"),
        (set_to("smi", "gpus", 3, "memory.used", "40000"), "GPUs", "warning", "GPU 3 has 39 GiB in use"),
        (set_to("smi", {"error": "Driver/library version mismatch"}), "GPUs", "error", "nvidia-smi fails: Driver/lib"),
        (set_to("smi", {"hangs": 40.0}), "GPUs", "error", "nvidia-smi printed nothing within 40s"),
        (set_to("torch", "gpus", 0), "GPUs", "error", "torch sees 0 of 8 GPUs"),
        (set_to("cores", 1), "cores", "warning", "only 1 of 64 cores"),
        (set_to("folders", "/runs", {"hangs": 8.0}), "free disk space", "error", "writing to /runs hangs"),
        (set_to("folders", "/runs", "free", 1 << 20), "free disk space", "warning", "1 MiB free in /runs"),
        (set_to("folders", "/runs", "files", 7), "free disk space", "warning", "7 free inodes"),
        (set_to("shared", False), "directories exist", "warning", "the run directory is not shared"),
        (set_to("folders", "/work", "there", False), "directories exist", "error", "directory not found: /work"),
        (set_to("shm", "total", 64 << 20), "shared memory", "error", "/dev/shm has 64 MiB"),
        (set_to("shm", {}), "shared memory", "error", "/dev/shm does not exist"),
        (set_to("shm", "total", 512 << 20), "shared memory", "warning", "/dev/shm has 512 MiB"),
        (
            set_to("env", {"OMP_NUM_THREADS": "128"}),
            "cores",
            "warning",
            "OMP_NUM_THREADS=128 is set in the environment",
        ),
        (set_to("env", {"OMP_NUM_THREADS": "all"}), "cores", "warning", "which is not a number"),
        (set_to("limits", "open files", 256), "resource limits", "warning", "256 open files"),
        (set_to("kills_user_processes", True), "resource limits", "warning", "KillUserProcesses=yes"),
        (set_to("env", {"MASTER_ADDR": "n9"}), "conflicting", "warning", "MASTER_ADDR=n9 is set in the environment"),
        (set_to("env", {"NCCL_SOCKET_IFNAME": "ib0"}), "conflicting", "error", "no such interface"),
    ],
)
def test_one_machine_that_is_not_as_it_should_be(change: Change, check: str, level: str, says: str) -> None:
    known = copy.deepcopy(patient())
    change(known.facts["n2"])  # type: ignore[arg-type]
    found = findings(known)
    assert 1 == len(found), found
    name, finding = found[0]
    assert name.startswith(check)
    assert level == finding.level
    assert says in finding.summary
    assert finding.impact and finding.remedy
    assert "n2" == finding.host
    assert passed(run_checks(known)) == (level == "warning")


def test_a_disk_that_is_full() -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"]["folders"]["/runs"].update(writes=False, why="No space left on device", full=True)
    ((_, finding),) = findings(known)
    assert ("error", "n2", "free some space there") == (finding.level, finding.host, finding.remedy)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ways": {("n1", "n2"): "no answer within 5s", ("n2", "n1"): ""}}, "cannot connect to n2: no answer"),
        ({"clocks": {"n1": 5.0, "n2": 12.5, "n3": 5.0}}, "its clock is 7.5s ahead"),
        ({"clocks": {"n1": 0.0, "n2": -3.0, "n3": 0.0}}, "its clock is 3.0s behind"),
        ({"scheduler": "slurm", "gres": {"n2": 9}}, "Slurm is configured with 9 GPUs, the node has 8"),
        ({"scheduler": "slurm", "nodes": {"n2": ("drained", "bad GPU")}}, "its state in Slurm is drained: bad GPU"),
        ({"scheduler": "slurm", "nodes": {"n2": ("idle*", "")}}, "its state in Slurm is idle*"),
        ({"scheduler": "slurm", "scheduler_silent": "sinfo failed"}, "no answer from Slurm: sinfo failed"),
    ],
)
def test_what_is_between_the_machines(more: dict[str, Any], says: str) -> None:
    ((_, finding),) = findings(patient(**more))
    assert says in finding.summary
    assert finding.impact and finding.remedy


def test_interfaces_that_are_excluded_need_not_be_there() -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"]["env"] = {"NCCL_SOCKET_IFNAME": "^lo,docker0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert [] == findings(known)


@pytest.mark.parametrize(
    ("name", "asked", "fine"),
    [
        ("NCCL_SOCKET_IFNAME", "eth", True),
        ("NCCL_SOCKET_IFNAME", "ib,eth", True),
        ("NCCL_SOCKET_IFNAME", "=eth", False),
        ("NCCL_SOCKET_IFNAME", "=eth0", True),
        ("NCCL_SOCKET_IFNAME", "^eth0", True),
        ("GLOO_SOCKET_IFNAME", "eth", False),
        ("GLOO_SOCKET_IFNAME", "eth0,ib0", False),
        ("GLOO_SOCKET_IFNAME", "lo,eth0", True),
    ],
)
def test_each_library_has_its_own_way_to_name_interfaces(name: str, asked: str, fine: bool) -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"]["env"] = {name: asked}
    assert fine == (findings(known) == [])


def test_broken_routes_are_attributed_to_a_host() -> None:
    """A firewall on n2: the others can be used."""
    ways = {pair: "no answer within 5s" if pair[1] == "n2" else "" for pair in patient().ways}
    found = [finding for _, finding in findings(patient(ways=ways))]
    assert ["n2", "n2"] == [finding.host for finding in found]
    assert found[0].summary == "n1 cannot connect to it: no answer within 5s"


def test_all_that_differ_from_most_are_named() -> None:
    known = patient()
    facts = {f"n{number}": machine(1) for number in range(1, 9)}
    for host in ("n5", "n7"):
        facts[host]["torch"]["version"] = "2.12.0"
    ways = dict.fromkeys(((a, b) for a in facts for b in facts if a != b), "")
    found = [finding for _, finding in findings(known._replace(facts=facts, ways=ways, clocks={}, nodes={}))]
    assert ["n5", "n7"] == [finding.host for finding in found if "torch differs" in finding.summary]


def test_code_may_lie_where_nobody_writes() -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"]["folders"]["/work"].update(writes=False, why="Read-only file system")
    ((_, finding),) = findings(known)
    assert ("warning", "n2") == (finding.level, finding.host)


def test_libraries_that_would_take_an_interface_that_no_other_host_has() -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"].update(interfaces=[("eth0", "10.0.0.2"), ("ib0", "172.17.0.1")], mtus={"eth0": 1500, "ib0": 1500})
    ((name, finding),) = findings(known)
    assert ("interfaces of gloo and NCCL", "n2") == (name, finding.host)
    assert "NCCL uses ib0 (172.17.0.1) by default" in finding.summary
    known.facts["n2"]["own"]["addresses"] = ["172.17.0.1"]
    assert ["gloo uses ib0", "NCCL uses ib0"] == [finding.summary[:13] for _, finding in findings(known)]


def test_memory_that_infiniband_cannot_lock() -> None:
    known = copy.deepcopy(patient())
    known.facts["n2"]["infiniband"] = ["mlx5_0"]
    assert [] == findings(known)
    known.facts["n2"]["limits"]["locked"] = 64 << 10
    ((_, finding),) = findings(known)
    assert ("error", "limit of 64 KiB of locked memory") == (finding.level, finding.summary[:32])


def test_the_checks_of_a_run() -> None:
    """Only cheap checks, and only errors."""
    facts = {host: copy.deepcopy(told) for host, told in patient().facts.items()}
    assert [] == preflight(facts, {})
    facts["n2"]["shm"]["total"] = 64 << 20
    facts["n3"]["env"] = {"NCCL_SOCKET_IFNAME": "ib0", "MASTER_ADDR": "old"}
    found = preflight(facts, {})
    assert 2 == len(found)
    assert found[0].startswith("warning: n2: /dev/shm has 64 MiB: ")
    assert found[1].startswith("warning: n3: NCCL_SOCKET_IFNAME=ib0: no such interface (interfaces: eth0, lo): ")
    assert 4 == len(preflight(facts, {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "eth0"}))
