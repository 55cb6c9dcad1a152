"""Rules about addresses and ports where ranks meet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from muster.lint.model import Command, Expansion, Literal, Shell, Span, Word
from muster.lint.rule import ERROR, SCRIPT, WARNING, Finding, Rule
from muster.lint.rules_ranks import is_multi_node
from muster.lint.scene import LAUNCHERS, TORCHRUN, Scene, number, passed

_COMMON = frozenset({29500, 29400, 12345, 12355, 12346, 23456, 1234, 11111, 22222})
"""Ports of tutorials, and defaults of torch and accelerate."""
_EPHEMERAL = range(32768, 61000)
"""net.ipv4.ip_local_port_range of Linux."""
_PORTS = ("MASTER_PORT", "MAIN_PROCESS_PORT", "RDZV_PORT", "DIST_PORT")
_ADDRESSES = ("MASTER_ADDR", "MASTER_IP", "MASTER_HOST", "MASTER_NODE", "MAIN_PROCESS_IP", "RDZV_HOST")
_ADDRESS_OPTIONS = ("--master-addr", "--rdzv-endpoint", "--main-process-ip", "--master-address")
_PORT_OPTIONS = ("--master-port", "--main-process-port")
_LAUNCHERS = (*LAUNCHERS, "python")
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]")
_RANDOM = re.compile(r"\bRANDOM\b|\bshuf\b|\$\$|/dev/urandom|\buuidgen\b|\bdate\b")


class Place(NamedTuple):
    """A value of an address or a port."""

    word: Word
    span: Span
    shell: Shell | None


def ports(scene: Scene) -> Iterator[Place]:
    """The ports that are given to ranks and launchers."""
    for item in scene.assignments:
        if item.name in _PORTS and item.value is not None:
            yield Place(item.value, item.span, item.shell)
    for command in scene.commands:
        for program in command.programs:
            for option in program.options:
                if program.name not in _LAUNCHERS or option.value is None:
                    continue
                if option.name in _PORT_OPTIONS:
                    yield Place(option.value, option.span, command.shell)
                elif option.name == "--rdzv-endpoint":
                    port = _after_colon(option.value)
                    if port is not None:
                        yield Place(port, option.span, command.shell)
            for word in passed(program):
                name, equals, _ = word.start.partition("=")
                if equals and name in _PORTS:
                    yield Place(word.after(len(name) + 1), word.span, command.shell)


def _after_colon(word: Word) -> Word | None:
    """The port of `HOST:PORT`."""
    for at in range(len(word.parts) - 1, -1, -1):
        part = word.parts[at]
        if isinstance(part, Literal) and ":" in part.text:
            cut = part.text.rindex(":") + 1
            rest = Literal(part.text[cut:], part.at + cut, part.quoted)
            return Word((*((rest,) if rest.text else ()), *word.parts[at + 1 :]), word.span)
    return None


def _host(word: Word) -> Word:
    """The host of `HOST:PORT`."""
    for at, part in enumerate(word.parts):
        if isinstance(part, Literal) and ":" in part.text and not part.text.startswith("["):
            before = Literal(part.text[: part.text.index(":")], part.at, part.quoted)
            return Word((*word.parts[:at], *((before,) if before.text else ())), word.span)
    return word


def _range_of(word: Word) -> range | None:
    """The numbers that a port may have; None if they are not known."""
    count = number(word)
    if count is not None:
        return range(count, count + 1)
    only = word.only
    if only is None:
        return None
    text = only.source
    match = re.search(r"(\d{4,5})\s*\+\s*(?:\(?\s*\$?\{?\w+\}?\s*%\s*(\d{1,5})|.*tail -c\s*(\d))", text, re.DOTALL)
    if match is None:
        match = re.search(r"%\s*(?P<n>\d{1,5})\s*\)?\s*\+\s*(?P<base>\d{4,5})", text)
        if match is None:
            shuffled = re.fullmatch(r"\$\(\s*shuf -i\s*(\d{4,5})-(\d{4,5})(?: -n ?1)?\s*\)", text)
            return range(int(shuffled[1]), int(shuffled[2]) + 1) if shuffled else None
        return range(int(match["base"]), int(match["base"]) + int(match["n"]))
    width = int(match[2]) if match[2] else 10 ** min(int(match[3]), 5)
    return range(int(match[1]), int(match[1]) + width)


def _is_exclusive(scene: Scene) -> bool:
    return scene.script.directive("--exclusive") is not None


def fixed_port(scene: Scene) -> Iterator[Finding]:
    """A port that many scripts use."""
    if _is_exclusive(scene):
        return
    for place in ports(scene):
        count = number(place.word)
        if count in _COMMON:
            yield Finding(_where(place), f"port {count} is the same for all jobs, and a common choice")


def _where(place: Place) -> Span:
    """Where the value is written: in the assignment, if it comes from a variable."""
    part = next((part for part in place.word.parts if isinstance(part, Expansion) or part.text), None)
    if part is None:
        return place.span
    return part.span if isinstance(part, Expansion) else Span(part.at, part.at + len(place.word.text or part.text))


def ephemeral_port(scene: Scene) -> Iterator[Finding]:
    """A port that the kernel gives to outgoing connections."""
    for place in ports(scene):
        values = _range_of(place.word)
        if values is None or not values or number(place.word) in _COMMON:
            continue
        if values[-1] >= _EPHEMERAL.start and values[0] < _EPHEMERAL.stop and not _looks_for_free(place.word):
            shown = str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
            yield Finding(_where(place), f"port {shown} is in the range of outgoing connections, 32768 to 60999")


def _looks_for_free(word: Word) -> bool:
    return bool(re.search(r"\b(ss|netstat|lsof|comm|nc|bind|socket)\b", word.shown))


def addresses(scene: Scene) -> Iterator[Place]:
    """The addresses of the rendezvous that are given to ranks and launchers."""
    for item in scene.assignments:
        if item.name in _ADDRESSES and item.value is not None:
            yield Place(item.value, item.span, item.shell)
    for command in scene.commands:
        for program in command.programs:
            if program.name in _LAUNCHERS:
                for option in program.options:
                    if option.name in _ADDRESS_OPTIONS and option.value is not None:
                        yield Place(_host(option.value), option.span, command.shell)
            for word in passed(program):
                name, equals, _ = word.start.partition("=")
                if equals and name in _ADDRESSES:
                    yield Place(word.after(len(name) + 1), word.span, command.shell)


def _written(place: Place, part: Expansion) -> Span:
    """The expansion itself, if it is written elsewhere, as in the value of a variable."""
    inside = place.span.start <= part.span.start < place.span.end
    return place.span if inside else part.span


def address_of_submit_host(scene: Scene) -> Iterator[Finding]:
    """The login node as the rendezvous."""
    for place in addresses(scene):
        for part in place.word.expansions:
            if "SLURM_SUBMIT_HOST" in part.names:
                yield Finding(
                    _written(place, part), "SLURM_SUBMIT_HOST is the host where sbatch was typed; no rank runs there"
                )


def address_of_each_task(scene: Scene) -> Iterator[Finding]:
    """The host name of each task as the rendezvous of all."""
    if scene.is_one_node and scene.script.is_batch:
        return
    for place in addresses(scene):
        for part in place.word.expansions:
            if not scene.is_task(part.shell):
                continue
            name = next((name for name in ("SLURMD_NODENAME", "HOSTNAME") if name in part.names), "")
            command = next((inner for inner in part.commands if inner.name in ("hostname", "uname")), None)
            if part.kind == "command" and name and _selects(part.commands):
                continue
            if (name or command is not None) and not _selects(part.commands):
                what = name or "hostname"
                yield Finding(_written(place, part), f"{what} is another host in each task, and none finds the others")


def _selects(commands: tuple[Command, ...]) -> bool:
    return any(command.name in ("scontrol", "srun", "grep", "getent", "ssh") for command in commands)


def loopback_address(scene: Scene) -> Iterator[Finding]:
    """localhost as the rendezvous of several nodes."""
    wide = [
        launch
        for launch in scene.launches
        if launch.program.name in (*TORCHRUN, "accelerate")
        and is_multi_node(scene, launch.program.value("--nnodes", "--num-machines"))
    ]
    spread = (scene.nodes or 0) > 1 and any(
        launch.step is not None and launch.program.name == "python" for launch in scene.launches
    )
    if not wide and not spread:
        return
    for place in addresses(scene):
        text = place.word.text
        if text and _LOOPBACK.fullmatch(text):
            yield Finding(_where(place), f"{text} is another host on each node")


def endpoint_not_on_first_node(scene: Scene) -> Iterator[Finding]:
    """A rendezvous on another node than that of rank 0."""
    for place in addresses(scene):
        for part in place.word.expansions:
            which = _which_node(part, scene)
            if which:
                yield Finding(
                    _written(place, part), f"the rendezvous is on {which} of the job, and rank 0 on the first"
                )
    yield from _elsewhere_over_ssh(scene)


def _elsewhere_over_ssh(scene: Scene) -> Iterator[Finding]:
    """`ssh n1 torchrun --node-rank 0 --master-addr n2`, where n2 is the host of another node."""
    sent = []
    for launch in scene.launches:
        ssh = next((program for program in launch.command.shell.launchers if program.name == "ssh"), None)
        host = ssh.operands[0].text if ssh is not None and ssh.operands else None
        if host:
            sent.append((launch, host.rpartition("@")[2]))
    for launch, host in sent:
        rank = launch.program.value("--node-rank", "--machine-rank")
        option = launch.program.option(*_ADDRESS_OPTIONS)
        address = _host(option.value).text if option is not None and option.value is not None else None
        if rank is None or rank.text != "0" or option is None or address == host:
            continue
        if address in {other for _, other in sent}:
            yield Finding(option.span, f"the rendezvous is on {address}, and node 0 is {host}")


def _which_node(part: Expansion, scene: Scene) -> str:
    """Describe the node that a selection from the list of hosts takes, if it is not the first."""
    names = [command.name for command in part.commands]
    inner = (found for command in part.commands for word in command.argv for found in word.expansions)
    for element in (part, *inner):
        if element.kind == "element" and _is_list_of_nodes(element.name, scene):
            index = element.fallback or ""
            if re.fullmatch(r"[1-9]\d*", index):
                return f"node {int(index) + 1}"
            if index == "-1":
                return "the last node"
    if part.kind != "command" or (
        "scontrol" not in names and not set(part.names) & {"SLURM_JOB_NODELIST", "SLURM_NODELIST"}
    ):
        return ""
    for command in part.commands:
        words = " ".join(word.shown for word in command.argv[1:])
        if command.name == "tail" and re.fullmatch(r"-n ?1|-1", words):
            return "the last node"
        if command.name == "shuf" or (command.name == "sort" and "-R" in words):
            return "a random node"
        line = re.search(r"(?:\b|-n ?'?)(?:NR ?== ?)?([0-9]+)[pq]?\b", words)
        if command.name in ("sed", "awk") and line and line[1] not in ("0", "1") and ("NR" in words or "p" in words):
            return f"node {line[1]}"
    return ""


def _is_list_of_nodes(array: str, scene: Scene) -> bool:
    if re.search("node|host", array, re.IGNORECASE):
        return True
    words = [word for item in scene.script.assigned(array) for word in item.items]
    return any(command.name == "scontrol" for word in words for part in word.expansions for command in part.commands)


def random_in_each_task(scene: Scene) -> Iterator[Finding]:
    """A random port or id that each task draws for itself."""
    if scene.is_one_node:
        return
    for place in ports(scene):
        for part in place.word.expansions:
            if scene.is_task(part.shell) and _RANDOM.search(part.source):
                yield Finding(_written(place, part), f"each task draws a port of its own: `{part.source}`")
    for launch in scene.launches:
        option = launch.program.option("--rdzv-id")
        for part in option.value.expansions if option and option.value else ():
            if scene.is_task(part.shell) and _RANDOM.search(part.source) and option is not None:
                yield Finding(option.span, f"each task draws an id of its own: `{part.source}`")


_JOB = "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\nexport OMP_NUM_THREADS=8\n"
_HOST = 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'
_PORT = "export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))\n"
_RUN = "srun python train.py\n"
_EACH = "--rdzv-backend=c10d --rdzv-endpoint=$MASTER_ADDR:$MASTER_PORT train.py"

RULES = (
    Rule(
        "fixed-port",
        WARNING,
        SCRIPT,
        fixed_port,
        "a port that many scripts use: 29500, 12345 and the like",
        "Two jobs on one node, or a job and what the previous one left, want the same port: `Address already in "
        "use`, or ranks join the wrong job.",
        "In a job of Slurm derive the port from its id, `$((10000 + SLURM_JOB_ID % 20000))`; elsewhere draw one "
        "for all nodes, `$((10000 + RANDOM % 20000))`; on one node use `torchrun --standalone`, which takes a free "
        "one.",
        f"{_JOB}{_HOST}export MASTER_PORT=29500\n{_RUN}",
        f"{_JOB}{_HOST}{_PORT}{_RUN}",
    ),
    Rule(
        "ephemeral-port",
        WARNING,
        SCRIPT,
        ephemeral_port,
        "a port between 32768 and 60999",
        "The kernel gives ports of this range to outgoing connections, so that any connection on the node may hold "
        "it: `Address already in use` now and then.",
        "Use a port from 10000 to 32767.",
        f"{_JOB}{_HOST}export MASTER_PORT=$((40000 + SLURM_JOB_ID % 10000))\n{_RUN}",
        f"{_JOB}{_HOST}{_PORT}{_RUN}",
    ),
    Rule(
        "address-of-submit-host",
        ERROR,
        SCRIPT,
        address_of_submit_host,
        "the rendezvous on `$SLURM_SUBMIT_HOST`",
        "It is the host where sbatch was typed, usually a login node. No rank listens there, and all wait until the "
        "time-out.",
        'Take the first node: `$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)`.',
        f"{_JOB}export MASTER_ADDR=$SLURM_SUBMIT_HOST\n{_PORT}{_RUN}",
        f"{_JOB}{_HOST}{_PORT}{_RUN}",
    ),
    Rule(
        "address-of-each-task",
        ERROR,
        SCRIPT,
        address_of_each_task,
        "the rendezvous on `hostname` or `$SLURMD_NODENAME` of each task",
        "Each task names its own node, so that the nodes wait for each other at different addresses.",
        "Determine the address once, in the batch script, and export it.",
        f"{_JOB}{_PORT}srun bash -c 'export MASTER_ADDR=$(hostname); python train.py'\n",
        f"{_JOB}export MASTER_ADDR=$(hostname)\n{_PORT}srun bash -c 'echo $MASTER_ADDR; python train.py'\n",
    ),
    Rule(
        "loopback-address",
        ERROR,
        SCRIPT,
        loopback_address,
        "the rendezvous of several nodes on localhost",
        "Each node connects to itself, and waits for the others until the time-out.",
        "Give the name of the first node.",
        f"{_JOB}export MASTER_ADDR=localhost\n{_PORT}srun torchrun --nnodes=2 --nproc-per-node=4 {_EACH}\n",
        f"{_JOB}{_HOST}{_PORT}srun torchrun --nnodes=2 --nproc-per-node=4 {_EACH}\n",
    ),
    Rule(
        "endpoint-not-on-first-node",
        WARNING,
        SCRIPT,
        endpoint_not_on_first_node,
        "the rendezvous on another node than the first",
        "With `MASTER_ADDR` and with a static rendezvous, rank 0 listens, and rank 0 is on the first node. The "
        "others connect to a node where nobody listens.",
        "Take the first line of the list: `head -n 1`.",
        f'{_JOB}export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n 1)\n{_PORT}{_RUN}',
        f"{_JOB}{_HOST}{_PORT}{_RUN}",
    ),
    Rule(
        "random-in-each-task",
        ERROR,
        SCRIPT,
        random_in_each_task,
        "a random port or `--rdzv-id` that each task draws for itself",
        "The nodes get different values and never meet.",
        "Draw it once, in the batch script, or use the job id.",
        f"{_JOB}{_HOST}{_PORT}srun bash -c 'torchrun --nnodes=2 --nproc-per-node=4 --rdzv-id=$RANDOM {_EACH}'\n",
        f"{_JOB}{_HOST}{_PORT}srun bash -c 'torchrun --nnodes=2 --nproc-per-node=4 --rdzv-id=$SLURM_JOB_ID {_EACH}'\n",
    ),
)
