"""The commands of a script that launch ranks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from muster.adopt.found import Found
from muster.adopt.launchers import LAUNCHERS
from muster.adopt.rank_loops import alike
from muster.adopt.remarks import NO_EFFECT, is_helper
from muster.lint.model import Command, Program, Script, Word
from muster.lint.programs import programs_of


def job_in(script: Script) -> Script:
    """Return the job script that a heredoc of the script holds, for sbatch; the script itself if there is none."""
    inner = (item for item in script.scripts() if item is not script and item.shell.kind == "batch" and item.directives)
    return script if script.is_batch else next(inner, script)


def launches_of(script: Script) -> list[Found]:
    """Return the commands that launch ranks: launchers, or else steps of srun, or else the last Python."""
    found: list[Found] = []
    for inner in script.scripts():
        if inner.shell.kind == "file":
            continue
        for command in inner.commands:
            programs = _programs(command)
            outer = inner.shell.launchers
            chosen = _chosen(programs)
            if chosen is not None:
                found.append(Found(command, inner, programs[chosen], (*outer, *programs[:chosen])))
    found = [item for item in found if not _starts_ray(item, script)]
    pythons = [item for item in found if item.program.name == "python" and not is_helper(item)]
    # srun that starts `bash -c` is only the way to what is in its text
    shells = [item for item in found if item.program.name == "srun" and _is_shell(item.program)]
    strong = [item for item in found if item.program.name != "python" and item not in shells]
    # srun that starts another program, such as a script that is not here
    others = [item for item in strong if item.program.name == "srun" and not _is_python(item.program)]
    strong = [item for item in strong if item not in others]
    if strong or any(item.outer for item in pythons):
        return strong or pythons[-1:]
    return shells or others or alike(pythons) or pythons[-1:]


def _starts_ray(found: Found, script: Script) -> bool:
    """Return whether the text of `srun bash -c` starts a node of Ray, or gives a driver to it."""
    return found.program.name == "srun" and any(
        "ray" in (program.name for program in command.programs)
        for inner in script.scripts()
        if found.command.span.start in inner.shell.starts
        for command in inner.commands
    )


def _is_python(program: Program) -> bool:
    return any(inner.name in ("python", "bash") for inner in programs_of(program.operands).programs)


def _is_shell(program: Program) -> bool:
    return any(inner.name == "bash" and inner.has("-c") for inner in programs_of(program.operands).programs)


def _programs(command: Command) -> tuple[Program, ...]:
    """Return the programs of a command, also behind `tmux new-session` and xargs."""
    programs = command.programs
    last = programs[-1] if programs else None
    if last is not None and last.name in ("tmux", "screen"):
        rest = _after_tmux(last.operands)
        return (*programs, *programs_of(rest).programs)
    return programs


def _after_tmux(words: Sequence[Word]) -> list[Word]:
    rest = list(words)
    while rest and not rest[0].start.startswith("-"):
        rest.pop(0)  # new-session
        break
    while rest and rest[0].start.startswith("-"):
        flag = rest.pop(0).start
        if flag[-1:] in "scenxyFtL" and rest:
            rest.pop(0)
    return rest


def _chosen(programs: Sequence[Program]) -> int | None:
    """Return the position of the program that starts the ranks."""
    names = [program.name for program in programs]
    for at, name in enumerate(names):
        if name in LAUNCHERS and name not in ("srun",):
            return at
    if "srun" in names:
        at = names.index("srun")
        quick = names[-1] in (*NO_EFFECT, "ray") or not programs[at].operands
        return None if quick else at
    return names.index("python") if "python" in names else None
