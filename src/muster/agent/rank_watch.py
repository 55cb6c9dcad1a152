"""What an agent watches of its ranks while they run: their cgroups, for facts about deaths, and resources over time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from muster.agent.context import NodeRun
from muster.linux import processes
from muster.linux.exits import Ended
from muster.protocol.paths import resources_name

if TYPE_CHECKING:
    from muster.agent.death_facts import DeathWatch
    from muster.agent.external import ExternalRanks
    from muster.agent.resources import Sampler
    from muster.linux.kernel_log import KernelLog

_FIRST_LOOK = 0.02
"""Seconds after the request to start ranks until the first look at their cgroups: it must not delay them."""

_LOOKS = 1.0
"""Seconds between looks at their cgroups, at first."""

_EARLY = 30
"""Number of these looks: scripts enter another cgroup at their start, if at all."""

_LOOKS_LATER = 5.0

_A_RANK = 1 / 8
"""Seconds between looks for each rank, with many ranks: so an agent needs hardly any CPU time."""

_FIRST_SAMPLE = 0.5
"""Seconds until the first sample of the resources of ranks: short runs need none."""

_FIRST_OF_GPUS = 5.0
"""Seconds until nvidia-smi is started."""


class WatchedRanks(Protocol):
    """The processes of a node (`ranks.py`), as far as they are watched."""

    pids: dict[int, int]
    ranks: list[int]
    names: dict[int, str]
    attempt: int
    folder: str
    killing: bool
    null: int
    external: ExternalRanks | None

    def reported(self, rank: int) -> dict[str, int]:
        """Return the `step` and `steps` that a rank reported."""


class Before(NamedTuple):
    """What was known before any rank was started."""

    log: KernelLog
    when: float
    """The monotonic time."""
    counters: Mapping[str, tuple[int | None, int | None]]
    """As `cgroups.kills_above` has them."""


class RankWatch:
    """Watches the ranks of one node, from one attempt to the next."""

    def __init__(self, run: NodeRun, ranks: WatchedRanks) -> None:
        self.run, self.ranks = run, ranks
        self._deaths: DeathWatch | None = None
        self._before: Before | None = None
        self._sampler: Sampler | None = None
        """The resources of this attempt's ranks over time; none before the first sample."""
        self._watches_gpus = False
        """True once nvidia-smi was started."""

    def prepare(self) -> None:
        """Open the kernel log, and record the counters of the agent's own cgroups, in which ranks start.

        A rank that uses too much memory at once may be killed before the agent first looks at it.
        """
        from muster.linux import cgroups
        from muster.linux.kernel_log import KernelLog

        self._before = Before(KernelLog(), time.monotonic(), cgroups.kills_above(os.getpid()))

    def begin(self, attempt: int) -> None:
        """Watch the ranks of an attempt."""
        self._sampler = None
        self.run.loop.call_later(_FIRST_LOOK, lambda: self._look(attempt, _EARLY))
        self.run.loop.call_later(_FIRST_SAMPLE, lambda: self._sample(attempt))
        self.run.loop.call_later(_FIRST_OF_GPUS, lambda: self._watch_gpus(attempt))

    def _lasts(self, attempt: int) -> bool:
        """Return True until the processes of this attempt are killed, or another one begins."""
        return attempt == self.ranks.attempt and not self.ranks.killing

    def facts(self, rank: int, ended: Ended) -> dict[str, Any]:
        """Return the facts about the failure of a rank: the fields of `results.ExitFacts`."""
        return self._known().facts(rank, ended)

    def children_peak(self, rank: int) -> int:
        """Return the highest memory of the descendants of a rank together, in bytes."""
        return self._sampler.children_peak.get(rank, 0) if self._sampler is not None else 0

    def _known(self) -> DeathWatch:
        if self._deaths is None:
            from muster.agent.death_facts import DeathWatch  # imported late: the ranks are on their way by then

            if self._before is None:
                self.prepare()
            assert self._before is not None
            self._deaths = DeathWatch(*self._before)
        return self._deaths

    def _look(self, attempt: int, early: int) -> None:
        if self._lasts(attempt):
            self._known().look(self.ranks.pids)
            pause = max(_LOOKS if early else _LOOKS_LATER, len(self.ranks.pids) * _A_RANK)
            self.run.loop.call_later(pause, lambda: self._look(attempt, max(0, early - 1)))

    # ---- resources over time ----------------------------------------------------------------------------------------

    def _sample(self, attempt: int) -> None:
        if not self._lasts(attempt):
            return
        if self._sampler is None:
            from muster.agent.resources import Sampler

            external = self.ranks.external
            here = len(self.ranks.ranks) if external is None else len(external.conf["places"])
            self._sampler = Sampler(self.run.node, attempt, here, self.run.logs.clock)
        pids, reported = self.ranks.pids, self.ranks.reported
        pause = self._sampler.take(pids, reported) if pids else self._sampler.interval
        self.run.loop.call_later(pause, lambda: self._sample(attempt))

    def _watch_gpus(self, attempt: int) -> None:
        """Start nvidia-smi, if it is there, for all attempts from now on."""
        from muster.agent.resources import gpu_command

        argv = gpu_command()
        if self._watches_gpus or not self._lasts(attempt) or not argv:
            return
        self._watches_gpus = True
        told, tell = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(told, False)
        try:
            pid = processes.spawn(argv, os.environ, "/", self.ranks.null, tell, self.ranks.null)
        except OSError:
            os.close(told)
            return
        finally:
            os.close(tell)
        self.ranks.names[pid] = "gpus"
        self.run.loop.add_reader(told, lambda: self._heard_of_gpus(told))

    def _heard_of_gpus(self, told: int) -> None:
        """Handle lines of nvidia-smi, which writes each report at once."""
        data = os.read(told, 1 << 16)
        if not data:
            self.run.loop.remove_reader(told)
            os.close(told)
        if self._sampler is not None:
            for line in data.decode("utf-8", "replace").splitlines():
                self._sampler.gpus_are(line)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Report the resources over time of this attempt, which is over."""
        if self._sampler is not None and not self._sampler.empty:
            sampler = self._sampler
            self.run.emit("rank_resources", sampler.as_json(), attempt=self.ranks.attempt, began=sampler.began)
        self._sampler = None

    def close(self) -> None:
        """Close what is open, in a process that continues after the run."""
        if self._before is not None:
            self._before.log.close()
        self._deaths = self._before = None

    def keep(self) -> None:
        """Write them to the directory of the attempt: there is no controller that would."""
        if self._sampler is not None and not self._sampler.empty:
            path = os.path.join(self.ranks.folder, resources_name(self.run.node))
            try:
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(self._sampler.as_json())
            except OSError as error:
                self.run.complain(processes.reason_at(error))
