"""The CPU quota of a container or a job may be set in any cgroup above a process."""

from __future__ import annotations

from pathlib import Path

from muster.linux.hardware import cores, cpu_quotas


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_version_2(tmp_path: Path) -> None:
    put(tmp_path / "a/b/cpu.max", "max 100000\n")
    put(tmp_path / "a/cpu.max", "250000 100000\n")
    assert [2] == cpu_quotas("0::/a/b\n", str(tmp_path))
    put(tmp_path / "cpu.max", "50000 100000\n")
    assert [2, 1] == cpu_quotas("0::/a/b\n", str(tmp_path))
    assert [1] == cpu_quotas("0::/../../elsewhere\n", str(tmp_path))
    assert [1] == cpu_quotas("0::/not/mounted/here\n", str(tmp_path))
    assert [1] == cpu_quotas("", str(tmp_path))


def test_version_1(tmp_path: Path) -> None:
    put(tmp_path / "cpu/job/step/cpu.cfs_quota_us", "-1\n")
    put(tmp_path / "cpu/job/cpu.cfs_quota_us", "300000\n")
    put(tmp_path / "cpu/job/cpu.cfs_period_us", "100000\n")
    assert [3] == cpu_quotas("5:memory:/x\n4:cpu,cpuacct:/job/step\n1:name=systemd:/y\n0::/\n", str(tmp_path))


def test_there_is_a_core_to_use() -> None:
    assert cores() >= 1
