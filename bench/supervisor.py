"""CPU seconds that the supervisor takes for the ends of all ranks, by their number: it must grow as they do."""

from __future__ import annotations

import sys
import time

from muster.supervise import Ended, Listening, Ready, Settings, Supervisor, Swept

RANKS_A_NODE = 8
SIZES = (1024, 2048, 4096, 8192)
MOST = 8.0
"""4,096 ranks may cost so many times what 1,024 do; four times is linear."""


def all_end(count: int) -> float:
    """CPU seconds for a run of so many ranks, from its first end to its outcome."""
    nodes = count // RANKS_A_NODE
    node_of = tuple(rank // RANKS_A_NODE for rank in range(count))
    supervisor = Supervisor(Settings(ranks=tuple(range(count)), nodes=nodes, node_of=node_of, grace=30.0))
    for node in range(nodes):
        supervisor.handle(Ready(0.0, node))
    supervisor.handle(Listening(0.0, 0, 29500))
    began = time.process_time()
    for rank in range(count):
        supervisor.handle(Ended(1.0, rank, 0, 0, None, None))
    for node in range(nodes):
        supervisor.handle(Swept(2.0, node, (), ()))
    if supervisor.phase != "over":
        raise AssertionError(supervisor.phase)
    return time.process_time() - began


def main() -> int:
    """Print the table; 1 if it is not linear."""
    took = {count: min(all_end(count) for _ in range(3)) for count in SIZES}
    for count, seconds in took.items():
        print(f"{count:>6} ranks  {seconds * 1000:8.1f} ms")
    return int(took[4096] > MOST * took[1024])


if __name__ == "__main__":
    sys.exit(main())
