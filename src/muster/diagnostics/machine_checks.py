"""Doctor's checks of each machine: torch, GPUs, cores, memory, limits, clocks and variables. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Callable

from muster.core.fold import by_value
from muster.core.plurals import plural
from muster.diagnostics.findings import GIB, ClusterFacts, Facts, Finding, differ, odd
from muster.linux.hardware import IDENTITY

SLOW_IMPORT = 15.0

SMALL_SHM = 128 << 20
"""Twice the default of containers, which is too small for even a few DataLoader workers."""


def versions(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find versions of torch, CUDA, NCCL, Python or the driver that differ between hosts."""
    with_torch = {host: facts for host, facts in cluster.facts.items() if "version" in facts["torch"]}
    for what, read in _VERSIONS.items():
        found = by_value((host, str(value)) for host, facts in with_torch.items() if (value := read(facts)) != "")
        for host in odd(found):
            why = "ranks hang or compute different results"
            yield Finding("error", host, f"{what}: {differ(found)}", why, "use the same environment on all hosts")


_VERSIONS: Mapping[str, Callable[[Facts], Any]] = {
    "torch differs": lambda facts: facts["torch"]["version"],
    "CUDA of torch differs": lambda facts: facts["torch"]["cuda"],
    "NCCL differs": lambda facts: facts["torch"]["nccl"],
    "Python differs": lambda facts: ".".join(facts["python"].split(".")[:2]),
    "driver differs": lambda facts: _drivers(facts),
}


def _drivers(facts: Facts) -> str:
    return ",".join(sorted({gpu["driver_version"] for gpu in facts["smi"].get("gpus", ())}))


