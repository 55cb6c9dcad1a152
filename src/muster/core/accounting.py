"""What a run used against what it had: cores, memory and GPUs, and what to ask for the next time."""

from __future__ import annotations

from typing import NamedTuple


class Granted(NamedTuple):
    """What a scheduler gave a job on one node."""

    cores: int = 0
    """0 if unknown."""
    memory: int = 0
    """In bytes; 0 if the scheduler does not allocate memory."""
    gpus: int = 0


class NodeUse(NamedTuple):
    """What a run used on one node, over all its attempts."""

    host: str
    cores: int
    """The cores that it had; 0 if unknown."""
    core_seconds: float
    """CPU time of its ranks, with their descendants."""
    memory: int
    """The memory that it had, in bytes; 0 if unknown."""
    peak: int
    """Highest memory of its ranks together, with their descendants, in bytes."""
    gpus: int = 0
    gpu_use: float | None = None
    """Mean utilization of these GPUs, from 0 to 1; None if it was not measured."""
    allocated: bool = False
    """True if a scheduler allocated the cores and the memory; otherwise they are those of the machine."""


class Recorded(NamedTuple):
    """What the accounting of a scheduler recorded of a job that has ended, over all its starts."""

    seconds: float
    """How long it had its nodes."""
    hosts: tuple[str, ...]
    cores: int
    """Cores that it had in total; 0 if unknown."""
    core_seconds: float
    """CPU time of all its processes; 0 if accounting does not measure it."""
    memory: int
    """Memory that it had in total, in bytes; 0 if the scheduler does not allocate memory."""
    peak: int
    """Highest memory of a node, in bytes; 0 if unknown."""
    peak_host: str
    gpus: int
    """GPUs that it had in total."""


class RunUse(NamedTuple):
    """What a run used."""

    seconds: float
    """How long it ran."""
    nodes: tuple[NodeUse, ...]
    source: str = ""
    """Whose numbers they are, for users; empty for muster's own measurements."""

    @property
    def core_hours(self) -> float:
        """CPU time in hours."""
        return sum(node.core_seconds for node in self.nodes) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours that GPUs were reserved for it, used or not."""
        return self.seconds * sum(node.gpus for node in self.nodes) / 3600

    @property
    def gpu_use(self) -> float | None:
        """Mean utilization of its GPUs, from 0 to 1; None if it was not measured."""
        known = [(node.gpus, node.gpu_use) for node in self.nodes if node.gpu_use is not None and node.gpus]
        return sum(count * use for count, use in known) / sum(count for count, _ in known) if known else None

    @property
    def largest(self) -> NodeUse | None:
        """The node on which memory came nearest to the limit; None if nothing is known."""
        return max(self.nodes, key=lambda node: node.peak / node.memory if node.memory else 0.0, default=None)

    def cores_used(self, node: NodeUse) -> float:
        """Return how many cores were busy on a node, on average."""
        return node.core_seconds / self.seconds if self.seconds else 0.0


def as_recorded(own: RunUse | None, job: Recorded, source: str) -> RunUse | None:
    """Return what a run used with the numbers of the accounting in place of muster's own, as far as it has them.

    `own` are the measurements of muster, None if there are none. They tell what accounting does not: how the CPU time
    was distributed over the nodes, and how much GPUs were used. Returns `own` if accounting knows neither CPU time nor
    memory, because it only records when jobs ran.
    """
    if not (job.core_seconds or job.peak):
        return own
    nodes = own.nodes if own is not None and own.nodes else _nodes_of(job)
    if not nodes:
        return own
    total = sum(node.core_seconds for node in nodes)
    most = max(nodes, key=lambda node: (node.peak, node.host == job.peak_host))

    def of(node: NodeUse) -> NodeUse:
        share = node.core_seconds / total if total else 1 / len(nodes)
        peak = node.peak if not job.peak else job.peak if node is most else min(node.peak, job.peak)
        return node._replace(
            core_seconds=job.core_seconds * share if job.core_seconds else node.core_seconds, peak=peak
        )

    return RunUse(job.seconds, tuple(map(of, nodes)), source)


def _nodes_of(job: Recorded) -> tuple[NodeUse, ...]:
    """Return the nodes of a job that muster did not measure, each with an equal share."""
    count = len(job.hosts)
    return tuple(
        NodeUse(
            host=host,
            cores=job.cores // count,
            core_seconds=job.core_seconds / count,
            memory=job.memory // count,
            peak=job.peak if host == job.peak_host else 0,
            gpus=job.gpus // count,
            allocated=bool(job.memory or job.cores),
        )
        for host in job.hosts
    )


ENOUGH = 60.0
"""Seconds that a run has to last before it says what a longer one needs."""
_NEAR, _MUCH, _IDLE, _FEW = 0.9, 0.5, 0.3, 0.5
"""Parts of what was asked for: memory near its limit, much unused memory, idle GPUs, few used cores."""
_ROOM = 1.3
"""What to ask for, as a multiple of what was used."""
_GIB = 1 << 30


class Advice(NamedTuple):
    """The one thing to change."""

    kind: str
    """`more memory`, `gpus`, `memory` or `cores`."""
    asked: float
    used: float
    """Bytes, GPUs and their mean utilization, or cores."""
    enough: int = 0
    """What to ask for, in GiB or cores."""


def advice(use: RunUse) -> Advice | None:
    """Return what to ask for the next time; None if that was about right, or too little is known.

    Only what a scheduler allocated could have been asked for differently; idle GPUs matter everywhere.
    """
    if use.seconds < ENOUGH:
        return None
    node = use.largest
    if node is not None and node.allocated and node.memory and node.peak > _NEAR * node.memory:
        return Advice("more memory", node.memory, node.peak, _gib(node.peak))
    if use.gpu_use is not None and use.gpu_use < _IDLE:
        return Advice("gpus", sum(one.gpus for one in use.nodes), use.gpu_use)
    spare = node.memory - node.peak if node is not None else 0
    if node is not None and node.allocated and node.peak < _MUCH * node.memory and spare > 2 * _GIB:
        return Advice("memory", node.memory, node.peak, _gib(node.peak))
    busiest = max(use.nodes, key=use.cores_used, default=None)
    if busiest is not None and busiest.allocated:
        cores = use.cores_used(busiest)
        enough = max(1, -int(-cores * _ROOM // 1))
        if busiest.cores - enough >= 2 and cores < _FEW * busiest.cores and not busiest.gpus:
            return Advice("cores", busiest.cores, cores, enough)
    return None


def _gib(used: float) -> int:
    """Return whole GiB with room for some more."""
    return max(1, -int(-used * _ROOM // _GIB))
