"""What the fork server imports in addition, because the last run of the script imported it; and what it must not."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.agent.import_block import ImportStatement

_MOST_TRIES = 3
"""How often a fork server is started anew without an import that has to wait; then all of them wait."""

_OF_RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "TORCHELASTIC_RESTART_COUNT"),
)
"""Environment variables that may differ between a rank and its fork server, beside those of the plan."""


def digest_of_packages(executable: str, version: str, path: Iterable[str]) -> str:
    """Return a digest of an interpreter and of what is installed for it: installing changes those directories."""
    found = [executable, version]
    for folder in path:
        if folder.endswith(("site-packages", "dist-packages")):
            try:
                found.append(f"{folder} {os.stat(folder).st_mtime_ns}")
            except OSError:
                found.append(folder)
    return f"{zlib.crc32(chr(10).join(found).encode(errors='surrogateescape')):08x}"


class FoundImports:
    """The imports that the fork server of a node makes before the script, and the record for the next run."""

    def __init__(self, last: Mapping[str, Any] | None) -> None:
        self.last = last
        self.statements: list[ImportStatement] = []
        self.unfit: dict[str, str] = {}
        """Imports that must not be made before the script makes them, with reasons."""
        self.packages = ""
        self.tries = 0

    def choose(self, executable: str, version: str, path: Sequence[str], argv: Sequence[str], cwd: str) -> None:
        """Choose what is imported, given `sys.path` of the interpreter and the command of the ranks."""
        if self.last is None:
            return
        self.packages = digest_of_packages(executable, version, path)
        if not self.last["run"] or self.packages != self.last["packages"]:
            return
        from muster.agent import import_block

        self.unfit = dict(self.last["unfit"])
        found = import_block.leading_imports(argv, cwd, path)
        self.statements = import_block.worth(found, self.last["names"], self.unfit)

    def drop(self, statement: str, why: str) -> None:
        """Note that an import must wait for the script; choose what is still imported before."""
        from muster.agent import import_block

        self.unfit[statement] = why
        self.tries += 1
        names = self.last["names"] if self.last is not None and self.tries < _MOST_TRIES else ()
        self.statements = import_block.worth(self.statements, names, self.unfit)

    def drop_all(self, why: str) -> None:
        """Note that none of the imports may be made before the script makes it."""
        self.unfit.update(dict.fromkeys(map(str, self.statements), why))
        self.statements = []

    def as_conf(self, environment: Mapping[str, Any], rank: int) -> dict[str, Any]:
        """Return what the fork server needs; `environment` is the plan's, `rank` one of the ranks here."""
        late = [name for name, value in environment["env"].items() if not isinstance(value, str)]
        shared = {name for name, value in environment["env"].items() if isinstance(value, str)}
        own = {*_OF_RANKS, *late, *environment["ranks"][str(rank)]} - shared
        return {"found": [[module, list(names)] for module, names in self.statements], "own": sorted(own)}

    def to_record(self, rank: int, path: str) -> dict[str, Any]:
        """Return what a rank needs to record its imports at `path`; nothing if it does not."""
        if rank != 0 or self.last is None or not self.packages:
            return {}
        header = {"program": self.last["program"], "packages": self.packages, "unfit": self.unfit}
        return {"imports": [path, json.dumps(header)]}
