"""What a machine has: cores, GPUs, interfaces. Read from /proc, /sys and the kernel; starts no process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

IDENTITY = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
"""Variables by which a rank knows who it is; left over, they make a world of a script that was started alone."""

WATCHED = (
    *IDENTITY,
    *("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
"""Variables that a machine may set for everybody, to nobody's good."""


def at_no_cost(env: Mapping[str, str]) -> dict[str, Any]:
    """What a doctor wants to know of this machine and can have within a millisecond."""
    import resource
    import socket

    limits = {"open files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    limits["locked"] = resource.RLIMIT_MEMLOCK
    return {
        "cores": cores(),
        "all_cores": os.cpu_count() or 1,
        "interfaces": interfaces(),
        "interface_names": [name for _, name in socket.if_nameindex()],
        "limits": {name: resource.getrlimit(number)[0] for name, number in limits.items()},
        "env": {name: env[name] for name in WATCHED if name in env},
        "shm": space("/dev/shm"),
    }


def space(path: str) -> dict[str, Any]:
    """Bytes and files for which there is room where this folder lies; empty where it is not."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return {}
    return {
        "free": stat.f_bavail * stat.f_frsize,
        "total": stat.f_blocks * stat.f_frsize,
        "files": stat.f_favail if stat.f_files else None,
    }


def physical_cores() -> int:
    """The cores that this process may use, those that share one (hyperthreads) counted once: what MKL uses at most."""
    allowed = os.sched_getaffinity(0)
    shared = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return len(shared)


def cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its container, whichever is less."""
    allowed = len(os.sched_getaffinity(0))
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        text = read(path).split()
        period = text[1] if len(text) > 1 else read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
        if text and text[0].isdigit() and period.isdigit() and int(period):
            allowed = min(allowed, max(1, int(text[0]) // int(period)))
    return allowed


def gpus(env: Mapping[str, str]) -> list[str]:
    """The names by which ranks may address the GPUs here: indices, or what CUDA_VISIBLE_DEVICES says."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in env:
            return [piece.strip() for piece in env[name].split(",") if piece.strip() and piece.strip() != "-1"]
    return [str(index) for index in range(len(gpu_buses()))]


def gpu_buses() -> list[str]:
    """The PCI address of each GPU, in the order of the driver."""
    found: list[str] = []
    nvidia = "/proc/driver/nvidia/gpus"
    if os.path.isdir(nvidia):
        found = sorted(os.listdir(nvidia))
    nodes = len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])
    if nodes:
        # a container may show the driver's list of all GPUs, and the device nodes of its own
        return (found + [""] * nodes)[:nodes]
    topology = "/sys/class/kfd/kfd/topology/nodes"
    if os.path.isdir(topology):
        for node in sorted(os.listdir(topology), key=int):
            simds = re.search(r"^simd_count (\d+)", read(f"{topology}/{node}/properties"), re.M)
            if simds and int(simds.group(1)):
                found.append("")
    return found


def interfaces() -> list[tuple[str, str]]:
    """(name, IPv4 address) of each interface that is up and is not the loopback."""
    import fcntl
    import socket
    import struct

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name[:15].encode())
            try:
                flags = struct.unpack("16xH", fcntl.ioctl(any_socket.fileno(), 0x8913, asked)[:18])[0]  # SIOCGIFFLAGS
                address = fcntl.ioctl(any_socket.fileno(), 0x8915, asked)[20:24]  # SIOCGIFADDR
            except OSError:  # no address, or gone
                continue
            if flags & 1 and not flags & 8:  # IFF_UP, IFF_LOOPBACK
                found.append((name, socket.inet_ntoa(address)))
    return found


def read(path: str) -> str:
    """The text of a file; empty when it cannot be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
