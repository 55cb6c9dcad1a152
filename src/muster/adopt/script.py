"""From the model of a shell script to what it launches. Files that it starts are read too, if they are there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from muster.adopt.adoption import Adoption, Launch, Remark
from muster.adopt.array_values import with_values
from muster.adopt.called import called_script, through
from muster.adopt.deepspeed_env import of_file
from muster.adopt.environment import directory, environment
from muster.adopt.finding import job_in, launches_of
from muster.adopt.found import SHELLS, Found, ReadFile, position, shells
from muster.adopt.hosts import hosts_of_files, joined, with_hosts, written_hosts
from muster.adopt.launcher import HOSTS_UNKNOWN, Place
from muster.adopt.launchers import LAUNCHERS
from muster.adopt.line import command_line
from muster.adopt.omitted import STEP, defaults, names_of_script, omitted
from muster.adopt.parts import config_of, in_one_directory, title, with_cores
from muster.adopt.passes import as_sweep, mark, said_of_blocks, said_of_calls, said_of_sweep, swept
from muster.adopt.python_program import ONE_PROCESS, of_driver, plain, python_words, with_program
from muster.adopt.rank_loops import as_ranks, joined_ranks, over_ranks, said_of_ranks
from muster.adopt.remarks import detached, ends_of, expanded_here, of_directives, rest_of
from muster.adopt.slurm import Request, read_request, with_step
from muster.adopt.values import Scope, defaulted, number, resolved, scope_of, text
from muster.adopt.wrappers import arrays_in, in_container, wrapped
from muster.export._shell import quote
from muster.lint.model import Assignment, Program, Script, Source, Word
from muster.lint.parse import read_script


def adopt_script(
    path: str,
    source: str,
    read_file: ReadFile,
    given: Sequence[str] = (),
    args: Sequence[Word] = (),
    by: Sequence[str] = (),
) -> Adoption:
    """Return what a shell script launches; `given` are options of sbatch on its command line, `args` its arguments.

    `by`: the texts of the scripts that submit it.
    """
    filled = _filled(source)
    whole = read_script(Source(path, filled))
    script = job_in(whole)
    request = _request(script, given)
    launches: list[Launch] = []
    changed = _written_job(script) if script is not whole else []
    used: set[int] = set()
    for found in launches_of(script):
        component = _component(found)
        of_it = _request(script, given, component) if component else request
        launch, remarks, lines = _launch(found, script, of_it, read_file, args)
        used |= lines
        changed += remarks
        launches.append(launch)
    submitted = None if launches else _submitted(script, read_file, (*by, source))
    if submitted is not None:
        return submitted
    of_all = joined_ranks(launches) if len(launches) > 1 and all(launch.by == "python" for launch in launches) else None
    if of_all is not None:
        launches = [of_all]
        changed = [remark for remark in changed if not remark.says.startswith(ONE_PROCESS)]
        changed.append(said_of_ranks(None, of_all.line, script))
    launches = joined(launches)
    if len(launches) > 1:
        places = ", ".join(str(launch.line) for launch in launches)
        says = f"the script makes several launches (lines {places}), one after the other, or chooses one of them"
        changed.append(Remark(launches[-1].line, "", says))
    remarks = of_directives(script, request, given)
    for het in _HETJOB.finditer(script.source.text):
        at = script.source.place(het.start())[0]
        says = "a job of several components: the line is for that of its step, and the others are not in it"
        remarks.append(Remark(at, script.source.line(at), says))
    empty = [launch for launch in launches if not launch.program]
    launches = [launch for launch in launches if launch.program]
    if filled != source:
        pairs = zip(source.splitlines(), filled.splitlines())
        line = next(at for at, (old, new) in enumerate(pairs, 1) if old != new)
        says = "names in <…> are to be filled in; they are written in capitals here"
        changed.append(Remark(line, source.splitlines()[line - 1].strip()[:80], says))
    changed = list(dict.fromkeys(changed))
    unused, unknown = rest_of(script, used, bool(launches))
    unknown += [Remark(launch.line, "", "no program that it starts was found") for launch in empty]
    return Adoption(path, tuple(launches), (*remarks, *changed), tuple(unused), tuple(unknown))


def _written_job(job: Script) -> list[Remark]:
    """Return a remark on a job script that the file writes, with the variables that it replaces in it."""
    outer = {
        part.name
        for command in job.everything()
        for word in command.argv
        for part in word.expansions
        if part.shell.number != job.shell.number and part.kind == "variable" and part.shell.kind == "script"
    }
    names = ", ".join(f"${name}" for name in sorted(outer))
    says = "this is the job script that the file writes for sbatch"
    says += f"; write a value in place of {names}, once for each job" if names else ""
    return [Remark(0, "", says)]


def _submitted(script: Script, read_file: ReadFile, by: Sequence[str]) -> Adoption | None:
    """Return what a script launches that this one submits, with the options that it gives; None if it submits none.

    `by`: the texts of this script and of those that submit it, of which none is read again.
    """
    found: Adoption | None = None
    again: list[Remark] = []
    for command in script.everything():
        program = command.program("sbatch")
        path = program.operands[0].text if program is not None and program.operands else None
        source = read_file(path) if path else None
        if program is None or path is None or source is None or source in by:
            continue
        given = [
            option.name if option.value is None else f"{option.name}={quote(option.value.shown)}"
            for option in program.options
        ]
        line = script.source.place(command.span.start)[0]
        if found is not None:
            says = "the script submits several jobs; the line is for the first"
            again.append(Remark(0, f"{script.source.path}, line {line}", says))
            continue
        item = Found(command, script, program, ())
        found = adopt_script(path, source, read_file, given, program.operands[1:], by)
        shown = " ".join(command_line(launch) for launch in found.launches)
        again += [
            remark._replace(line=0, text=f"{script.source.path}, line {remark.line}: {remark.text}")
            for remark in said_of_blocks(item, shown, script)
        ]
    return found._replace(changed=(*found.changed, *again)) if found is not None else None


def _filled(source: str) -> str:
    """Return a script with names in capitals in place of `<…>`, but in comments."""
    lines = []
    for line in source.splitlines(keepends=True):
        start = 1 if line.startswith("#SBATCH") else 0
        comment = re.search(r"(?:^|\s)#", line[start:])
        end = start + comment.start() if comment else len(line)
        lines.append(_PLACEHOLDER.sub(_in_capitals, line[:end]) + line[end:])
    return "".join(lines)


def _in_capitals(found: re.Match[str]) -> str:
    before, after = found.string[: found.start()], found.string[found.end() :][:1]
    quoted = before.count('"') % 2 or before.count("'") % 2
    if quoted and (before[-1:] == " " or after == " "):
        return found[0]  # words of a text, such as a template: "<title> <text>"
    return re.sub(r"\W+", "-", found[1].upper())


_PLACEHOLDER = re.compile(r"<([A-Za-z](?:[\w -]*\w)?)>(?=[\s:,@/\\\"']|$)")
"""`<host 1>`, as instructions have it; `<in >out` is a redirection."""


_HETJOB = re.compile(r"(?m)^#SBATCH\s+(?:hetjob|packjob)\b")


def _component(found: Found) -> int:
    """Return the component of a heterogeneous job in which a step runs: the first, if srun does not choose one."""
    steps = [program for program in (*found.outer, found.program) if program.name == "srun"]
    chosen = next((step.value("--het-group", "--pack-group") for step in steps), None)
    number_of = chosen.text if chosen is not None else None
    return int(number_of) if number_of is not None and number_of.isdigit() else 0


def _request(script: Script, given: Sequence[str], component: int = 0) -> Request | None:
    options = [item.option for item in script.directives if item.effective and item.component == component]
    if given:
        line = read_script(Source("sbatch", f"sbatch {' '.join(given)} x"))
        options += [option for command in line.commands for program in command.programs for option in program.options]
    return read_request(options) if script.is_batch or given else None


def _launch(
    found: Found, script: Script, request: Request | None, read_file: ReadFile, args: Sequence[Word] = ()
) -> tuple[Launch, list[Remark], set[int]]:
    """Return a launch, remarks about it, and the offsets of commands that were understood with it.

    A loop around it becomes a sweep if that gives the same ranks the same arguments; otherwise a remark.
    """
    ranks = over_ranks(found, script)
    if ranks is not None:
        known = {ranks.variable: mark(ranks)}
        launch, remarks, used = _one_pass(found, script, request, read_file, args, known)
        of_all = as_ranks(launch, ranks)
        if of_all is not None:
            remarks = [remark for remark in remarks if not remark.says.startswith(ONE_PROCESS)]
            return of_all, [*remarks, said_of_ranks(ranks, 0, script), *said_of_calls(found, script)], used
    block = swept(found)
    if block is not None:
        known = {block.variable: mark(block)}
        launch, remarks, used = _one_pass(found, script, request, read_file, args, known)
        sweep = as_sweep(launch, block)
        if sweep is not None:
            remarks += [
                said_of_sweep(sweep, block, script),
                *said_of_blocks(found, "", script, block),
                *said_of_calls(found, script),
            ]
            return sweep, remarks, used
    launch, remarks, used = _one_pass(found, script, request, read_file, args)
    return launch, [*remarks, *said_of_blocks(found, command_line(launch), script), *said_of_calls(found, script)], used


def _one_pass(
    found: Found,
    script: Script,
    request: Request | None,
    read_file: ReadFile,
    args: Sequence[Word] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Launch, list[Remark], set[int]]:
    """Return one launch as `_launch` does, without the loops around it; `known` are values of variables."""
    source = script.source
    line = source.place(found.command.span.start)[0]
    assigned = [item for inner in shells(script, found) for item in _assigned(inner)]
    assigned = list({item.span: item for item in assigned}.values())
    hosts = hosts_of_files(script, read_file)
    scope = scope_of({**(request.variables() if request else {}), **known}, assigned, args, hosts)
    step = next((program for program in (*found.outer, found.program) if program.name == "srun"), None)
    job, request = request, _of_step(found, step, request, scope)
    if request is not job and request is not None:  # the tasks of the step know its own numbers
        scope = scope_of({**request.variables(), **known}, assigned, args, hosts)
    if step is found.program:
        step = None
    inner_script = called_script(found, read_file)
    if inner_script is not None:
        inner_path, inner_text, args = inner_script
        return through(found, script, request, read_file, inner_path, inner_text, args, scope, job)
    row, original = LAUNCHERS.get(found.program.name), found
    if row is None and step is not None:  # `srun bash -c "python …"`
        row = LAUNCHERS["srun"]
        found = found._replace(program=step._replace(operands=(found.program.word, *python_words(found.program))))
    names = [program.name for program in (*found.outer, found.program) if program.name in (*LAUNCHERS, *SHELLS, "tmux")]
    by = ", which starts ".join(title(name) for name in dict.fromkeys(names)) or "the script itself"
    launch = Launch(by, line, scheduled=request is not None)
    launch = launch._replace(
        options=request.options if request else (), ends=ends_of(script, found, step or found.program)
    )
    env, setup, remarks = environment(script, found, assigned, scope)
    of_deepspeed, says_of_file = of_file(found, script, read_file, scope)
    remarks += [Remark(line, "", says) for says in says_of_file]
    env = tuple({**dict(env), **of_deepspeed}.items())
    launch = launch._replace(env=env, setup=tuple(setup), cwd=directory(script, found, scope))
    launch = _asked_of_srun(launch, step or found.program, job, scope)
    launch = in_one_directory(launch)
    if detached(script, found) and not launch.scheduled:
        launch = launch._replace(options=(*launch.options, ("detach", "")))
    driver = of_driver(found, launch, request, read_file) if row is None else None
    if driver is not None:
        return (
            with_cores(driver.launches[0], job),
            [*remarks, *driver.changed],
            {found.command.span.start, position(script, found)},
        )
    if row is None:
        read = plain(found.program, launch, request, read_file)
    else:
        here = Place(scope, request, step, config_of(found, script, read_file), frozenset(of_deepspeed))
        read = row.read(found.program, launch, here)
    launch = with_program(read.launch, read.program or found.program.operands, scope, row.python if row else False)
    launch, says_of = wrapped(launch, original, scope, script)
    launch, of_container = in_container(
        launch, step or (found.program if found.program.name == "srun" else None), scope
    )
    launch, of_array = with_values(launch, assigned, scope)
    remarks += of_array
    remarks += [Remark(line, "", says) for says in (*says_of, *of_container, *arrays_in(launch))]
    alone = launch.nodes == 1 and found.program.name in ("torchrun", "torch.distributed.launch")
    launch = with_hosts(written_hosts(launch, script), found, script, scope, hosts, request)
    remote = next((program for program in found.outer if program.name in SHELLS), None)
    if remote is not None and not (request or launch.hosts or launch.hostfile or (launch.nodes or 1) > 1):
        target = text(remote.operands[0], scope) if remote.operands else ""
        says = f"{remote.name} {target}".rstrip() + ": the host is not known from this script; add --hosts"
        remarks.append(Remark(line, "", says))
    if alone and not request and (len(launch.hosts) > 1 or launch.hostfile):
        says = "torchrun makes a run of its own on each host, without --nnodes; the line is one run on all of them"
        remarks.append(Remark(line, "", says))
    if launch.nodes and launch.nodes > 1 and not (launch.scheduled or launch.hosts or launch.hostfile):
        launch, says = _by_hand(launch, found.program, scope)
        remarks.append(Remark(line, "", says))
    named = bool(launch.hosts or launch.hostfile)
    remarks += [Remark(line, "", says) for says in read.changed if not (named and says.endswith(HOSTS_UNKNOWN))]
    remarks += expanded_here(found, script, line)
    port = [item.value for item in assigned if item.name == "MASTER_PORT" and item.value is not None]
    if not launch.port and port:
        launch = launch._replace(port=text(port[-1], scope))
    if row is None and any("ray" in [program.name for program in command.programs] for command in script.commands):
        says = "the driver of a Ray cluster, which is not here to be read: write what its tasks start, and their number"
        remarks.append(Remark(line, "", says))
    launch = with_cores(launch, job)
    remarks += [Remark(line, "", says) for says in omitted(original, script, launch, job, scope)]
    remarks += [Remark(line, "", says) for says in names_of_script(launch, assigned, found.command.function)]
    remarks += [Remark(line, "", says) for says in defaults(original, script, assigned)]
    remarks += _said_of_defaults(script, launch, line)
    return launch, remarks, {found.command.span.start, position(script, found)}


def _assigned(script: Script) -> list[Assignment]:
    """Return the assignments of a script, with those of `: ${NAME:=value}`, in the order of the text."""
    own = script.assignments
    names = {item.name for item in own}
    return sorted((*own, *(item for item in defaulted(script) if item.name not in names)), key=lambda item: item.span)


def _said_of_defaults(script: Script, launch: Launch, line: int) -> list[Remark]:
    """Return a remark on defaults of variables whose values are in the line."""
    shown = command_line(launch)
    given = [item for item in defaulted(script) if item.value is not None and (item.value.text or "\0") in shown]
    names = ", ".join(f"{item.name}={item.value.shown}" for item in given if item.value is not None)
    return (
        [Remark(line, "", f"{names}: defaults of variables of the environment, which are in the line")] if names else []
    )


def _of_step(found: Found, step: Program | None, request: Request | None, scope: Scope) -> Request | None:
    """Return the request of the job with the numbers of a step of its own: `srun -N1 -n1` is one task.

    A step that is chosen by node, or whose launcher is told a larger number of nodes, is one of several that the
    script starts for one launch.
    """
    if step is None or request is None or step.has("--nodelist", "--relative", "--multi-prog"):
        return request
    told = [number(found.program.value(name), scope) for name in ("--nnodes", "--num-machines")]
    own = number(step.value("--nodes"), scope)
    if any(count is not None and own is not None and count > own for count in told):
        return request
    return with_step(
        request, own, number(step.value("--ntasks"), scope), number(step.value("--ntasks-per-node"), scope)
    )


def _asked_of_srun(launch: Launch, step: Program | None, job: Request | None, scope: Scope) -> Launch:
    """Return the launch with what srun itself asks for, outside of a batch script."""
    if step is None or step.name != "srun" or job is not None:
        return launch
    given = [option for option in step.options if option.name not in STEP or option.name == "--job-name"]
    given = [option._replace(value=option.value and resolved(option.value, scope)) for option in given]
    asked = read_request(option for option in given if option.name != "?")
    cores, each = number(step.value("--cpus-per-task"), scope), number(step.value("--ntasks-per-node"), scope)
    of_node = (("cpus-per-task", str(cores * (each or 1))),) if cores else ()
    return launch._replace(options=(*launch.options, *asked.options, *of_node))


def _by_hand(launch: Launch, program: Program, scope: Scope) -> tuple[Launch, str]:
    """Return a launch with names to be filled in, for a script that somebody starts on each node."""
    first = text(program.value("--master-addr", "--rdzv-endpoint", "--main-process-ip"), scope).partition(":")[0]
    count = launch.nodes or 1
    hosts = (first if re.fullmatch(r"[\w.-]+", first) else "NODE0", *(f"NODE{number}" for number in range(1, count)))
    names = ", ".join(host for host in hosts if host.startswith("NODE"))
    says = f"the script is started on each of {count} nodes; muster is started once: write their names for {names}"
    return launch._replace(hosts=hosts, nodes=None), says
