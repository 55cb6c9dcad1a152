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
            why = "ranks hang or disagree"
            yield Finding("error", host, f"{what}: {differ(found)}", why, "the same environment on all")


_VERSIONS: Mapping[str, Callable[[Facts], Any]] = {
    "torch differs": lambda facts: facts["torch"]["version"],
    "CUDA of torch differs": lambda facts: facts["torch"]["cuda"],
    "NCCL differs": lambda facts: facts["torch"]["nccl"],
    "Python differs": lambda facts: ".".join(facts["python"].split(".")[:2]),
    "the driver differs": lambda facts: _drivers(facts),
}


def _drivers(facts: Facts) -> str:
    return ",".join(sorted({gpu["driver_version"] for gpu in facts["smi"].get("gpus", ())}))


def torch_import(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a torch that cannot be imported, or is slow to import."""
    for host, facts in cluster.facts.items():
        torch = facts["torch"]
        if "hangs" in torch:
            found = f"`import torch` was not done after {torch['hangs']:.0f} s"
            yield Finding("error", host, found, "no rank starts", "see the disk on which it lies")
        elif "error" in torch:
            do = f"install it there: {facts['executable']} -m pip install torch"
            yield Finding("error", host, f"`import torch` fails: {torch['error']}", "no rank can start", do)
        elif torch["first"] > SLOW_IMPORT:
            yield Finding(
                "warning",
                host,
                f"`import torch` takes {torch['first']:.0f} s, and {torch['again']:.0f} s again",
                "a shared file system with many small files; every start waits for that",
                "an environment on a local disk, or in one file (squashfs)",
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
                f"it has {plural(counts[host], 'GPU')}, and others {most}",
                "it gets fewer ranks, or ranks without a GPU",
                "`nvidia-smi` there; a GPU that fell off the bus comes back by a restart",
            )
        if "error" in smi or "hangs" in smi:
            how = f"fails: {smi['error']}" if "error" in smi else f"has said nothing after {smi['hangs']:.0f} s"
            yield Finding(
                "error",
                host,
                f"nvidia-smi {how}",
                "the driver, or a GPU, does not work",
                "`dmesg` there, for `NVRM` and `Xid`; after an update of the driver the machine must be restarted",
            )
        elif torch is not None and torch < counts[host]:
            yield Finding(
                "error",
                host,
                f"torch sees {torch} of {plural(counts[host], 'GPU')}",
                "ranks without a GPU compute on cores, or end",
                "a torch without CUDA, a driver that is too old for it, or CUDA_VISIBLE_DEVICES",
            )
        for gpu in smi.get("gpus", ()):
            used = gpu.get("memory.used", "")
            if used.isdigit() and int(used) > 1024:
                yield Finding(
                    "warning",
                    host,
                    f"GPU {gpu['index']} has {int(used) // 1024} GiB in use",
                    "somebody else is on it, or a run has left something behind",
                    f"`muster clean -H {host}`, or `nvidia-smi` there",
                )


def shared_memory(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find a small /dev/shm."""
    for host, facts in cluster.facts.items():
        total = facts["shm"].get("total", GIB)
        if total < GIB:
            yield Finding(
                "error" if total < SMALL_SHM else "warning",
                host,
                f"/dev/shm has {total // (1 << 20)} MiB",
                "DataLoader workers and NCCL exchange data there, and die of SIGBUS when it is full",
                "in a container `--shm-size=8g`, or `--ipc=host`",
            )


def limits(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find resource limits (`ulimit`) that are too low, and a logind that kills processes at logout."""
    for host, facts in cluster.facts.items():
        files, processes = facts["limits"]["open files"], facts["limits"]["processes"]
        if 0 <= files < 1024:
            yield Finding(
                "warning", host, plural(files, "open file"), "each peer and worker takes some", "ulimit -n 65536"
            )
        if 0 <= processes < 4096:
            yield Finding(
                "warning",
                host,
                plural(processes, "process", "processes"),
                "DataLoader workers count",
                "ulimit -u 65536",
            )
        locked = facts["limits"]["locked"]
        if facts.get("infiniband") and 0 <= locked < GIB:
            yield Finding(
                "error",
                host,
                f"{locked >> 10} KiB of memory may be locked, and there is InfiniBand ({facts['infiniband'][0]})",
                "RDMA locks its buffers: NCCL fails with `unhandled system error`",
                "`memlock unlimited` in limits.conf, and LimitMEMLOCK of sshd or slurmd",
            )
        if facts.get("kills_user_processes"):
            yield Finding(
                "warning",
                host,
                "KillUserProcesses=yes in logind.conf",
                "a run with -d ends when you log out there",
                "`loginctl enable-linger`",
            )


def clocks(cluster: ClusterFacts) -> Iterator[Finding]:
    """Find clocks that are ahead or behind."""
    usual = sorted(cluster.clocks.values())[len(cluster.clocks) // 2] if cluster.clocks else 0.0
    for host, ahead in ((host, ahead - usual) for host, ahead in cluster.clocks.items()):
        if abs(ahead) > 1.0:
            yield Finding(
                "warning",
                host,
                f"its clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}",
                "logs of several hosts cannot be compared, and some file systems lose writes",
                "chrony or ntpd on all hosts",
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
                    f"{name}={env[name]} is set for everybody",
                    "a script that is started without a launcher believes it",
                    "take it out of .bashrc or the profile there",
                )
        for name, fits in (("NCCL_SOCKET_IFNAME", _nccl_finds), ("GLOO_SOCKET_IFNAME", _gloo_finds)):
            if env.get(name) and not fits(env[name], own):
                yield Finding(
                    "error",
                    host,
                    f"{name}={env[name]}, and there is no such interface (there are {', '.join(sorted(own))})",
                    "ranks find no way to each other",
                    "leave it out: muster names the interface that works",
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
                f"only 1 of {facts['all_cores']} cores may be used",
                "all ranks and their workers share it",
                "ask the scheduler for more (`--cpus-per-task`), or see `taskset`",
            )
        threads = facts["env"].get("OMP_NUM_THREADS", "")
        if threads and not (threads.isdigit() and 0 < int(threads) <= facts["cores"]):
            few = f"and it has {plural(facts['cores'], 'core')}" if threads.isdigit() else "which is no number"
            yield Finding(
                "warning",
                host,
                f"OMP_NUM_THREADS={threads} is set for everybody, {few}",
                "each rank starts so many threads, and they wait for each other",
                "leave it out: muster shares the cores among the ranks",
            )
