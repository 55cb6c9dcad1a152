"""Environments of ranks and launchers, compared with the output of `muster plan --json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from muster.launchers import LAUNCHERS

SCRIPT = """
import json, os, sys

def process(pid):
    words, env = (open(f"/proc/{pid}/{name}").read().split("\\0")[:-1] for name in ("cmdline", "environ"))
    return {"argv": words, "env": dict(item.split("=", 1) for item in env if "=" in item)}

def above():
    pid = os.getppid()
    while pid > 1:
        try:
            yield process(pid)
            pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            return

def in_job():
    job = os.environ.get("SLURM_JOB_ID")
    for pid in os.listdir("/proc") if job else ():
        try:
            found = process(int(pid))
        except (OSError, ValueError):
            continue
        if found["env"].get("SLURM_JOB_ID") == job:
            yield found

told = {"env": dict(os.environ), "above": list(above()), "in_job": list(in_job())}
with open(os.path.join(sys.argv[-1], os.environ["RANK"] + ".json"), "w") as file:
    json.dump(told, file)
"""
"""`… FOLDER`: record there the environment of this rank, and those of its ancestors and of its job's processes here."""

AGENT = re.compile(r" -I -S (-c f=open\(0|.+/muster\.pyz step )")

OF_AGENT = r"SLURM_(NTASKS_PER_NODE|CPU_BIND\w*|MEM_BIND\w*|CPUS_PER_TASK|OVERCOMMIT)|SRUN_\w+"
"""Variables of srun's request for an agent, which the agent removes; see docs/design.md."""

LATE = {
    "MASTER_ADDR": r"[\d.]+",
    "MASTER_PORT": r"\d+",
    "RESTART_COUNT": "0",
    "INTERFACE": r"\w+",
    "NCCL_INTERFACE": r"\w+",
    "THREADS": r"\d+",
    "ERROR_FILE": r".*/attempt_0/rank_\d{5}\.error\.json",
    "PATH": r"\S*/bin:.+",
    "MUSTER_PYTHON": r".*/python[\d.]*",
    "MUSTER_RANK": r".*/rank\.pyz",
    "MUSTER_FOLDER": r".*/launcher_0",
    "MUSTER_SCRATCH": r".*/muster-[^/]+",
    "JOB_ID": r"\d+",
    "JOB_NODES": r".+",
    "CPUS_PER_RANK": r"\d+",
}
"""Late values, by name and pattern."""

MAY_BE_ABSENT = ("INTERFACE", "NCCL_INTERFACE", "CPUS_PER_RANK")

_ELASTIC = {
    "MASTER_(ADDR|PORT)": "where its rendezvous is",
    "TORCHELASTIC_(USE_AGENT_STORE|SIGNALS_TO_HANDLE)": "as torchrun's agent sets them for its workers",
    "ROLE_NAME": "its own --role",
}
_STEP = {
    "SLURM_(STEP_?ID|STEP_LAUNCHER_PORT|SRUN_COMM_\\w+|TASK_PID|LAUNCH_NODE_IPADDR|PRIO_PROCESS|UMASK)": (
        "which step of Slurm the rank is in, which is true"
    )
}
_SHELL = {"PWD|OLDPWD|SHLVL|_": "a shell on the way"}

ADDS: dict[str, dict[str, str]] = {
    "fork": {},
    "exec": {},
    "torchrun": _ELASTIC,
    "launch": _ELASTIC,
    "accelerate": {**_ELASTIC, r"ACCELERATE_\w+": "its configuration"},
    "deepspeed": {
        "MASTER_(ADDR|PORT)": "where its ranks meet",
        "CROSS_(RANK|SIZE)|LOCAL_SIZE": "nodes and ranks, by names of its own",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "it looks for GPUs without keeping one open",
    },
    "spawn": {},
    "mpirun": {
        r"(OMPI|PMIX)_\w+|(IPATH|HFI)_NO_BACKTRACE": "of MPI itself",
        **_SHELL,
    },
    # in a job of Slurm it is started by a batch script and srun
    "submitit": {r"SUBMITIT_\w+": "of submitit itself", **_STEP, **_SHELL},
    "ray": {
        r"RAY_\w+": "of Ray itself",
        "NODE_RANK|ACCELERATE_TORCH_DEVICE": "Ray Train tells each worker",
        "PYTHONBREAKPOINT": "its debugger",
        "SPT_NOENV": "it names its processes, and leaves the environment where it is",
        **_SHELL,
    },
    "srun": _STEP,
}
"""Variables that launchers add to the environment of ranks, by name or pattern, with the reason."""


def launchers(place: str, *lab: str, but: Sequence[str] = ()) -> list[Any]:
    """Return the launchers that work at this place, as test parameters; those in `lab` are for `make lab-test`."""
    return [
        pytest.param(name, marks=[pytest.mark.lab] if name in lab else [])
        for name, row in LAUNCHERS.items()
        if place in row.places and name not in but
    ]


