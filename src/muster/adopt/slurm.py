"""The options of an sbatch script as options of muster, and the values of Slurm's variables in its job. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from muster.lint.model import Option
from muster.schedulers.slurm_batch import OURS

_SAME = (
    *("partition", "account", "qos", "time", "mem", "nodelist", "constraint", "comment", "reservation", "dependency"),
    *("mail-type", "mail-user", "gpus-per-node", "gres", "output", "error", "gpus", "array"),
)
_NAMES = {"job-name": "name", "chdir": "cwd"}
_MUSTER = ("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-task", "signal", "requeue", "exclusive")


class Request(NamedTuple):
    """What a batch script asks for."""

    nodes: int | None = None
    tasks: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    name: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """Options of muster."""
    left: tuple[tuple[Option, str], ...] = ()
    """Options that muster has no use for, each with the reason."""

    @property
    def node_count(self) -> int:
        """The number of nodes; one if it is not given."""
        if self.nodes is None and self.tasks and self.tasks_per_node:
            return -(-self.tasks // self.tasks_per_node)
        return self.nodes or 1

    @property
    def task_count(self) -> int:
        """The number of tasks, as srun starts them without options of its own."""
        if self.tasks is not None:
            return self.tasks
        return self.node_count * (self.tasks_per_node or 1)

    def variables(self) -> dict[str, str]:
        """The values of Slurm's variables in the job, as far as they follow from the options."""
        found: dict[str, int | None] = {
            **dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), self.node_count),
            **dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), self.task_count),
            **dict.fromkeys(("SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"), self.tasks_per_node),
            "SLURM_CPUS_PER_TASK": self.cpus_per_task,
            **dict.fromkeys(("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"), self.gpus_per_node),
        }
        name = {"SLURM_JOB_NAME": self.name} if self.name else {}
        return {**{key: str(value) for key, value in found.items() if value is not None}, **name}


def read_request(options: Iterable[Option]) -> Request:
    """Return what these options ask for; a later option wins."""
    given: dict[str, str] = {}
    last: dict[str, Option] = {}
    for option in options:
        name = option.name.lstrip("-")
        value = option.value.shown if option.value is not None else ""
        # sbatch adds the mail types of several lines; of other options the last line wins
        given[name] = f"{given[name]},{value}" if name == "mail-type" and name in given else value
        last[name] = option
    found = Request(
        nodes=_number(given.get("nodes")),
        tasks=_number(given.get("ntasks")),
        tasks_per_node=_number(given.get("ntasks-per-node")),
        cpus_per_task=_number(given.get("cpus-per-task")),
        gpus_per_node=_gpus(given),
        name=given.get("job-name", ""),
    )
    words: list[tuple[str, str]] = []
    left: list[tuple[Option, str]] = []
    for name, value in given.items():
        if name in _MUSTER:
            continue
        if name == "export":
            words += [("env", item) for item in value.split(",") if item not in ("ALL", "NONE", "")]
            if "ALL" not in value:
                left.append((last[name], "muster passes on the environment in which it is started"))
        elif name in _SAME:
            words.append((name, value))
        elif name == "chdir" and value in ("", "."):
            continue
        elif name in _NAMES:
            words.append((_NAMES[name], value))
        elif name in OURS:
            left.append((last[name], _WHY.get(name, "muster needs this option of sbatch itself")))
        else:
            words.append(("slurm-opt", f"{name}={value}" if value else name))
    if "gpus-per-task" in given:
        each = _number(given["gpus-per-task"].rpartition(":")[2])
        tasks = found.tasks_per_node or (1 if found.tasks is None else None)
        if each == 1:
            words.append(("gpus-per-task", "1"))
        elif each and tasks and "gpus-per-node" not in given:
            words.append(("gpus-per-node", str(each * tasks)))
        elif "gpus-per-node" not in given:
            left.append((last["gpus-per-task"], "give the GPUs per node: `--gpus-per-node`"))
    if "exclusive" in given:
        words.append(("exclusive", ""))
    if "requeue" in given:
        words.append(("requeue", "10"))
        left.append((last["requeue"], "Slurm has no limit; `--requeue` of muster is a number of times, here 10"))
    before = re.fullmatch(r"(?:[BR]:)?(?:SIG)?([A-Z0-9]+)@(\d+)", given.get("signal", ""))
    if before:
        words.append(("signal-before", f"{_signal(before[1])}@{before[2]}"))
    return found._replace(options=tuple(words), left=tuple(left))


def with_step(request: Request, nodes: int | None, tasks: int | None, each: int | None) -> Request:
    """Return the request with the numbers that a step gives, as srun reads them: `-n 1` is one task on one node."""
    if nodes is None and tasks is None and each is None:
        return request
    if tasks is None:
        return request._replace(nodes=nodes or request.nodes, tasks=None, tasks_per_node=each or request.tasks_per_node)
    if nodes is None:
        most = each or request.tasks_per_node
        least = -(-tasks // most) if most else 1
        nodes = max(min(request.node_count, tasks), least)
    if each is None and tasks % nodes == 0:
        each = tasks // nodes
    return request._replace(nodes=nodes, tasks=tasks, tasks_per_node=each)


_SIGNALS = {"10": "USR1", "12": "USR2", "15": "TERM", "2": "INT", "1": "HUP"}
_WHY = {
    "open-mode": "muster appends to files of a requeued job by itself",
    "wait": "`muster run --slurm` waits by itself",
    "no-requeue": "it is the default",
}


def _signal(text: str) -> str:
    return _SIGNALS.get(text, text)


def _number(text: str | None) -> int | None:
    """Return 2 for `2` and `2-4`: Slurm starts a job as soon as it has the least number."""
    found = re.match(r"(\d{1,6})(?:-\d+)?$", text or "")
    return int(found[1]) if found else None


def _gpus(given: dict[str, str]) -> int | None:
    each = given.get("gpus-per-node", "")
    gres = re.search(r"(?:^|,)gpu(?::[^,:]+)?:(\d+)", given.get("gres", ""))
    found = re.search(r"(\d+)$", each) or gres
    if found:
        return int(found[1])
    per_task = re.search(r"(\d+)$", given.get("gpus-per-task", ""))
    if per_task and (given.get("ntasks-per-node", "").isdigit() or "ntasks" not in given):
        return int(per_task[1]) * int(given.get("ntasks-per-node") or 1)
    total, nodes = _number(given.get("gpus")), _number(given.get("nodes"))
    return total // nodes if total and nodes else None
