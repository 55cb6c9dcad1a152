"""What a run consisted of: its code, packages, machines, and the names of its environment variables. Values only.

Each agent describes its node once (`agent/provenance.py`), while the ranks start. events.jsonl has one event
`provenance` for each node.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.core.json_checks import checked, optional, several, text, texts, texts_by_name, whole
from muster.core.model import as_json

PROVENANCE = "provenance"
"""The name of the event."""


class ChangedFile(NamedTuple):
    """A file that differs from the commit."""

    path: str
    """Relative to the root of the repository."""
    change: str = "M"
    """A letter of git-status(1): M modified, A added, D deleted, ? not tracked."""
    added: int = 0
    """The number of lines added since the commit."""
    removed: int = 0
    digest: str = ""
    """The start of the SHA-256 of its content; empty if it is missing or large."""


class GitState(NamedTuple):
    """The state of a git repository."""

    root: str
    commit: str = ""
    """Empty before the first commit."""
    branch: str = ""
    """Empty if HEAD is detached."""
    dirty: tuple[ChangedFile, ...] = ()
    more: int = 0
    """The number of changed files that are not in `dirty`."""


class Provenance(NamedTuple):
    """What runs on one node. Only that of node 0 is whole: it has `packages`, `script_digest`, `git`, `variables`."""

    node: int
    python: str = ""
    executable: str = ""
    """The interpreter of the ranks."""
    torch: str = ""
    """The version of torch; empty if it is not installed."""
    cuda: str = ""
    """The CUDA version that torch was built for."""
    hip: str = ""
    """The ROCm version that torch was built for."""
    packages: Mapping[str, str] = MappingProxyType({})
    """Versions of the installed packages by name, in lower case and with dashes."""
    packages_digest: str = ""
    """The same for equal packages."""
    script_digest: str = ""
    git: GitState | None = None
    variables: tuple[str, ...] = ()
    """Names of the environment variables; their values are not recorded."""
    kernel: str = ""
    cpu: str = ""
    """The model of the processor."""
    cores: int = 0
    """The number of cores that the ranks may use."""
    memory: int = 0
    """In bytes."""
    gpus: tuple[str, ...] = ()
    """The models of the GPUs that the driver reports."""
    driver: str = ""
    """The version of the GPU driver."""

    @property
    def nccl(self) -> str:
        """The version of NCCL that is installed as a package; empty if there is none."""
        return next((self.packages[name] for name in sorted(self.packages) if name.startswith("nvidia-nccl")), "")


_FILE = {"path": text, "change": text, "added": whole, "removed": whole, "digest": text}

_GIT = {
    **dict.fromkeys(("root", "commit", "branch"), text),
    "dirty": several(lambda data: ChangedFile(**checked(data, _FILE, ("path",)))),
    "more": whole,
}

_PROVENANCE = {
    **dict.fromkeys(("python", "executable", "torch", "cuda", "hip", "packages_digest", "script_digest"), text),
    **dict.fromkeys(("kernel", "cpu", "driver"), text),
    **dict.fromkeys(("node", "cores", "memory"), whole),
    "packages": texts_by_name,
    "git": optional(lambda data: GitState(**checked(data, _GIT, ("root",)))),
    "variables": texts,
    "gpus": texts,
}


def provenance_as_json(found: Provenance) -> dict[str, Any]:
    """Return the fields that are set, for events.jsonl."""
    unset = Provenance(found.node)
    told = {name: as_json(value) for name, value in found._asdict().items() if value != getattr(unset, name)}
    return {"node": found.node, **told}


def provenance_from_json(data: Any) -> Provenance:
    """Parse an event, or the report of an agent. Raises `Malformed`."""
    return Provenance(**checked(data, _PROVENANCE, ("node",)))
