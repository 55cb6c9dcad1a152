"""All rows of the bench, in the order of the page and of measuring."""

from __future__ import annotations

from typing import NamedTuple

import row_commands
import row_controller
import row_external
import row_failures
import row_held
import row_idle
import row_imports
import row_launch
import row_logs
import row_steps

GROUPS = (
    row_launch,
    row_failures,
    row_held,
    row_external,
    row_imports,
    row_logs,
    row_commands,
    row_controller,
    row_idle,
    row_steps,
)
ROWS = {row.name: row for group in GROUPS for row in group.ROWS}


class Part(NamedTuple):
    """A part of a run of the bench: a row, or some cases and programs of it."""

    row: str
    cases: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    """Only these beside muster."""
    repeat: int = 0
    patience: float = 12.0
    """Seconds for all rounds of another program in a case."""


QUICK = (
    Part("launch", ("1 rank", "8 ranks")),
    Part("launch", ("32 ranks",), ("torchrun", row_launch.IMPORT)),
    Part("hosts", ("3 × 2",)),
    Part("hosts", ("3 × 8",), ("srun + torchrun", row_launch.THREE)),
    Part("restart"),
    Part("death", programs=("torchrun", "mpirun (Open MPI)", "srun", "srun + torchrun"), repeat=2),
    Part("held"),
    Part("heavy"),
    Part("commands"),
    Part("ps"),
    Part("plan"),
    Part("controller", ("1,000 nodes × 8", "4,000 nodes × 8")),
    Part("logs", ("8 × 100 MB of short lines",), repeat=1),
    Part("idle", ("32 ranks",)),
    Part("steps", repeat=2),
    Part("many", ("256 ranks of an empty script",), repeat=1),
    Part("many", ("256 ranks, all-reduce",), ("none",), repeat=1),
    Part("import"),
    Part("external", ("srun, 3 × 2",)),
    Part("cold", repeat=2),
    Part("idle", ("128 ranks, watched",), ("none",)),
    Part("logs", ("one line of 1000 MB",)),
    Part("fan_out"),
    Part("followed", repeat=1),
    Part("inspection"),
    Part("external", programs=("torchrun", "accelerate", "mp.spawn", "mpirun (Open MPI)", "submitit"), repeat=1),
    Part("launch", ("32 ranks",)),
    Part("hosts", ("3 × 8",)),
)
"""What is worth most first, for a machine that is quiet only for some minutes (`--quick --minutes 12`)."""
