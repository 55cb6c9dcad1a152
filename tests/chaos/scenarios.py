"""What a seed means: a run, the fault that strikes it, and the moment. Pure."""

from __future__ import annotations

import random
from enum import Enum
from typing import NamedTuple


class Place(str, Enum):
    """Where a run is, and whether a terminal owns it."""

    LOCAL = "local"
    LOCAL_DETACHED = "local -d"
    SSH = "ssh"
    SSH_DETACHED = "ssh -d"
    SLURM = "slurm"

    @property
    def detached(self) -> bool:
        """Whether the run outlives the command that started it."""
        return self in (Place.LOCAL_DETACHED, Place.SSH_DETACHED)

    @property
    def here(self) -> bool:
        """Whether all of it is on one machine, the head."""
        return self in (Place.LOCAL, Place.LOCAL_DETACHED)


class Moment(str, Enum):
    """When a fault strikes."""

    BEFORE = "before"
    """As soon as its victim exists; ranks may not run yet."""
    WHILE = "while"
    """All ranks have written lines."""
    AFTER = "after"
    """One rank has done its work."""
    END = "end"
    """muster was told to end the run."""


class Ending(str, Enum):
    """How a run that no fault ends comes to its end."""

    WORK = "work is done"
    INTERRUPT = "ctrl-c"
    KILL = "muster kill"


class Scenario(NamedTuple):
    """All that a seed decides. What depends on the speed of the machine is the state in which a fault finds the run."""

    seed: int
    place: Place
    launcher: str
    job: str
    fault: str
    moment: Moment
    ending: Ending
    rank: int
    """The rank that is struck, and the host that is: that of this rank."""
    delay: float
    """Seconds between the moment and the fault."""
    length: float
    """Seconds for which a fault lasts that passes."""
    restarts: int

    def __str__(self) -> str:
        when = f"{self.moment.value} + {self.delay:.2f}s"
        more = f", --max-restarts {self.restarts}" if self.restarts else ""
        return (
            f"seed {self.seed}: {self.place.value}, {self.launcher}, job `{self.job}`, fault `{self.fault}` "
            f"(rank {self.rank}, {self.length:g}s) {when}, ending: {self.ending.value}{more}"
        )


LEASE = 5.0
"""--lease of all runs that have one."""

GRACE = 2.0

LAUNCHERS = {
    Place.LOCAL: ("fork", "fork", "exec", "torchrun"),
    Place.LOCAL_DETACHED: ("fork", "exec", "torchrun"),
    Place.SSH: ("fork", "fork", "exec", "torchrun"),
    Place.SSH_DETACHED: ("fork", "exec"),
    Place.SLURM: ("fork", "exec", "srun", "torchrun"),
}
"""More than once: more often."""

JOBS = ("plain", "torch", "family", "talks", "fails", "slow end")

_LENGTHS = (0.3, 1.5, 1.5, LEASE + 3)


def draw(seed: int, places: tuple[Place, ...], faults: dict[Place, tuple[str, ...]]) -> Scenario:
    """Return the scenario of a seed. `faults` are those possible at each place."""
    chance = random.Random(seed)
    place = chance.choice(places)
    fault = chance.choice(faults[place])
    moment = chance.choice((Moment.BEFORE, Moment.WHILE, Moment.WHILE, Moment.AFTER, Moment.END))
    # Ctrl-C detaches from a run that does not belong to the terminal
    own = not place.detached and place is not Place.SLURM
    endings = (Ending.KILL, Ending.INTERRUPT, Ending.INTERRUPT) if own else (Ending.KILL,)
    ending = chance.choice(endings) if moment is Moment.END else Ending.WORK
    return Scenario(
        seed=seed,
        place=place,
        launcher=chance.choice(LAUNCHERS[place]),
        job="family" if fault.startswith("child") else chance.choice(JOBS),
        fault=fault,
        moment=moment,
        ending=ending,
        rank=chance.randrange(2),
        delay=chance.choice((0.0, 0.0, chance.random() * 0.1, chance.random() * 0.5)),
        length=chance.choice(_LENGTHS),
        restarts=chance.choice((0, 0, 0, 1)),
    )
