"""What a launch has in the script and not in the line: options, redirections, variables. Each is named. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from muster.adopt.adoption import Launch
from muster.adopt.found import SHELLS, Found
from muster.adopt.slurm import Request
from muster.adopt.values import Scope, text
from muster.lint.model import Assignment, Command, Program, Script

_LOGS = "not taken over; `muster logs` shows the output of each rank"
_TAKEN_OF_SRUN = frozenset(
    (
        *("--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task", "--kill-on-bad-exit", "--nodelist"),
        *("--label", "--unbuffered", "--verbose", "--quiet", "--wait", "--mpi", "--jobid", "--overlap", "--multi-prog"),
        *("--het-group", "--pack-group"),
        *("--container-image", "--container-name", "--container-mounts", "--container-workdir", "--job-name"),
    )
)
"""Options of srun that are in the line, said by themselves, or what muster does anyway."""
STEP = _TAKEN_OF_SRUN | {
    *("--output", "--error", "--input", "--cpu-bind", "--gpu-bind", "--mem-bind", "--distribution", "--export"),
    *("--exact", "--pty", "--preserve-env", "--open-mode", "--slurmd-debug", "--relative", "--no-kill", "--accel-bind"),
    *("--task-prolog", "--task-epilog", "--prolog", "--epilog", "--propagate", "--threads", "--immediate", "--chdir"),
}
"""Options of srun that are about the step, and no request for nodes."""
_OUTPUT = ("--output", "--error", "--open-mode")
_QUIET_OF_SSH = ("-n", "-t", "-tt", "-f", "-q", "-T", "-x", "-C")


def omitted(found: Found, script: Script, launch: Launch, request: Request | None, scope: Scope) -> list[str]:
    """Return a sentence for each part of a launch that is not in the line."""
    says = [*_redirected(found, script)]
    for program in (*found.outer, found.program):
        if program.name == "srun":
            says += _of_srun(program, request, scope)
        elif program.name == "env":
            given = [f"{option.name} {text(option.value, scope)}".rstrip() for option in program.options]
            says += [f"env {shown}: not taken over" for shown in given]
        elif program.name == "ssh":
            says += _of_ssh(program, scope)
            says += [] if launch.cwd or launch.scheduled or _enters(found) else [_HOME]
    outer = {program.name for program in found.outer}
    if "xargs" in outer and not outer & {*SHELLS, "srun"}:
        says.append("xargs starts it once for each item that it reads; the line is one of them")
    says += _started_in(found, script, launch)
    says += _of_platform(found, launch)
    return list(dict.fromkeys(says))


def around(found: Found, script: Script) -> list[Command]:
    """Return the command of a launch, and those in whose text it is, outermost first."""
    span = found.command.span
    outer = [
        command
        for command in script.everything()
        if command.span.start <= span.start and span.end <= command.span.end and not command.subshell
    ]
    return outer if found.command in outer else [*outer, found.command]


def _redirected(found: Found, script: Script) -> Iterator[str]:
    for command in around(found, script):
        for redirect in command.redirects:
            target = redirect.target.shown if redirect.target is not None else ""
            operator = redirect.operator.lstrip("012&")
            if not target or re.fullmatch(r"&?[012]|/dev/null|/dev/std(out|err)", target):
                continue
            if operator in (">", ">>", ">|"):
                yield f"{redirect.operator} {target}: {_LOGS}"
            elif operator == "<" and command.name not in ("read", "mapfile"):
                yield f"< {target}: not taken over; ranks of muster have no stdin"
        if command.piped_to and command.piped_to not in ("while", "xargs"):
            yield f"| {command.piped_to}: {_LOGS}"


def _of_srun(step: Program, request: Request | None, scope: Scope) -> Iterator[str]:
    asked = dict(request.options) if request else {}
    for option in step.options:
        value = text(option.value, scope)
        name = option.name.lstrip("-")
        shown = f"srun {option.name}={value}" if value else f"srun {option.name}"
        if option.name == "?" and value.startswith("$"):
            yield f"srun {value}: its options are not known from this script; add those that muster needs"
            continue
        shown = f"srun {value}" if option.name == "?" else shown
        if option.name == "--export" and value == "ALL":
            continue
        if option.name in _OUTPUT:
            yield f"{shown}: {_LOGS}"
        elif (
            option.name == "--nodelist" and request is not None and option.value is not None and not option.value.names
        ):
            yield f"{shown}: not taken over; `--nodelist` of muster is that of the job"
        elif option.name in _TAKEN_OF_SRUN or (asked.get(name) == value and value):
            continue
        elif request is not None or option.name in STEP:
            yield f"{shown}: an option of the step, not taken over"


_HOME = (
    "ssh starts it in the home directory of the host; muster starts ranks in the directory in which it is started "
    "itself, or in that of `--cwd`"
)


def _enters(found: Found) -> bool:
    return any(
        command.name in ("cd", "pushd") and command.span.start < found.command.span.start
        for command in found.script.commands
    )


def _of_ssh(program: Program, scope: Scope) -> Iterator[str]:
    words = []
    for option in program.options:
        value = text(option.value, scope)
        if option.name not in _QUIET_OF_SSH and not value.startswith(("BatchMode", "StrictHostKeyChecking")):
            words.append(f"{option.name} {value}" if value else option.name)
    if words:
        yield f"ssh {' '.join(words)}: not taken over; add `--ssh 'ssh {' '.join(words)}'`"


def _of_platform(found: Found, launch: Launch) -> Iterator[str]:
    """Say which arguments have variables of a platform that have another meaning in a rank: WORLD_SIZE is its nodes."""
    if launch.scheduled or found.program.name not in (
        "torchrun",
        "torch.distributed.launch",
        "accelerate",
        "deepspeed",
    ):
        return
    if found.command.shell.kind != "script":
        return
    names = {name for word in found.program.operands for name in word.names}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if name in names:
            yield f"${name} has a value of its own in each rank, and another where the script is started: write that"


def _started_in(found: Found, script: Script, launch: Launch) -> Iterator[str]:
    commands = around(found, script)
    names = {program.name for command in commands for program in command.programs}
    names |= {program.name for program in found.outer}
    if names & {"tmux", "screen"} and not launch.scheduled:
        kind = "tmux" if "tmux" in names else "screen"
        yield f"the ranks of the script run in {kind}, and outlive the terminal; `muster run -d` does that"


_NAME = re.compile(r"\$(?:\{[!#]?)?(\w+\b(?!\[)|[@*])")
_EXPORTED = re.compile(r"(?:^|[\s;])export\s+(\w+)=")


def names_of_script(launch: Launch, assigned: Sequence[Assignment], function: str = "") -> list[str]:
    """Return a sentence for each variable in the line that only the script has."""
    set_here = {item.name for item in assigned}
    with_ranks = {name for name, _ in launch.env} | {name for line in launch.setup for name in _EXPORTED.findall(line)}
    found: list[str] = []
    for argument in launch.program:
        names = _names(argument.shell)
        in_job = any(other.in_job for other in launch.program)
        found += [name for name in names if not (in_job and name in with_ranks)]
    found += _names(launch.cwd)
    found += [name for _, value in launch.options for name in _names(value)]
    before: set[str] = {name for name, _ in launch.env}
    for line in launch.setup:
        own = set(_EXPORTED.findall(line))
        found += [name for name in _names(line) if name not in before | own]
        before |= own
    found += [name for word in launch.launcher_args for name in _NAME.findall(word)]
    found = list(dict.fromkeys(found))
    says = []
    given = [name for name in found if name.isdigit() or name in ("@", "*")]
    if given:
        shown = ", ".join(f'"${name}"' for name in given if name != "0")
        if shown:
            says.append(f"{shown}: the arguments of {function or 'the script'}: write them there")
    ours = [name for name in found if name in set_here]
    if ours:
        says.append(f"{', '.join(f'${name}' for name in ours)}: set by the script: write the value in its place")
    return says


def defaults(found: Found, script: Script, assigned: Sequence[Assignment]) -> list[str]:
    """Return a sentence for each `${1:-4}` whose default is in the line."""
    entering = [command for command in (*script.commands, *found.script.commands) if command.name == "cd"]
    words = [word for command in (*around(found, script), *entering) for word in (*command.words, *command.argv)]
    names = {name for word in words for name in word.names}
    values = [item.value for item in assigned if item.value is not None and item.name in names]
    parts = [part for word in (*words, *values) for part in word.expansions]
    shown = dict.fromkeys(part.source for part in parts if part.kind == "default" and part.fallback)
    return [f"{text}: its default is in the line" for text in shown]


def _names(shell: str) -> list[str]:
    return _NAME.findall(re.sub(r"'[^']*'", "", shell))
