"""What was understood of a script, in words, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.adopt.adoption import Adoption, Launch, Remark
from muster.adopt.line import command_line, in_toml
from muster.adopt.values import SECRET
from muster.core.hostlist import fold_hostlist
from muster.core.plurals import plural
from muster.errors import InvalidRequest


def facts(launch: Launch) -> list[tuple[str, str]]:
    """Return what was understood of a launch: (topic, sentence)."""
    if launch.typed:
        return [("written", f"by {launch.by} (line {launch.line})")]
    found = [("starts", f"{launch.by} (line {launch.line})"), ("ranks", _ranks(launch)), ("rank 0", _first(launch))]
    if launch.by_arrival:
        found[-1] = ("rank 0", f"{_first(launch)}; in the script on the node that arrives first (--rdzv_backend)")
    if launch.port:
        found.append(("port", f"{launch.port} in the script; muster binds a free one on the first node"))
    else:
        found.append(("port", "muster binds a free one on the first node"))
    names = [name for name, _ in launch.env]
    passed = [", ".join(names)] if names else []
    if launch.setup:
        verb = "sets" if len(launch.setup) == 1 else "set"
        passed.append(f"what {', '.join(f'`{line}`' for line in launch.setup)} {verb}")
    inherits = "the environment in which muster is started" if launch.scheduled or not _elsewhere(launch) else ""
    passed += [inherits or "variables that muster forwards to hosts, such as NCCL_… and HF_…"]
    found.append(("passed on", "; ".join(passed)))
    if any(argument.in_job for argument in launch.program):
        found.append(("arguments", "some are known only in the job, so that a shell expands them there"))
    if launch.launcher in ("launch", "deepspeed"):
        option = "--local-rank" if launch.launcher == "launch" else "--local_rank"
        found.append(
            ("arguments", f"this launcher adds {option}=N to those of the script; without --launcher it is not added")
        )
    ends = "; ".join([*launch.ends, "muster also ends all ranks when one fails"])
    return [*found, ("ends", ends)]


def _elsewhere(launch: Launch) -> bool:
    return bool(launch.hosts or launch.hostfile)


def _ranks(launch: Launch) -> str:
    size = launch.world_size
    whole = f"{plural(size, 'rank')}" if size is not None else "an unknown number of ranks"
    if launch.each.isdigit() and size is None:
        whole = f"{plural(int(launch.each), 'rank')} on each node"
    elif launch.each and not launch.each.isdigit():
        whole = {"gpu": "one rank for each GPU", "cpu": "one rank for each core"}.get(launch.each, whole)
    if launch.hosts:
        return f"{whole} on {', '.join(launch.hosts)}"
    if launch.hostfile:
        by = {"": "as many ranks as it has slots", "gpu": "one rank for each GPU", "cpu": "one rank for each core"}
        each = by.get(launch.each, f"{launch.each} ranks")
        of = f" that {launch.include} selects" if launch.include else ""
        each = f"{plural(launch.total, 'rank')}, at most {each}" if launch.total is not None else each
        return f"{each} on each host of {launch.hostfile}{of}"
    if launch.nodes:
        each = f", {launch.each} on each" if launch.each.isdigit() and launch.nodes > 1 else ""
        return f"{whole} on {plural(launch.nodes, 'node')}{each}"
    if whole.endswith(" on each node"):
        return f"{whole} of the job" if launch.scheduled else whole
    return f"{whole} on " + ("the nodes of the job" if launch.scheduled else "this machine")


def _first(launch: Launch) -> str:
    if launch.hosts:
        try:
            return f"on {fold_hostlist([launch.hosts[0].partition(':')[0]])}, the first host"
        except InvalidRequest:
            return "on the first host"
    if launch.hostfile:
        return f"on the first host of {launch.hostfile}"
    return "on the first node of the job" if launch.scheduled else "on this machine"


def in_words(adoption: Adoption) -> str:
    """Return the command line of each launch, and what was understood and what was not."""
    lines: list[str] = (
        [] if adoption.launches else [f"# nothing in {adoption.path} that was understood starts ranks", ""]
    )
    for launch in adoption.launches:
        lines += [command_line(launch), "", *(f"# {topic + ':':<11}{says}" for topic, says in facts(launch))]
        toml = in_toml(launch)
        if toml:
            lines += ["#", "# or in muster.toml, which leaves the number of nodes and ranks and the script to type:"]
            lines += [f"#   {line}" for line in toml.splitlines()]
        lines.append("")
    lines += _remarks("different with muster, or wrong in the script", adoption.changed)
    lines += _remarks("left out", adoption.unused)
    lines += _remarks("not understood", adoption.unknown)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def _remarks(title: str, remarks: Sequence[Remark]) -> list[str]:
    if not remarks:
        return []
    lines = [f"# {title}:"]
    for remark in remarks:
        where = f"line {remark.line}: " if remark.line else ""
        shown = f"{remark.text}: " if remark.text else ""
        lines.append(f"#   {where}{shown}{remark.says}")
    return [*lines, ""]


def as_json(adoption: Adoption) -> dict[str, Any]:
    """Return everything for `--json`; values that are secrets are not in it."""
    return {
        "file": adoption.path,
        "launches": [_launch_as_json(launch) for launch in adoption.launches],
        **{
            name: [{"line": remark.line or None, "text": remark.text, "message": remark.says} for remark in remarks]
            for name, remarks in (
                ("changed", adoption.changed),
                ("unused", adoption.unused),
                ("not_understood", adoption.unknown),
            )
        },
    }


def _launch_as_json(launch: Launch) -> dict[str, Any]:
    return {
        "line": launch.line,
        "command": command_line(launch).replace(" \\\n  ", " "),
        "toml": in_toml(launch) or None,
        "launcher": launch.by,
        "ranks": launch.world_size,
        "ranks_per_node": launch.each or None,
        "nodes": launch.nodes,
        "hosts": list(launch.hosts),
        "hostfile": launch.hostfile or None,
        "port": launch.port or None,
        "env": {name: None if value == SECRET else value for name, value in launch.env},
        "setup": list(launch.setup),
        "understood": dict(facts(launch)),
    }
