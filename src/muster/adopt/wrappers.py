"""What stands between the scheduler and the ranks: containers, and other programs that start a program. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.adopt.adoption import Argument, Launch
from muster.adopt.found import Found
from muster.adopt.values import Scope, argument, text
from muster.lint.model import Program, Word

_HARMLESS = frozenset({"srun", "ssh", "pdsh", "clush", "xargs", "tmux", "screen", "env", "nohup", "time", "stdbuf"})
_HARMLESS |= {"exec", "command", "setsid"}
_CONTAINERS = frozenset({"singularity", "docker", "podman", "enroot", "shifter", "nerdctl", "sarus", "ch-run"})


def wrapped(launch: Launch, found: Found, scope: Scope) -> tuple[Launch, list[str]]:
    """Return the launch with what stands before the launcher, such as a container, before each rank."""
    wrappers = [program for program in found.outer if program.name and program.name not in (*_HARMLESS, "bash", "eval")]
    if not wrappers or found.program.name == "srun" or not launch.program:
        return launch, []
    words = list(found.command.argv)
    first, last = _position(words, wrappers[0].word), _position(words, found.program.word)
    names = ", ".join(program.name for program in wrappers)
    if first is None or last is None or first >= last:
        return launch, [f"{names}: not taken over, because a shell stands between it and the launcher; see --container"]
    before = [argument(word, scope) for word in words[first:last]]
    while before and re.fullmatch(r"-m|(.*/)?python[0-9.]*", before[-1].shell):
        before.pop()
    python = {"script": [Argument("python")], "module": [Argument("python"), Argument("-m")]}.get(launch.kind, [])
    says = []
    if any(program.name in _CONTAINERS for program in wrappers):
        names = ", ".join(text(program.word, scope) for program in wrappers if program.name in _CONTAINERS)
        says.append(
            f"{names}: each rank is in a container of its own; `--container IMAGE` starts those of a node in one"
        )
    return launch._replace(kind="command", program=(*before, *python, *launch.program)), says


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