def torch_import(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a torch that cannot be imported, or is slow to import."""
    for host, facts in cluster.facts.items():
        torch = facts["torch"]
        if "hangs" in torch:
            found = f"`import torch` did not finish within {torch['hangs']:.0f}s"
            yield Finding("error", host, found, "no rank can start", "check the disk that holds torch")
        elif "error" in torch:
            do = f"install it: {facts['executable']} -m pip install torch"
            yield Finding("error", host, f"`import torch` fails: {torch['error']}", "no rank can start", do)
        elif torch["first"] > SLOW_IMPORT:
            yield Finding(
                "warning",
                host,
                f"`import torch` takes {torch['first']:.0f}s, and {torch['again']:.0f}s the second time",
                "delays every start; typical of many small files on a shared file system",
                "put the environment on a local disk, or into one file (squashfs)",
            )


def gpus(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find GPUs that are missing, that do not work, or that are in use."""
    counts = {host: len(facts["gpus"]) for host, facts in cluster.facts.items()}
    most = max(counts.values(), default=0)
    for host, facts in cluster.facts.items():
        smi, torch = facts["smi"], facts["torch"].get("gpus")
        if counts[host] < most:
            yield Finding(
                "error",
                host,
                f"{plural(counts[host], 'GPU')}, other hosts have {most}",
                "the host gets fewer ranks, or ranks without a GPU",
                "run `nvidia-smi` on it; a GPU that fell off the bus returns after a reboot",
            )
        if "error" in smi or "hangs" in smi:
            how = f"fails: {smi['error']}" if "error" in smi else f"printed nothing within {smi['hangs']:.0f}s"
            yield Finding(
                "error",
                host,
                f"nvidia-smi {how}",
                "the driver or a GPU does not work",
                "search `dmesg` for `NVRM` and `Xid`; reboot after a driver update",
            )
        elif torch is not None and torch < counts[host]:
            yield Finding(
                "error",
                host,
                f"torch sees {torch} of {plural(counts[host], 'GPU')}",
                "ranks without a GPU run on the CPU, or fail",
                "install torch with CUDA, update the driver, or check CUDA_VISIBLE_DEVICES",
            )
        for gpu in smi.get("gpus", ()):
            used = gpu.get("memory.used", "")
            if used.isdigit() and int(used) > 1024:
                yield Finding(
                    "warning",
                    host,
                    f"GPU {gpu['index']} has {int(used) // 1024} GiB in use",
                    "another user, or an orphaned process of a run, uses it",
                    f"run `muster clean -H {host}`, or `nvidia-smi` on the host",
                )


def shared_memory(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a small /dev/shm, or none."""
    for host, facts in cluster.facts.items():
        if not facts["shm"]:
            yield Finding(
                "error",
                host,
                "/dev/shm does not exist",
                "locks of multiprocessing, DataLoader workers and NCCL need it; ranks that use gloo alone run",
                "mount it: `mount -t tmpfs -o size=8g tmpfs /dev/shm`; containers have it by default",
            )
        total = facts["shm"].get("total", GIB)
        if total < GIB:
            yield Finding(
                "error" if total < SMALL_SHM else "warning",
                host,
                f"/dev/shm has {total // (1 << 20)} MiB",
                "DataLoader workers and NCCL exchange data there, and crash with SIGBUS when it is full",
                "start the container with `--shm-size=8g` or `--ipc=host`",
            )


def limits(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find resource limits (`ulimit`) that are too low, and a logind that kills processes at logout."""
    for host, facts in cluster.facts.items():
        files, processes = facts["limits"]["open files"], facts["limits"]["processes"]
        if 0 <= files < 1024:
            yield Finding(
                "warning",
                host,
                f"limit of {plural(files, 'open file')}",
                "each peer and worker needs some",
                "raise it with `ulimit -n 65536`",
            )
        if 0 <= processes < 4096:
            yield Finding(
                "warning",
                host,
                f"limit of {plural(processes, 'process', 'processes')}",
                "DataLoader workers count against it",
                "raise it with `ulimit -u 65536`",
            )
        locked = facts["limits"]["locked"]
        if facts.get("infiniband") and 0 <= locked < GIB:
            yield Finding(
                "error",
                host,
                f"limit of {locked >> 10} KiB of locked memory, with InfiniBand ({facts['infiniband'][0]})",
                "RDMA locks its buffers: NCCL fails with `unhandled system error`",
                "set `memlock unlimited` in limits.conf, and LimitMEMLOCK of sshd or slurmd",
            )
        if facts.get("kills_user_processes"):
            yield Finding(
                "warning",
                host,
                "KillUserProcesses=yes in logind.conf",
                "detached runs (-d) are killed when you log out of the host",
                "run `loginctl enable-linger`",
            )


def clocks(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find clocks that are ahead or behind."""
    usual = sorted(cluster.clocks.values())[len(cluster.clocks) // 2] if cluster.clocks else 0.0
    for host, ahead in ((host, ahead - usual) for host, ahead in cluster.clocks.items()):
        if abs(ahead) > 1.0:
            yield Finding(
                "warning",
                host,
                f"its clock is {abs(ahead):.1f}s {'ahead' if ahead > 0 else 'behind'}",
                "logs of several hosts cannot be compared, and some file systems lose writes",
                "run chrony or ntpd on all hosts",
            )


def variables(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find environment variables, set for all users, that mislead ranks."""
    for host, facts in cluster.facts.items():
        env, own = facts["env"], facts["interface_names"]
        for name in IDENTITY:
            if name in env:
                yield Finding(
                    "warning",
                    host,
                    f"{name}={env[name]} is set in the environment",
                    "a script started without a launcher uses it",
                    "remove it from .bashrc or the profile on the host",
                )
        for name, fits in (("NCCL_SOCKET_IFNAME", _nccl_finds), ("GLOO_SOCKET_IFNAME", _gloo_finds)):
            if env.get(name) and not fits(env[name], own):
                yield Finding(
                    "error",
                    host,
                    f"{name}={env[name]}: no such interface (interfaces: {', '.join(sorted(own))})",
                    "ranks cannot connect to each other",
                    "unset it: muster sets the interface that works",
                )


def _nccl_finds(asked: str, names: Collection[str]) -> bool:
    """Return whether NCCL finds the interface: by prefix, after `=` by full name; after `^` any other one."""
    if asked.startswith("^"):
        return True
    words = [word for word in asked.lstrip("=").split(",") if word]
    return any(name == word if asked.startswith("=") else name.startswith(word) for word in words for name in names)


def _gloo_finds(asked: str, names: Collection[str]) -> bool:
    """Return whether gloo finds all the interfaces, by full name."""
    return all(word in names for word in asked.split(","))


def cores(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find few cores, and an OMP_NUM_THREADS that does not fit them."""
    for host, facts in cluster.facts.items():
        if facts["cores"] == 1 and facts["all_cores"] > 1:
            yield Finding(
                "warning",
                host,
                f"only 1 of {facts['all_cores']} cores is available",
                "all ranks and their workers share it",
                "request more cores from the scheduler (`--cpus-per-task`), or check `taskset`",
            )
        threads = facts["env"].get("OMP_NUM_THREADS", "")
        if threads and not (threads.isdigit() and 0 < int(threads) <= facts["cores"]):
            few = f"on {plural(facts['cores'], 'core')}" if threads.isdigit() else "which is not a number"
            yield Finding(
                "warning",
                host,
                f"OMP_NUM_THREADS={threads} is set in the environment, {few}",
                "each rank starts that many threads, which compete for cores",
                "unset it: muster divides the cores among the ranks",
            )
