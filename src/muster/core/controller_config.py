"""What the controller of a run needs beside the plan: its nodes, the rendezvous address, the clock offsets.

It is determined while the agents start, and stored as `controller.json` in the run directory, where a restarted
controller reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.core.json_checks import Malformed, checked, flag, number, optional, several, table, text, texts, whole
from muster.core.json_records import replaced_from_json
from muster.core.model import as_json
from muster.core.results import Replaced

RECORD = "controller.json"
"""Name of the file."""


class NodeRecord(NamedTuple):
    """A node, by its number in the plan."""

    run_dir: str
    """The run directory on the node."""
    shared: bool = True
    """True if that is the directory of node 0, on a shared file system."""
    clock_offset: float = 0.0
    """Its monotonic clock minus that of the controller's machine, in seconds."""
    executable: str = ""
    """The Python interpreter of its agent."""
    python: str = ""
    """The version of that interpreter."""
    late: Mapping[str, str | None] = MappingProxyType({})
    """Late values of the plan for this node: the interface to the other nodes."""
    host: str = ""
    """Its name when the run started; empty in records of older versions."""
    address: str = ""
    """Its address for the other nodes; only in a run with roles."""

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the node shown to clients."""
        return {"executable": self.executable, "python": self.python}


class ControllerConfig(NamedTuple):
    """The configuration of a controller."""

    began: float
    """When muster was started, by the monotonic clock of the controller's machine."""
    address: str
    """The address of node 0 for the rendezvous of the ranks."""
    clock: float
    """What to add to that monotonic clock to get the time of day of the machine that started the run."""
    nodes: tuple[NodeRecord, ...]
    """The nodes, and after them the spare hosts."""
    owned: bool = False
    """True if a terminal started the run and is attached to it; the run ends with it."""
    first_attempt: int = 0
    """The number of the first attempt; earlier ones belong to a controller that ended with its job."""
    again: bool = False
    """True if there were, or may have been, such attempts: their records are kept."""
    replaced: tuple[Replaced, ...] = ()
    """Hosts that were replaced by spares before the run started."""


def _late(value: Any) -> dict[str, str | None]:
    return {text(name): optional(text)(item) for name, item in table(value).items()}


_NODE = {
    "run_dir": text,
    "shared": flag,
    "clock_offset": number,
    "executable": text,
    "python": text,
    "late": _late,
    "host": text,
    "address": text,
}

_CONFIG = {
    "began": number,
    "address": text,
    "clock": number,
    "nodes": several(lambda data: NodeRecord(**checked(data, _NODE, ("run_dir",)))),
    "owned": flag,
    "first_attempt": whole,
    "again": flag,
    "replaced": several(replaced_from_json),
}


def config_as_json(config: ControllerConfig) -> dict[str, Any]:
    """Return the configuration as JSON."""
    data: dict[str, Any] = as_json(config)
    return data


def config_from_json(data: Any, run_dir: str) -> ControllerConfig:
    """Parse a configuration from the run directory of node 0. Raises `Malformed`."""
    if "offsets" in table(data):
        data = _from_lists(data, run_dir)
    config = ControllerConfig(**checked(data, _CONFIG, ("began", "address", "clock", "nodes")))
    if not config.nodes:
        raise Malformed("`nodes` is empty")
    return config


def _from_lists(data: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Convert the format of versions up to 0.1: one list per field, with an entry per node."""
    fields = checked(data, _LISTS, ("offsets", "facts", "shared", "meets"))
    lists = [fields[name] for name in ("run_dirs", "shared", "offsets", "facts", "meets") if name in fields]
    if len(set(map(len, lists))) != 1:
        raise Malformed("lists of different lengths")
    run_dirs = fields.get("run_dirs", (run_dir,) * len(fields["offsets"]))
    nodes = [
        {**facts, "run_dir": where, "shared": shared, "clock_offset": offset, "late": late}
        for where, shared, offset, facts, late in zip(run_dirs, *lists[-4:])
    ]
    return {**data, "nodes": nodes, "owned": data.get("attached")}


_LISTS = {
    "run_dirs": texts,
    "shared": several(flag),
    "offsets": several(number),
    "facts": several(lambda data: checked(data, {"executable": text, "python": text})),
    "meets": several(_late),
}
