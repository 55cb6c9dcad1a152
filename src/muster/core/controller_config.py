"""What the controller of a run must know beside the plan: which nodes there are, where they meet, how clocks differ.

It is decided while the agents are started, and stands in `serve.json` of the run directory from then on: a controller
that is started again reads it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from muster.core.json_records import (
    Malformed,
    checked,
    flag,
    number,
    optional,
    several,
    table,
    text,
    texts,
    whole,
)
from muster.core.model import as_json

RECORD = "serve.json"
"""The file."""


class NodeRecord(NamedTuple):
    """One node, by its number in the plan."""

    run_dir: str
    """The run directory there."""
    shared: bool = True
    """That is the directory of node 0, on a file system that both see."""
    clock_offset: float = 0.0
    """Its monotonic clock minus that of the controller's machine, in seconds."""
    executable: str = ""
    """The Python of its agent."""
    python: str = ""
    """The version of that."""
    late: Mapping[str, str | None] = MappingProxyType({})
    """Late values of the plan that hold for this node: the interface on which it meets the others."""

    @property
    def facts(self) -> dict[str, str]:
        """What is told of the node to whoever watches the run."""
        return {"executable": self.executable, "python": self.python}


class ControllerConfig(NamedTuple):
    """All of it."""

    began: float
    """When muster was started, on the monotonic clock of the controller's machine."""
    address: str
    """The address of node 0 at which all ranks meet."""
    clock: float
    """What makes the time of day, as the machine has it that started the run, of that monotonic clock."""
    nodes: tuple[NodeRecord, ...]
    owned: bool = False
    """A terminal has started the run and watches it; the run ends with that."""
    first_attempt: int = 0
    """The number of the first attempt; others were made by a controller that ended with its job."""
    again: bool = False
    """There were such attempts, or might have been: what was written of them stays."""


def _late(value: Any) -> dict[str, str | None]:
    return {text(name): optional(text)(item) for name, item in table(value).items()}


_NODE = {
    "run_dir": text,
    "shared": flag,
    "clock_offset": number,
    "executable": text,
    "python": text,
    "late": _late,
}

_CONFIG = {
    "began": number,
    "address": text,
    "clock": number,
    "nodes": several(lambda data: NodeRecord(**checked(data, _NODE, ("run_dir",)))),
    "owned": flag,
    "first_attempt": whole,
    "again": flag,
}


def config_as_json(config: ControllerConfig) -> dict[str, Any]:
    """What is written."""
    data: dict[str, Any] = as_json(config)
    return data


def config_from_json(data: Any, run_dir: str) -> ControllerConfig:
    """Read it back, from the run directory of node 0. Raises `Malformed`."""
    if "offsets" in table(data):
        data = _from_lists(data, run_dir)
    config = ControllerConfig(**checked(data, _CONFIG, ("began", "address", "clock", "nodes")))
    if not config.nodes:
        raise Malformed("`nodes` is empty")
    return config


def _from_lists(data: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """The same of what versions up to 0.1 wrote: a list of each field, with an entry for each node."""
    fields = checked(data, _LISTS, ("offsets", "facts", "shared", "meets"))
    lists = [fields[name] for name in ("run_dirs", "shared", "offsets", "facts", "meets") if name in fields]
    if len(set(map(len, lists))) != 1:
        raise Malformed("there are not equally many of all")
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
