"""Memory cgroups: version 2 from recorded files, version 1 or 2 of this machine as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.agent.death_facts import Counters, DeathWatch, full_file_systems
from muster.linux import cgroups, procfs
from muster.linux.cgroups import Hierarchy, Memory
from muster.linux.exits import Ended
from muster.linux.kernel_log import KernelLog

UNIFIED = "30 23 0:26 / {mount} rw,nosuid,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)

# Linux 6.8, a pod with a limit of 256 MiB after the OOM killer killed one process in it
POD = {
    "memory.max": "268435456\n",
    "memory.current": "4096\n",
    "memory.peak": "268435456\n",
    "memory.events": "low 0\nhigh 0\nmax 41\noom 3\noom_kill 1\noom_group_kill 0\n",
    "memory.events.local": "low 0\nhigh 0\nmax 41\noom 3\noom_kill 1\noom_group_kill 0\n",
}
ABOVE = {
    "memory.max": "max\n",
    "memory.current": "8192\n",
    "memory.peak": "300000000\n",
    "memory.events": "low 0\nhigh 0\nmax 41\noom 3\noom_kill 1\noom_group_kill 0\n",
    "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
}


@pytest.fixture
def unified(tmp_path: Path) -> Hierarchy:
    """A tree of version 2: the root, a slice without a limit, a pod with one."""
    for folder, files in (("kubepods", ABOVE), ("kubepods/pod7", POD)):
        (tmp_path / folder).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(UNIFIED.format(mount=tmp_path))
    found = cgroups.find_hierarchy(str(mounts))
    assert Hierarchy(2, str(tmp_path), "/") == found
    return found


def test_version_2(unified: Hierarchy) -> None:
    path = cgroups.path_in(unified, "0::/kubepods/pod7\n")
    (own, own_directory), (above, above_directory), (root, root_directory) = cgroups.chain(unified, path)
    assert ("/kubepods/pod7", "/kubepods", "/") == (own, above, root)
    assert Memory(256 << 20, 4096, 256 << 20, 1, 3) == cgroups.read(2, own_directory)
    assert Memory(0, 8192, 300_000_000, 1, 0) == cgroups.read(2, above_directory), "its own limit was not reached"
    assert cgroups.read(2, root_directory) is None


def test_before_linux_5_19_the_peak_is_unknown(unified: Hierarchy) -> None:
    directory = Path(unified.mount, "kubepods", "pod7")
    (directory / "memory.peak").unlink()
    (directory / "memory.events.local").unlink()
    assert Memory(256 << 20, 4096, 0, 1, 3) == cgroups.read(2, str(directory))


def test_a_container_sees_a_part_of_the_tree(tmp_path: Path) -> None:
    """Its own cgroup is mounted as the root, while /proc names it from the root of the machine."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(HYBRID)
    found = cgroups.find_hierarchy(str(mounts))
    assert Hierarchy(1, "/sys/fs/cgroup/memory", "/docker/ab") == found
    inside = found._replace(mount=str(tmp_path))
    (tmp_path / "job").mkdir()
    assert [("/job", f"{tmp_path}/job"), ("/", str(tmp_path))] == cgroups.chain(inside, "/docker/ab/job")
    for outside in ("/docker/ab", "/docker/other", "/../../system.slice"):
        assert [("/", str(tmp_path))] == cgroups.chain(inside, outside)
    assert "/docker/ab/job" == cgroups.path_in(inside, "9:name=systemd:/\n4:cpu,memory:/docker/ab/job\n0::/\n")


def test_no_memory_controller(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(UNIFIED.format(mount=tmp_path))
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert cgroups.find_hierarchy(str(mounts)) is None
    assert cgroups.find_hierarchy(str(tmp_path / "none")) is None
    assert cgroups.read(1, str(tmp_path)) is None and cgroups.read(2, str(tmp_path)) is None


def test_this_machine() -> None:
    found = cgroups.find_hierarchy()
    kills = cgroups.machine_kills()
    assert kills is None or kills >= 0
    if found is not None:
        states = [cgroups.read(found.version, place) for _, place in cgroups.chain(found, _own(found))]
        assert any(state is not None and state.used > 0 for state in states)


def _own(hierarchy: Hierarchy) -> str:
    return cgroups.path_in(hierarchy, procfs.cgroups(os.getpid()))


def test_counters_compare_with_those_of_half_a_minute_ago() -> None:
    counters = Counters()
    counters.note(0.0, 3, 10)
    assert (1, 2) == counters.since(4, 12)
    counters.note(20.0, 4, 12)
    assert (1, 2) == counters.since(4, 12), "the death may be reported long after the kill"
    counters.explain()
    assert (0, 2) == counters.since(4, 12), "one kill accounts for one death"
    assert (1, 3) == counters.since(5, 13)
    counters.note(60.0, 5, 13)
    assert (1, 1) == counters.since(5, 13)
    counters.note(95.0, 5, 13)
    assert (0, 0) == counters.since(5, 13)


def test_full_file_systems(tmp_path: Path) -> None:
    """Only local ones that can be written are asked: a server that hangs would stop the agent."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"tmpfs {tmp_path} tmpfs rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\nsquashfs / squashfs ro 0 0\n"
        "none /no\\040such tmpfs rw 0 0\n"
    )
    assert [] == full_file_systems(str(mounts))
    assert [] == full_file_systems(str(tmp_path / "none"))


def test_the_counters_of_a_process_before_anything_happens() -> None:
    """Those of its cgroup, of all above it, and of the machine: what the agent's own were before its ranks started."""
    hierarchy = cgroups.find_hierarchy()
    found = cgroups.kills_above(os.getpid())
    assert found.pop("") == (cgroups.machine_kills(), 0)
    if hierarchy is not None:
        own = cgroups.chain(hierarchy, cgroups.path_in(hierarchy, procfs.cgroups(os.getpid())))
        assert set(found) <= {directory for _, directory in own}


def test_a_kill_before_the_first_look_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a busy machine a rank may be killed before its agent has looked at its cgroup."""
    for name, text in POD.items():
        (tmp_path / name).write_text(text)
    hierarchy = Hierarchy(2, str(tmp_path), "/")
    monkeypatch.setattr(cgroups, "find_hierarchy", lambda: hierarchy)
    ended = Ended(0, None, 9, {}, {}, "0::/\n")
    for before, kills in (({str(tmp_path): (0, 0)}, 1), ({}, None)):
        watch = DeathWatch(KernelLog("/dev/null"), 0.0, before)
        assert kills == watch.facts(0, ended)["cgroups"][0]["kills"]
