"""Hardware of this machine: cores, GPUs, network interfaces. Reads /proc, /sys and the kernel; starts no process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

IDENTITY = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
"""Environment variables that identify a rank. If left over from elsewhere, a script started alone believes it is one of
many."""

SUSPECT_VARIABLES = (
    *IDENTITY,
    *("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
"""Environment variables that a system-wide profile may set, to the detriment of training jobs."""


def cheap_facts(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts for `muster doctor` that can be collected within a millisecond."""
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
        "env": {name: env[name] for name in SUSPECT_VARIABLES if name in env},
        "shm": space("/dev/shm"),
    }


def space(path: str) -> dict[str, Any]:
    """Return the free bytes and inodes of the file system of `path`; empty if the path does not exist."""
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
    """Return the number of physical cores this process may use (no hyperthreads): MKL's maximum of threads."""
    allowed = os.sched_getaffinity(0)
    shared = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return len(shared)


def cores() -> int:
    """Return the number of cores this process may use: its CPU affinity, limited by the cgroup quotas."""
    allowed = len(os.sched_getaffinity(0))
    return min([allowed, *cpu_quotas(read("/proc/self/cgroup"), "/sys/fs/cgroup")])


def cpu_quotas(own: str, root: str) -> list[int]:
    """Return the CPU quotas, in whole cores, of a process's cgroup and its ancestors, in cgroup v1 and v2.

    `own` is the text of /proc/PID/cgroup, `root` the mount point of the hierarchies. In a container a path may not
    exist; what is mounted at the root then is the container's own group.
    """
    found = []
    for line in own.splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folders = [os.path.normpath(f"{root}/{path}")] if ".." not in path else []
        while folders and len(folders[-1]) > len(root):
            folders.append(os.path.dirname(folders[-1]))
        for folder in folders or [root]:
            place = folder if not controllers else folder.replace(root, f"{root}/cpu", 1)
            quota = read(f"{place}/cpu.max" if not controllers else f"{place}/cpu.cfs_quota_us").split()
            period = quota[1] if len(quota) > 1 else read(f"{place}/cpu.cfs_period_us").strip()
            if quota and quota[0].isdigit() and period.isdigit() and int(period):
                found.append(max(1, int(quota[0]) // int(period)))
    return found


def gpus(env: Mapping[str, str]) -> list[str]:
    """Return the names by which ranks can address GPUs: indices, or the items of CUDA_VISIBLE_DEVICES."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if name in env:
            return [piece.strip() for piece in env[name].split(",") if piece.strip() and piece.strip() != "-1"]
    return [str(index) for index in range(len(gpu_buses()))]


def gpu_buses() -> list[str]:
    """Return the PCI address of each GPU, in the driver's order; empty strings where the address is not known."""
    found: list[str] = []
    nvidia = "/proc/driver/nvidia/gpus"
    if os.path.isdir(nvidia):
        found = sorted(os.listdir(nvidia))
    nodes = len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)])
    if nodes:
        # a container may see the driver's list of all GPUs, but only the device nodes of its own
        return (found + [""] * nodes)[:nodes]
    topology = "/sys/class/kfd/kfd/topology/nodes"
    if os.path.isdir(topology):
        for node in sorted(os.listdir(topology), key=int):
            simds = re.search(r"^simd_count (\d+)", read(f"{topology}/{node}/properties"), re.M)
            if simds and int(simds.group(1)):
                found.append("")
    return found


def interfaces() -> list[tuple[str, str]]:
    """Return (name, address) of each interface that is up and not loopback: IPv4, or IPv6 where it has no IPv4."""
    import fcntl
    import socket
    import struct

    found = []
    later = _ipv6_addresses()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name[:15].encode())
            try:
                flags = struct.unpack("16xH", fcntl.ioctl(any_socket.fileno(), 0x8913, asked)[:18])[0]  # SIOCGIFFLAGS
            except OSError:  # interface is gone
                continue
            if not flags & 1 or flags & 8:  # IFF_UP, IFF_LOOPBACK
                continue
            try:
                address = fcntl.ioctl(any_socket.fileno(), 0x8915, asked)[20:24]  # SIOCGIFADDR
                found.append((name, socket.inet_ntoa(address)))
            except OSError:  # no IPv4 address
                found += [(name, address) for address in later.get(name, [])]
    return found


def _ipv6_addresses() -> dict[str, list[str]]:
    """Return the IPv6 addresses of each interface that other machines can use without a scope id."""
    import socket

    found: dict[str, list[str]] = {}
    for line in read("/proc/net/if_inet6").splitlines():
        digits, _, _, scope, flags, name = line.split()
        # skip link-local addresses, and those that are tentative or failed duplicate detection (IFA_F_TENTATIVE,
        # _DADFAILED)
        if int(scope, 16) == 0 and not int(flags, 16) & 0x48:
            found.setdefault(name, []).append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return found


def tcp_socket(address: str) -> socket.socket:
    """Return a TCP socket of the address family of `address`, IPv4 or IPv6."""
    import socket

    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def listen(address: str = "") -> socket.socket:
    """Return a socket listening on a free port of `address`; by default on all addresses, IPv6 and IPv4.

    Raises OSError.
    """
    import socket

    if not address and socket.has_dualstack_ipv6():  # `has_ipv6` describes Python, not this kernel
        try:
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        except OSError:
            pass  # this machine has no IPv6 address
    listener = tcp_socket(address)
    try:
        listener.bind((address, 0))
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    return listener


def read(path: str) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
