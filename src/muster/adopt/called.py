"""The launch in a script that srun or a shell starts in each task. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from muster.adopt.adoption import Launch, Remark
from muster.adopt.environment import directory, entered, environment
from muster.adopt.finding import launches_of
from muster.adopt.found import Found, ReadFile, position
from muster.adopt.launcher import Place, Read
from muster.adopt.launchers import LAUNCHERS
from muster.adopt.line import command_line
from muster.adopt.omitted import names_of_script, omitted
from muster.adopt.parts import config_of, in_one_directory, title, with_cores, written_here
from muster.adopt.passes import said_of_blocks, said_of_calls
from muster.adopt.python_program import python_words, with_program
from muster.adopt.remarks import ends_of, rest_of
from muster.adopt.slurm import Request
from muster.adopt.values import Scope, resolved, scope_of
from muster.adopt.wrappers import in_container
from muster.lint.model import Script, Source, Word
from muster.lint.parse import read_script
from muster.lint.programs import programs_of


def called_script(found: Found, read_file: ReadFile) -> tuple[str, str, tuple[Word, ...]] | None:
    """Return (path, text, arguments) of a shell script that srun or a shell starts, if it is there."""
    operands = found.program.operands
    if found.program.name == "srun" and operands:
        programs = programs_of(operands).programs
        if programs and programs[0].name == "bash" and not programs[0].has("-c"):
            operands = programs[0].operands
        elif programs and programs[0].name == "python":
            return None
        path = operands[0].shown if operands else None
        if (path and path.endswith((".sh", ".bash"))) or (path and "." not in path.rpartition("/")[2]):
            inner = written_here(found.script, path) or read_file(path)
            if inner is not None:
                return path, inner, tuple(operands[1:])
    return None


def through(
    found: Found,
    script: Script,
    request: Request | None,
    read_file: ReadFile,
    path: str,
    source: str,
    args: tuple[Word, ...],
    scope: Scope,
    job: Request | None,
) -> tuple[Launch, list[Remark], set[int]]:
    """Return the launch that a script makes which this one starts in each task."""
    inner = read_script(Source(path, source))
    line = script.source.place(found.command.span.start)[0]
    launches = launches_of(inner)
    if not launches:
        empty = Launch("srun", line, scheduled=True)
        return empty, [Remark(line, "", f"{path} starts nothing that was understood")], set()
    item = launches[0]
    numbers = request.variables() if request else {}
    within = scope_of({**numbers, **_values(scope, args)}, inner.assignments, [resolved(word, scope) for word in args])
    row = LAUNCHERS.get(item.program.name)
    launch = Launch(f"srun, which starts {path}, which starts {title(item.program.name)}", line, scheduled=True)
    launch = launch._replace(options=request.options if request else (), ends=ends_of(script, found, found.program))
    outer_env, outer_setup, remarks = environment(script, found, script.assignments, scope)
    env, setup, more = environment(inner, item, inner.assignments, within)
    merged = {**dict(outer_env), **dict(env)}
    launch = launch._replace(env=tuple(merged.items()), setup=(*outer_setup, *setup))
    launch = launch._replace(cwd=entered(directory(script, found, scope), directory(inner, item, within)))
    launch = in_one_directory(launch._replace(cwd="" if launch.cwd == "." else launch.cwd))
    if row is None or row.title == "srun":
        read = Read(
            LAUNCHERS["srun"].read(found.program, launch, Place(scope, request, found.program)).launch,
            item.program.operands,
        )
        launch = with_program(read.launch, (item.program.word, *python_words(item.program)), within, False)
    else:
        read = row.read(item.program, launch, Place(within, request, found.program, config_of(item, inner, read_file)))
        launch = with_program(read.launch, read.program, within, row.python)
    launch, of_container = in_container(launch, found.program, scope)
    remarks += [Remark(line, "", says) for says in (*read.changed, *of_container)]
    remarks += [Remark(0, "", f"{path}: {remark.says}") for remark in more]
    _, unknown = rest_of(inner, {item.command.span.start}, True)
    remarks += [Remark(0, f"{path}:{remark.line}: {remark.text}", remark.says) for remark in unknown]
    launch = with_cores(launch, job)
    remarks += [Remark(line, "", says) for says in omitted(found, script, launch, job, scope)]
    remarks += [Remark(line, "", says) for says in names_of_script(launch, script.assignments)]
    place = inner.source.place(item.command.span.start)[0]
    own = [*omitted(item, inner, launch, job, within), *names_of_script(launch, inner.assignments)]
    own += [f"{path} makes several launches; the line is the first"] if len(launches) > 1 else []
    remarks += [Remark(0, f"{path}, line {place}", says) for says in own if not _told(says, remarks)]
    passes = [*said_of_blocks(item, command_line(launch), inner), *said_of_calls(item, inner)]
    remarks += [remark._replace(line=0, text=f"{path}, line {remark.line}: {remark.text}") for remark in passes]
    return launch, remarks, {found.command.span.start, position(script, found)}


def _told(says: str, remarks: Sequence[Remark]) -> bool:
    return any(says == remark.says for remark in remarks)


def _values(scope: Scope, args: Sequence[Word]) -> dict[str, str]:
    found = {}
    for at, word in enumerate(args, 1):
        value = resolved(word, scope).text
        if value is not None:
            found[str(at)] = value
    return found
