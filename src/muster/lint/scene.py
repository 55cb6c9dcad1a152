"""What rules ask of a script: how many nodes, tasks and GPUs it requests, and which launchers it starts where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

from muster.lint.model import Assignment, Command, Expansion, Literal, Program, Script, Shell, Span, Word

TORCHRUN = ("torchrun", "torch.distributed.launch")
LAUNCHERS = (*TORCHRUN, "accelerate", "deepspeed")
_ENVIRONMENTS = re.compile(r"(activate|conda\.sh|mamba\.sh|bashrc|bash_profile|profile|modules\.sh|bash|lmod\.sh)$")
_GPU = re.compile(r"gpu(?::[A-Za-z][\w.-]*)?(?::(\d+))?(?:\(.*\))?$")


class Launch(NamedTuple):
    """A launcher or a Python script that a command starts."""

    command: Command
    program: Program
    step: Program | None
    """The srun or mpirun that starts it, here or around the shell."""

    @property
    def nproc(self) -> Word | None:
        """The number of ranks per node, as it is given to a launcher; of all ranks, for accelerate."""
        return self.program.value("--nproc-per-node", "--num-gpus", "--num-processes")


class Scene:
    """A script with the facts that several rules use."""

    def __init__(self, script: Script, read: Callable[[str], str | None] = lambda path: None) -> None:
        self.script = script
        self.read = read
        """Returns the text of another file, relative to the script; None if there is none."""

    # requests

    def requested(self, *names: str) -> int | None:
        """The number that `#SBATCH` gives; None if it is not known."""
        option = self.script.directive(*names)
        return number(option.value) if option else None

    @cached_property
    def nodes(self) -> int | None:
        """Number of nodes that are requested; None if that is not known."""
        option = self.script.directive("--nodes")
        if option is not None:
            return number(option.value)
        tasks, per_node = self.requested("--ntasks"), self.requested("--ntasks-per-node")
        if tasks and per_node:
            return -(-tasks // per_node)
        return None

    @cached_property
    def is_one_node(self) -> bool:
        """True if the job has certainly one node: `--nodes=1`, or nothing that more nodes need."""
        if any(item.component for item in self.script.directives):
            return False
        if self.nodes is not None:
            return self.nodes == 1
        if self.script.directive("--nodes") or (self.requested("--ntasks") or 1) > 1:
            return False
        wide = [program.value("--nodes") for command in self.commands for program in command.programs]
        if any(value is not None and number(value) != 1 for value in wide):
            return False
        counts = (launch.program.value("--nnodes", "--num-machines", "--num-nodes") for launch in self.launches)
        if any((number(count) or 1) > 1 for count in counts):
            return False
        names = {"SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_NTASKS"}
        return not any(names & word.names for command in self.commands for word in command.words)

    @cached_property
    def gpus_per_node(self) -> int | None:
        """Number of GPUs of each node that are requested."""
        for option in ("--gpus-per-node", "--gres"):
            found = self.script.directive(option)
            if found is not None and found.value is not None:
                return gpus(found.value, with_name=option == "--gres")
        total, nodes = self.script.directive("--gpus"), self.nodes
        count = gpus(total.value, with_name=False) if total is not None and total.value is not None else None
        return count // nodes if count and nodes and count % nodes == 0 else None

    @cached_property
    def has_gpus(self) -> bool:
        """True if Slurm assigns GPUs."""
        steps = (command.program("srun") for command in self.commands)
        given = [item.option for item in self.script.directives if item.effective]
        given += [option for step in steps if step is not None for option in step.options]
        return any(
            option.name.startswith("--gpus")
            or (option.name == "--gres" and option.value is not None and "gpu" in option.value.shown)
            for option in given
        )

    def text_of(self, path: str) -> str | None:
        """The text of a file that the script names: from its heredoc, or read."""
        for script in self.script.scripts():
            for heredoc in script.heredocs:
                if heredoc.target == path:
                    return heredoc.body.shown
        return self.read(path)

    # commands

    @cached_property
    def commands(self) -> list[Command]:
        """All commands, of all shells."""
        return list(self.script.everything())

    @cached_property
    def assignments(self) -> list[Assignment]:
        """All assignments, of all shells."""
        return [item for script in self.script.scripts() for item in script.assignments]

    @cached_property
    def launches(self) -> list[Launch]:
        """The launchers and Python scripts that are started, in order."""
        found = []
        for command in self.commands:
            around = list(command.shell.launchers)
            for at, program in enumerate(command.programs):
                if program.name in LAUNCHERS or (program.name == "python" and is_training(program)):
                    before = [*self.steps_of_files.get(command.shell.number, ()), *around, *command.programs[:at]]
                    step = next((item for item in before if item.name in ("srun", "mpirun")), None)
                    found.append(Launch(command, program, step))
        return found

    @cached_property
    def steps_of_files(self) -> dict[int, tuple[Program, ...]]:
        """The srun that starts a file which a heredoc writes, by the number of the file's shell."""
        started: dict[str, Program] = {}
        for command in self.script.everything():
            step = command.program("srun")
            if step is None:
                continue
            for program in command.programs:
                first = program.operands[:1] if program.name in ("bash", "srun") else (program.word,)
                for word in first:
                    started.setdefault(_plain(word.shown), step)
        found: dict[int, tuple[Program, ...]] = {}
        for script in self.script.scripts():
            for heredoc in script.heredocs:
                step = started.get(_plain(heredoc.target or ""))
                for inner in script.nested if step is not None else ():
                    places = [item.span.start for item in inner.commands]
                    places += [item.span.start for item in inner.assignments]
                    inside = any(heredoc.span.start <= at < heredoc.span.end for at in places)
                    if inner.shell.kind == "file" and inside and step is not None:
                        found[inner.shell.number] = (step,)
        return found

    @cached_property
    def inner(self) -> dict[int, Script]:
        """The scripts by the number of their shell."""
        return {script.shell.number: script for script in self.script.scripts()}

    def place_of(self, launch: Launch) -> Span:
        """Where a launcher is started: its name, or the command if the name is in a variable."""
        span, command = launch.program.word.span, launch.command
        if command.span.start <= span.start < command.span.end or not command.words:
            return span
        return command.words[0].span

    def starts_training(self, command: Command) -> bool:
        """True if a command starts a launcher, a script, or a shell that does."""
        last = command.programs[-1] if command.programs else None
        if last is None:
            return False
        if last.name in LAUNCHERS or (last.name == "python" and is_training(last)):
            return True
        if last.name == "bash" and not last.has("-c"):
            return bool(last.operands)
        if last.name == "bash":
            return any(
                launch.command.shell.launchers[-1:] == (last,) or last in launch.command.shell.launchers
                for launch in self.launches
            )
        return last.name in ("srun", "mpirun") and any(
            (word.text or "").endswith((".sh", ".py")) for word in last.operands[:1]
        )

    @cached_property
    def is_run_by_srun(self) -> bool:
        """True for a script that each task runs: it reads SLURM_PROCID and the like, and starts no srun."""
        names = {"SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"}
        return (
            self.script.shell.kind == "script"
            and not self.has_srun
            and any(names & word.names for command in self.commands for word in command.words)
        )

    @cached_property
    def has_srun(self) -> bool:
        """True if it starts srun."""
        return any(command.program("srun") for command in self.commands)

    def is_batch(self, shell: Shell) -> bool:
        """True if the variables of tasks have the values of the batch step in this shell."""
        return shell.is_batch or (shell.kind == "script" and self.has_srun)

    def is_task(self, shell: Shell) -> bool:
        """True if each task has a shell of its own here."""
        if shell.number in self.steps_of_files:
            return True
        return shell.kind == "step" or (shell.kind == "script" and self.is_run_by_srun)

    def is_spread(self, command: Command) -> bool:
        """True if it starts something unknown on other nodes, which may be the ranks: `srun $CMD`, `srun ./run.sh`."""
        last = command.programs[-1] if command.programs else None
        if last is None or last.name == "ray":
            return last is not None
        if last.name in ("srun", "mpirun", "ssh", "pdsh", "clush", "xargs", ""):
            return True
        return (last.name == "bash" and not last.has("-c")) or self.starts_training(command)

    def tasks_per_node(self, step: Program) -> int | None:
        """Number of tasks that srun or mpirun starts on each node; None if it is not known."""
        if self.is_other_component(step):
            return None
        if step.name == "mpirun":
            alone = (
                number(step.value("--n"))
                if not step.has("--hosts", "--hostfile") and not self.script.is_batch
                else None
            )
            return number(step.value("--ppn")) or alone
        given = number(step.value("--ntasks-per-node"))
        if given is not None or step.has("--ntasks-per-node"):
            return given
        tasks, nodes = step.value("--ntasks"), step.value("--nodes")
        total = number(tasks) if tasks else self.requested("--ntasks")
        wide = number(nodes) if nodes else self.nodes
        if total is not None and wide:
            return -(-total // wide)
        if tasks is not None or self.script.directive("--ntasks"):
            return None
        return self.requested("--ntasks-per-node", "--tasks-per-node")

    def nodes_of(self, launch: Launch) -> int | None:
        """Number of nodes on which srun starts a launcher; of the job if srun starts it on one node after another."""
        step = launch.step
        if step is None or step.name != "srun" or step.has("--nodelist", "--relative") or launch.command.loop:
            return self.nodes
        given = step.value("--nodes")
        if self.is_other_component(step):
            return number(given)
        return number(given) if given is not None else self.nodes

    def is_other_component(self, step: Program) -> bool:
        """True if a step runs in another component of a heterogeneous job than the first."""
        chosen = step.value("--het-group", "--pack-group")
        return chosen is not None and chosen.text != "0"

    # variables

    def uses(self, where: Callable[[Shell], bool]) -> Iterator[tuple[Expansion, Command | None]]:
        """The expansions in commands and values, with their command; those in values come without one."""
        for item in self.assignments:
            for word in (item.value, *item.items):
                for part in word.expansions if word is not None else ():
                    if where(part.shell):
                        yield part, None
        for command in self.commands:
            for word in (*command.words, *command.argv):
                for part in word.expansions:
                    if where(part.shell):
                        yield part, command

    def settings(self, *names: str) -> Iterator[tuple[str, Word, Span]]:
        """(name, value, place) of variables of the environment, by assignment, export, `env`, `-x` and `--export`."""
        for item in self.assignments:
            if item.name in names and item.value is not None:
                yield item.name, item.value, item.span
        for command in self.commands:
            for program in command.programs:
                for word in passed(program):
                    name, equals, _ = word.start.partition("=")
                    if equals and name in names:
                        yield name, word.after(len(name) + 1), word.span

    @cached_property
    def has_unknown_source(self) -> bool:
        """True if it reads a file with `source` or `.` that may set any variable."""
        return any(
            command.name in ("source", ".")
            and command.argv[1:]
            and not _ENVIRONMENTS.search(command.argv[1].shown.strip())
            for command in self.commands
        )

    def is_set(self, name: str) -> bool:
        """True if a variable is set or passed on somewhere, or may be set by a file that is read."""
        return (
            self.has_unknown_source
            or any(item.name == name for item in self.assignments)
            or any(
                word.start.partition("=")[0] == name
                for command in self.commands
                for program in command.programs
                for word in passed(program)
            )
        )


def _plain(path: str) -> str:
    return path[2:] if path.startswith("./") else path


def passed(program: Program) -> Iterator[Word]:
    """The words `NAME=value` and `NAME` with which a program sets the environment of what it starts."""
    if program.name == "env":
        yield from (word for word in program.operands if "=" in word.start)
    for option in program.options:
        if option.value is None:
            continue
        if option.name in ("--x", "--env", "--genv", "-e") or (program.name == "docker" and option.name == "--env"):
            yield option.value
        elif option.name in ("--export", "--envlist", "--genvlist"):
            yield from pieces(option.value, ",")


def pieces(word: Word, mark: str) -> Iterator[Word]:
    """Split a word at a character of its known text."""
    parts: list[Literal | Expansion] = []
    for part in word.parts:
        if isinstance(part, Expansion):
            parts.append(part)
            continue
        at = part.at
        for number_, text in enumerate(part.text.split(mark)):
            if number_:
                yield Word(tuple(parts), _cover(parts, word.span))
                parts = []
            if text:
                parts.append(Literal(text, at, part.quoted))
            at += len(text) + len(mark)
    yield Word(tuple(parts), _cover(parts, word.span))


def _cover(parts: list[Literal | Expansion], span: Span) -> Span:
    if not parts:
        return span
    first, last = parts[0], parts[-1]
    start = first.at if isinstance(first, Literal) else first.span.start
    end = last.at + len(last.text) if isinstance(last, Literal) else last.span.end
    return Span(start, end) if end > start else span


def is_training(program: Program) -> bool:
    """True for python with a script or a module, which may be a rank; not for `-c`, a here-document or a tool."""
    if program.has("-m"):
        module = program.value("-m")
        return (module.text if module else "") not in ("pip", "venv", "json.tool", "http.server", "virtualenv", "site")
    first = program.operands[0] if program.operands else None
    return first is not None and not program.has("-c") and first.shown != "-"


def number(word: Word | None) -> int | None:
    """The value of a word as a number; None if it is not known or not a number."""
    text = word.text if word is not None else None
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text.strip()) else None


def gpus(word: Word, with_name: bool) -> int | None:
    """The number of GPUs in `gpu:a100:4`, `gpu:4`, `a100:4` or `4`."""
    text = word.text
    if text is None:
        return None
    if with_name:
        found = [match for match in (_GPU.fullmatch(item) for item in text.split(",")) if match]
        return int(found[0][1] or 1) if len(found) == 1 else None
    last = text.rpartition(":")[2]
    return int(last) if last.isdigit() else None
