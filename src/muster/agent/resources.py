"""Resources over time: memory and CPU of each rank, of the machine and of its GPUs, for the report of a run.

The number of samples of an attempt is bounded: when there are too many, each two neighbours become one, and samples are
taken half as often. They stay in memory until the attempt ends. As in `usage.py`, nothing here waits for a rank.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Optional

from muster.linux import procfs

MOST = 240
"""Maximum number of samples of an attempt."""

_INTERVAL = 1.0
"""Seconds between samples at first, with few ranks."""

_RANKS_A_SECOND = 16
"""With more ranks samples are taken less often, so that an agent needs no more CPU time."""

_SCANS = 8
"""The descendants of ranks are looked for with every so many samples: this reads all processes of the machine."""

GPU_INTERVAL = 10
"""Seconds between two reports of nvidia-smi."""

GPU_COLUMNS = "index,memory.used,memory.total,utilization.gpu"

Values = list[Optional[float]]


class Series:
    """The values of one thing over time, one for each sample; None where there is none."""

    def __init__(self, before: int, merge: Callable[[float, float], float]) -> None:
        """`before`: samples that were taken before there was such a thing."""
        self.values: Values = [None] * before
        self._merge = merge

    def halve(self) -> None:
        """Merge each two neighbours."""
        self.values = [self._both(*self.values[at : at + 2]) for at in range(0, len(self.values), 2)]

    def _both(self, one: float | None, other: float | None = None) -> float | None:
        return self._merge(one, other) if one is not None and other is not None else one if other is None else other


def _mean(one: float, other: float) -> float:
    return round((one + other) / 2, 1)


class Sampler:
    """Takes samples of the ranks of one attempt on this node."""

    def __init__(self, node: int, attempt: int, ranks: int, clock: Callable[[], float]) -> None:
        """`ranks`: their number on this node; `clock`: the time of day on the clock that all nodes use."""
        self._about = {"node": node, "attempt": attempt, "began": clock()}
        self.began = time.monotonic()
        self.interval = max(_INTERVAL, ranks / _RANKS_A_SECOND)
        self._times: list[float] = []
        self._ranks: dict[int, dict[str, Series]] = {}
        self._machine: dict[str, Series] = {}
        self._gpus: dict[int, dict[str, Series]] = {}
        self._totals: dict[str, int] = {}
        self._gpus_now: dict[int, dict[str, float]] = {}
        self._descendants: dict[int, list[int]] = {}
        """The descendants of each rank, at the last scan."""
        self._cpu: dict[int, float] = {}
        """CPU time of each process at the last sample, in seconds."""
        self._busy: tuple[float, float] | None = None
        """CPU time of the machine at the last sample: in use, and of all cores."""
        self._scans = 0
        self._tick, self._page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        self.children_peak: dict[int, int] = {}
        """Highest memory of the descendants of each rank together, in bytes."""

    def take(self, pids: Mapping[int, int], reported: Callable[[int], Mapping[str, int]] = lambda rank: {}) -> float:
        """Take a sample of these ranks, `pids` by rank; return the seconds until the next one.

        `reported` returns what a rank reported: its `step`.
        """
        if len(self._times) >= MOST:
            self._halve()
        now = time.monotonic() - self.began
        passed = now - self._times[-1] if self._times else 0.0
        if self._scans % _SCANS == 0:
            self._scan(pids)
        self._scans += 1
        cpu: dict[int, float] = {}
        for rank, pid in pids.items():
            self._take_rank(rank, pid, cpu, passed)
            self._take_step(rank, reported(rank).get("step"))
        self._cpu = cpu
        self._take_machine()
        for index, values in self._gpus_now.items():
            series = self._gpus.setdefault(index, self._new(memory=max, utilization=_mean))
            for name, value in values.items():
                series[name].values.append(value)
        self._times.append(round(now, 2))
        for row in self._all():
            row.values += [None] * (len(self._times) - len(row.values))
        return self.interval

    def _new(self, **merges: Callable[[float, float], float]) -> dict[str, Series]:
        return {name: Series(len(self._times), merge) for name, merge in merges.items()}

    def _take_rank(self, rank: int, pid: int, cpu: dict[int, float], passed: float) -> None:
        seen = procfs.stat(pid)
        if seen is None or not seen.lives:
            return
        if rank not in self._ranks:
            self._ranks[rank] = self._new(memory=max, children_memory=max, cpu=_mean)
        cpu[pid] = seen.cpu / self._tick
        children = 0
        for child in self._descendants.get(rank, ()):
            of_child = procfs.stat(child)
            if of_child is not None and of_child.lives:
                cpu[child] = of_child.cpu / self._tick
                children += of_child.memory * self._page
        self.children_peak[rank] = max(children, self.children_peak.get(rank, 0))
        family = cpu.keys() & self._cpu.keys() & {pid, *self._descendants.get(rank, ())}
        spent = sum(cpu[one] - self._cpu[one] for one in family)
        series = self._ranks[rank]
        series["memory"].values.append(seen.memory * self._page)
        series["children_memory"].values.append(children)
        series["cpu"].values.append(round(100 * max(0.0, spent) / passed, 1) if passed else None)

    def _take_step(self, rank: int, step: int | None) -> None:
        if step is not None and rank in self._ranks:
            series = self._ranks[rank].setdefault("step", Series(len(self._times), max))
            series.values.append(step)

    def _scan(self, pids: Mapping[int, int]) -> None:
        """Look for the descendants of the ranks."""
        children: dict[int, list[int]] = {}
        for pid, seen in procfs.all_processes():
            if seen.lives:
                children.setdefault(seen.parent, []).append(pid)
        self._descendants = {}
        for rank, pid in pids.items():
            found, waiting = [], children.get(pid, [])[:]
            while waiting:
                child = waiting.pop()
                found.append(child)
                waiting += children.get(child, ())
            self._descendants[rank] = found

    def _take_machine(self) -> None:
        if not self._machine:
            self._machine = self._new(memory=max, cpu=_mean)
        total, available = procfs.machine_memory()
        busy = procfs.machine_cpu()
        self._totals["memory"] = total
        self._machine["memory"].values.append(total - available if total else None)
        before, self._busy = self._busy, busy
        whole = busy[1] - before[1] if before is not None else 0.0
        share = 100 * (busy[0] - before[0]) / whole if before is not None and whole > 0 else None
        self._machine["cpu"].values.append(None if share is None else round(share, 1))

    def gpus_are(self, line: str) -> None:
        """Note a line of nvidia-smi about one GPU: its values are those of the following samples."""
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and all(cell.isdigit() for cell in cells[:3]):
            index, used, total = (int(cell) for cell in cells[:3])
            self._totals[f"gpu {index}"] = total << 20
            values = {"memory": float(used << 20)}
            if cells[3].isdigit():  # a part of a GPU (MIG) does not report it
                values["utilization"] = float(cells[3])
            self._gpus_now[index] = values

    @property
    def empty(self) -> bool:
        """True if no sample was taken: the attempt was over before."""
        return not self._times

    def _all(self) -> list[Series]:
        tables = (*self._ranks.values(), self._machine, *self._gpus.values())
        return [series for table in tables for series in table.values()]

    def _halve(self) -> None:
        for series in self._all():
            series.halve()
        self._times = [self._times[min(at + 1, len(self._times) - 1)] for at in range(0, len(self._times), 2)]
        self.interval *= 2

    def as_json(self) -> bytes:
        """Return the samples as the text of `resources_NODE.json`.

        `times` are seconds since `began`; memory is in bytes; CPU is in percent of a core for a rank, and of all cores
        for the machine. A value is null where there was no sample.
        """
        ranks, machine = _values(self._ranks), {name: series.values for name, series in self._machine.items()}
        gpus = _values(self._gpus)
        for index, values in gpus.items():
            values["total"] = self._totals.get(f"gpu {index}", 0)
        found = {**self._about, "interval": self.interval, "times": self._times, "ranks": ranks, "gpus": gpus}
        found["machine"] = {**machine, "total": self._totals.get("memory", 0), "cores": os.cpu_count()}
        return json.dumps(found, separators=(",", ":")).encode()


def _values(tables: Mapping[int, Mapping[str, Series]]) -> dict[int, dict[str, Any]]:
    return {number: {name: series.values for name, series in table.items()} for number, table in tables.items()}


def gpu_command() -> list[str]:
    """Return the command that reports the GPUs again and again; empty if there is none.

    It is a process of its own: a GPU that does not answer blocks it, and not the agent.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    return [program, f"--query-gpu={GPU_COLUMNS}", "--format=csv,noheader,nounits", f"--loop={GPU_INTERVAL}"]
