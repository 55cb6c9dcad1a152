"""Which ranks of external launchers have registered, and which launchers have exited: what the controller counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


class Registrations:
    """The registrations of the ranks of one program, in one attempt."""

    def __init__(self, ranks: Sequence[int], ranks_per_node: Mapping[int, int], launchers: int) -> None:
        """`ranks_per_node`: by the number of the node. `launchers`: how many of them there are."""
        self._ranks, self._ranks_per_node, self._launchers = ranks, ranks_per_node, launchers
        self.begin()

    def begin(self) -> None:
        """Forget everything: the next attempt starts."""
        self.registered: set[int] = set()
        """The ranks that have registered."""
        self._per_node: Counter[int] = Counter()
        self._awaited = set(self._ranks)
        """The ranks that have not registered, unless they were given up."""
        self._exited: dict[int, tuple[str, Sequence[str]]] = {}
        """How the launcher of each node exited, and its last lines."""

    def register(self, rank: int, node: int) -> None:
        """Count a rank, once. Its agent refuses ranks that are not in the plan."""
        if rank in self._awaited:
            self._awaited.remove(rank)
            self.registered.add(rank)
            self._per_node[node] += 1

    def launcher_exited(self, node: int, how: str, last_lines: Sequence[str]) -> None:
        """Record that the launcher of a node has exited."""
        self._exited[node] = how, last_lines

    @property
    def all_launchers_exited(self) -> bool:
        """Whether no launcher runs any more."""
        return len(self._exited) == self._launchers

    def awaits(self, node: int | None = None) -> bool:
        """Whether ranks are missing; with `node`, whether fewer have registered there than the plan has."""
        return bool(self._awaited) and (node is None or self._per_node[node] < self._ranks_per_node[node])

    def give_up(self) -> list[int]:
        """Return the missing ranks, which are awaited no longer."""
        missing = sorted(self._awaited)
        self._awaited.clear()
        return missing

    def how_launchers_exited(self) -> tuple[str, Sequence[str]]:
        """Return how launchers exited, each way once, and the last lines of the first one."""
        return "; ".join(dict.fromkeys(how for how, _ in self._exited.values())), next(
            lines for _, lines in self._exited.values()
        )
