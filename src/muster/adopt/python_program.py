"""The Python program of a launch: a script or module, or a driver that launches by itself. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from muster.adopt.adoption import Adoption, Launch
from muster.adopt.found import Found, ReadFile
from muster.adopt.launcher import Read
from muster.adopt.python_scripts import adopt_python, launcher_of
from muster.adopt.slurm import Request
from muster.adopt.values import Scope, argument, text
from muster.lint.model import Program, Word
from muster.lint.programs import programs_of
from muster.lint.python import parsed

ONE_PROCESS = "one process per node"


def plain(program: Program, launch: Launch, request: Request | None, read_file: ReadFile) -> Read:
    """Read a Python that no launcher starts: it may start its ranks by itself."""
    words = (program.word, *python_words(program))
    path = program.operands[0].text if program.operands else None
    source = read_file(path) if path else None
    each = str((request.gpus_per_node if request else None) or "gpu")
    launch = launch._replace(nodes=request.node_count if request else None, each="1", by="python")
    spawned = _spawned(source) if source else None
    if spawned is not None:
        says = "the script spawns its ranks by itself: muster starts it once per node"
        return Read(launch._replace(each=spawned or each, launcher="spawn"), words, (says,))
    says = f"{ONE_PROCESS}, unless the script starts others by itself: then add `--launcher spawn -g RANKS`"
    return Read(launch, words, (says,))


_SPAWNS = re.compile(r"(^|\.)(mp|multiprocessing)\.(spawn|start_processes)$|^(spawn|start_processes)$")
"""Not `pexpect.spawn`, and not `xmp.spawn` of torch_xla."""


def _spawned(source: str) -> str | None:
    """Return how many ranks a script spawns: a number, or empty if it is not known; None if it spawns none."""
    if not re.search(r"\b(spawn|start_processes)\(", source) or "torch" not in source:
        return None
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # too deeply nested
        return None
    numbers: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
            numbers.update(
                {target.id: str(node.value.value) for target in node.targets if isinstance(target, ast.Name)}
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _SPAWNS.search(ast.unparse(node.func)):
            given = [item.value for item in node.keywords if item.arg == "nprocs"] or node.args[2:3]
            count = given[0] if given else ast.Constant(1)
            if isinstance(count, ast.Constant):
                return str(count.value)
            return numbers.get(count.id, "") if isinstance(count, ast.Name) else ""
    return None


def of_driver(found: Found, launch: Launch, request: Request | None, read_file: ReadFile) -> Adoption | None:
    """Return what a Python program launches with Ray or submitit, with the nodes and tasks of the job."""
    path = found.program.operands[0].text if found.program.operands else None
    source = read_file(path) if path else None
    if path is None or source is None or not launcher_of(source):
        return None
    adoption = adopt_python(path, source)
    if not adoption.launches:
        return None
    inner = adoption.launches[0]
    sized = launch._replace(by=f"python, which starts {inner.by}", kind=inner.kind, program=inner.program)
    if request:
        each = request.tasks_per_node or request.gpus_per_node or 1
        sized = sized._replace(nodes=request.node_count, each=str(each))
    else:
        sized = sized._replace(each=inner.each, total=inner.total)
    return adoption._replace(launches=(sized,))


def python_words(program: Program) -> tuple[Word, ...]:
    """Return the arguments of a Python as they are typed, with `-m MODULE` in front."""
    module = program.option("-m")
    if module is not None and module.value is not None:
        flag = Word((module.value.parts[0]._replace(text="-m"),), module.span)  # type: ignore[call-arg]
        return (flag, module.value, *program.operands)
    return program.operands


def with_program(launch: Launch, words: Sequence[Word], scope: Scope, python: bool) -> Launch:
    """Return the launch with its program: a script or module of Python where it is one."""
    rest = list(words)
    kind, interpreter = launch.kind, ""
    if not python and rest:
        programs = programs_of(rest).programs
        if programs and programs[0].name == "python":
            first = programs[0]
            interpreter = text(first.word, scope) if first.word.text and "/" in first.word.text else ""
            module = first.option("-m")
            if module is not None and module.value is not None:
                kind, rest = "module", [module.value, *first.operands]
            elif first.has("-c"):
                kind = "command"
            else:
                kind, rest = "script", list(first.operands)
        else:
            kind = "command"
    arguments = tuple(argument(word, scope) for word in rest)
    return launch._replace(kind=kind, program=arguments, python=interpreter or launch.python)