def fits(value: str | None, text: Any) -> bool:
    """Return whether a value matches the plan; `text` is a string, a late value, or a list of both."""
    if isinstance(text, str):
        return value == text
    parts = [text] if isinstance(text, dict) else text
    if value is None:
        return any(isinstance(part, dict) and part["late"] in MAY_BE_ABSENT for part in parts)
    pattern = "".join(re.escape(part) if isinstance(part, str) else LATE[part["late"]] for part in parts)
    return re.fullmatch(pattern, value) is not None


def planned(inherited: Mapping[str, Any], of: Mapping[str, Any], node: Mapping[str, str]) -> dict[str, Any]:
    """Return the environment that the plan gives a process; `node` is the node's environment."""
    found = {
        name: value
        for name, value in inherited.items()
        if not (of["unset_pattern"] and re.fullmatch(of["unset_pattern"], name))
    }
    restored = of.get("restored_pattern") or "-"
    found.update({name: value for name, value in node.items() if re.fullmatch(restored, name)})
    return {**of["env_defaults"], **found, **of["env"]}


def differences(found: Mapping[str, str], expected: Mapping[str, Any], allowed: Mapping[str, str]) -> list[str]:
    """Return variables that differ from the plan for no known reason."""
    wrong = []
    for name in sorted({*found, *expected}):
        if name in expected and fits(found.get(name), expected[name]):
            continue
        if not any(re.fullmatch(pattern, name) for pattern in allowed):
            wrong.append(f"{name}: {found.get(name)!r}, and the plan says {expected.get(name)!r}")
    return wrong


def _told(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found


def _of_step(plan: Mapping[str, Any], folder: Path, rank: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the node's environment with what the launcher adds, if ranks are tasks of an srun step.

    They descend from Slurm's daemon, not from an agent.
    """

    def node_of(told: Mapping[str, Any]) -> dict[str, Any]:
        # srun, which started it, passes its own variables too
        agents = (item for item in told["in_job"] if item["argv"][1:3] == ["-I", "-S"])
        agent = next(item for item in agents if AGENT.search(" ".join(["", *item["argv"], ""])))
        return {name: value for name, value in agent["env"].items() if not re.fullmatch(OF_AGENT, name)}

    (command,) = (item for item in plan["commands"] if item["launcher"])
    at_launcher = _told(folder, next(item["rank"] for item in plan["ranks"] if item["node"] == command["node"]))
    head = node_of(at_launcher)
    inherited = planned(head, command, head)
    started = [
        item
        for item in at_launcher["in_job"]
        if len(item["argv"]) == len(command["argv"]) and all(map(fits, item["argv"], command["argv"]))
    ]
    assert started, f"{command['argv']} is not among {[item['argv'] for item in at_launcher['in_job']]}"
    for item in started:
        wrong = differences(item["env"], inherited, _SHELL)
        assert not wrong, "\n".join([f"{command['launcher']} itself:", *wrong])
    return node_of(_told(folder, rank["rank"])), inherited


def check(plan: Mapping[str, Any], folder: Path, place: Mapping[str, str] | None = None) -> None:
    """Check that all ranks and launchers have the planned environment, with known additions of the `place`."""
    launcher, place = plan["job"]["launcher"], place or {}
    for rank in plan["ranks"]:
        told = _told(folder, rank["rank"])
        above = [" ".join(["", *process["argv"], ""]) for process in told["above"]]
        number = next((number for number, line in enumerate(above) if AGENT.search(line)), None)
        if number is None:
            node, inherited = _of_step(plan, folder, rank)
            wrong = differences(told["env"], planned(inherited, rank, node), {**ADDS[launcher], **place})
            assert not wrong, "\n".join([f"rank {rank['rank']} of {launcher}:", *wrong])
            continue
        node = {name: value for name, value in told["above"][number]["env"].items() if not re.fullmatch(OF_AGENT, name)}
        if plan["job"]["transport"] == "ssh":
            node["PATH"] = {"late": "PATH"}  # set by the agent since
        if plan["inherited"] is not None:
            assert plan["inherited"]["env"] == node
        inherited = dict(node)
        command = next((item for item in plan["commands"] if item["node"] == rank["node"] and item["launcher"]), None)
        if command is not None and number:
            inherited = planned(node, command, node)
            started = told["above"][number - 1]["env"]
            # ranks of Ray descend from its daemons, which have more variables already
            more = {**ADDS["ray"], "LD_PRELOAD": "its allocator, for its daemons alone"} if launcher == "ray" else {}
            wrong = differences(started, inherited, {**_SHELL, **more, **place})
            assert not wrong, "\n".join([f"{launcher} itself:", *wrong])
        wrong = differences(told["env"], planned(inherited, rank, node), {**ADDS[launcher], **place})
        assert not wrong, "\n".join([f"rank {rank['rank']} of {launcher}:", *wrong])
