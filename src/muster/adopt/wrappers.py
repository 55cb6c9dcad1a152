"""What stands between the scheduler and the ranks: containers, and other programs that start a program. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.adopt.adoption import Argument, Launch
from muster.adopt.found import Found
from muster.adopt.launcher import MEETING
from muster.adopt.values import Scope, argument, text
from muster.export._shell import quote
from muster.lint.model import Command, Program, Script, Word

_HARMLESS = frozenset({"srun", "ssh", "pdsh", "clush", "xargs", "tmux", "screen", "env", "nohup", "time", "stdbuf"})
_HARMLESS |= {"exec", "command", "setsid"}
_CONTAINERS = frozenset(
    {"singularity", "docker", "podman", "enroot", "shifter", "nerdctl", "sarus", "ch-run", "singularity_wrapper"}
)


def wrapped(launch: Launch, found: Found, scope: Scope, script: Script) -> tuple[Launch, list[str]]:
    """Return the launch with what stands before the launcher, such as a container, before each rank."""
    wrappers = [program for program in found.outer if program.name and program.name not in (*_HARMLESS, "bash", "eval")]
    if not wrappers or found.program.name == "srun" or not launch.program:
        return launch, []
    words = list(found.command.argv)
    first, last = _position(words, wrappers[0].word), _position(words, found.program.word)
    names = ", ".join(program.name for program in wrappers)
    if first is None or last is None or first >= last:
        behind = _with_shell(launch, found, wrappers, scope, script)
        if behind is not None:
            return behind, [_each_in_its_own(wrappers, scope)] if _containers(wrappers) else []
        return launch, [f"{names}: not taken over, because a shell stands between it and the launcher; see --container"]
    before = [argument(word, scope) for word in words[first:last]]
    while before and re.fullmatch(r"-m|(.*/)?python[0-9.]*", before[-1].shell):
        before.pop()
    python = {"script": [Argument("python")], "module": [Argument("python"), Argument("-m")]}.get(launch.kind, [])
    says = [_each_in_its_own(wrappers, scope)] if _containers(wrappers) else []
    return launch._replace(kind="command", program=(*before, *python, *launch.program)), says


def _containers(wrappers: Sequence[Program]) -> list[Program]:
    return [program for program in wrappers if program.name in _CONTAINERS]


def _each_in_its_own(wrappers: Sequence[Program], scope: Scope) -> str:
    names = ", ".join(text(program.word, scope) for program in _containers(wrappers))
    return f"{names}: each rank is in a container of its own; `--container IMAGE` starts those of a node in one"


def _with_shell(
    launch: Launch, found: Found, wrappers: Sequence[Program], scope: Scope, script: Script
) -> Launch | None:
    """Return the launch with `singularity exec x.sif bash -c '…'` before each rank; None if it cannot be written.

    What the shell does before the launcher stays in it: it is for the inside of the container.
    """
    starts = found.script.shell.starts
    outer = [command for command in script.everything() if starts and command.span.start == starts[-1]]
    words = [word for command in outer[:1] for word in command.argv]
    first = _position(words, wrappers[0].word)
    shell = next(
        (program.word for command in outer[:1] for program in command.programs if program.name == "bash"), None
    )
    last = _position(words, shell) if shell is not None else None
    if first is None or last is None or first >= last or found.script.shell.kind == "remote":
        return None
    steps = [
        line
        for command in found.script.commands
        if command.span.start < found.command.span.start and not command.subshell
        for line in _step(command, scope)
    ]
    python = {"script": ["python"], "module": ["python", "-m"]}.get(launch.kind, [])
    before = [argument(word, scope).shell for word in words[first:last]]
    line = " ".join(["exec", *python, *(word.shell for word in launch.program)])
    whole = " && ".join([*steps, line])
    return launch._replace(
        kind="command",
        program=tuple(Argument(word) for word in (*before, "bash", "-c", quote(whole))),
        setup=tuple(line for line in launch.setup if line not in steps),
    )


def _step(command: Command, scope: Scope) -> list[str]:
    """Return a command of the shell in a container as a line, without what muster sets in each rank."""
    if command.name in ("cd", "pushd", "echo", "printf", "date", "hostname", "set", "nvidia-smi"):
        return []
    words = [argument(word, scope).shell for word in command.argv]
    if command.name in ("export", "declare"):
        words = [word for word in words if word.partition("=")[0] not in MEETING]
        return [" ".join(words)] if len(words) > 1 else []
    return [" ".join(words)] if words else []


def _position(words: Sequence[Word], wanted: Word) -> int | None:
    return next((at for at, word in enumerate(words) if word == wanted), None)


def in_container(launch: Launch, step: Program | None, scope: Scope) -> tuple[Launch, list[str]]:
    """Return the launch with the container of Pyxis in which srun starts its tasks."""
    if step is None or not step.has("--container-image", "--container-name"):
        return launch, []
    image = text(step.value("--container-image"), scope)
    options, says = list(launch.options), []
    if image:
        options.append(("container", image))
        mounts = text(step.value("--container-mounts"), scope)
        options += [("mount", mount) for mount in mounts.split(",") if mount]
    else:
        name = text(step.value("--container-name"), scope)
        says.append(f"--container-name {name}: its image is not known from this script; add `--container IMAGE`")
    if step.has("--container-workdir"):
        where = text(step.value("--container-workdir"), scope)
        says.append(
            f"--container-workdir {where}: in the container muster mounts the directory in which it is started under "
            f"the same path, and starts the ranks there; `--cwd {where}` changes that"
        )
    return launch._replace(options=tuple(options)), says


def arrays_in(launch: Launch) -> list[str]:
    """Return a sentence if arguments are elements of an array of the script, which the ranks do not have."""
    names = dict.fromkeys(name for word in launch.program for name in re.findall(r"\$\{(\w+)\[", word.shell))
    says = "is an array of the script, which the ranks do not have: write its values, or `--sweep NAME=VALUE,VALUE`"
    return [f"${name} {says}" for name in names]
