"""From options to a job and its plan: on this machine, or on the hosts that were named."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from muster import runtimes
from muster.config.checks import check_limits, check_signals
from muster.config.files import absolute, read_text
from muster.config.numa import numa_bindings
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.config.program import check_command, check_script, is_stream, name_of_stream, read_stream
from muster.config.python import check_package, choose_python
from muster.config.record import Option, Options
from muster.core import env_forwarding, hostlist
from muster.core.hostlist import HostSpec
from muster.core.layout import layout, started_by
from muster.core.model import BUNDLED, ENDING, Host, Job, Node, Program, TerminalSize
from muster.core.plurals import plural
from muster.core.suggestions import did_you_mean
from muster.errors import InvalidRequest
from muster.launchers import LAUNCHERS
from muster.linux import hardware, processes
from muster.linux.identity import identity
from muster.schedulers import SCHEDULERS, choosing, get_scheduler, of_scheduler, title, typed
from muster.ui.terminal import size_here

if TYPE_CHECKING:
    from muster.code_sync import Tree

IGNORED_TORCHRUN_OPTIONS: Mapping[Option[object], str] = {
    RunOptions.standalone: "there is one node, and its port is bound, not chosen",
    RunOptions.rdzv_backend: "muster brings the ranks together by itself",
    RunOptions.rdzv_endpoint: "muster brings the ranks together by itself",
    RunOptions.rdzv_id: "the id of the run is chosen by muster",
    RunOptions.rdzv_conf: "muster brings the ranks together by itself",
    RunOptions.master_addr: "muster finds the address at which the ranks meet",
    RunOptions.master_port: "a free port is bound when the ranks start",
    RunOptions.local_addr: "muster finds the address of each host",
    RunOptions.monitor_interval: "ends are seen at once",
    RunOptions.start_method: "see --launcher",
    RunOptions.event_log_handler: "events are in events.jsonl of the run",
    RunOptions.run_path: "Python itself runs the script",
    RunOptions.redirects: "each rank's output is always kept in files of its own",
    RunOptions.tee: "each rank's output is always both kept and shown",
    RunOptions.duplicate_stdout_filters: "`muster logs` shows what is wanted",
    RunOptions.duplicate_stderr_filters: "`muster logs` shows what is wanted",
    RunOptions.logs_specs: "each rank's output is always kept in files of its own",
}
"""Options of torchrun that need no doing here, and why."""


def ignored_notes(options: Options) -> list[str]:
    """One line for each option of torchrun that was given and changes nothing."""
    used = RunOptions.rdzv_id if options.given(RunOptions.log_dir) else None
    silent = [option for option in options.all_given() if option in IGNORED_TORCHRUN_OPTIONS and option is not used]
    return [f"{option.long_name} changes nothing: {IGNORED_TORCHRUN_OPTIONS[option]}" for option in silent]


def warnings(job: Job) -> list[str]:
    """What is most likely not meant."""
    if job.launcher == "spawn" or not job.program.path:
        return []
    try:
        text = Path(job.cwd, job.program.path).read_text(errors="replace")
    except OSError:  # it is on the machine where the run was started
        return []
    found = _CALLS_SPAWN.search(text)
    if found is None:
        return []
    what = f"{job.program.path} calls `{found[0]}…)` and so starts ranks by itself, each rank a world of its own"
    return [f"{what}: `--launcher spawn` starts it once a node"]


_CALLS_SPAWN = re.compile(r"\b(?:mp|multiprocessing)\.(?:spawn|start_processes)\(")


def reject_nested_launch(options: RunOptions, env: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` where this muster would be one of several that know nothing of each other."""
    nodes = options.nnodes or "1"
    few, _, many = nodes.partition(":")
    if few != (many or few):
        raise InvalidRequest(
            f"--nnodes {nodes}: muster does not change the number of nodes while it runs", f"use `--nnodes {many}`"
        )
    if few != "1" and not options.elsewhere and not options.scheduled:
        raise InvalidRequest(
            f"--nnodes {nodes}: no machines were named",
            f"name them: `--hosts n1,n2 --nnodes {few}`, or `--hostfile FILE`"
            + "".join(f"; `{typed(name)}` asks {row.title} for them" for name, row in SCHEDULERS.items()),
        )
    if options.node_rank not in (None, "0"):
        raise InvalidRequest(
            f"--node-rank {options.node_rank}: muster is started once, not once a node",
            "start it on one machine, without --node-rank",
        )
    if options.virtual_local_rank:
        raise InvalidRequest("--virtual-local-rank is not supported", "let the script use LOCAL_RANK")
    outer = started_by(env, processes.ancestors())
    if outer is not None:
        launcher, count = outer
        raise InvalidRequest(
            f"muster was itself started {count} times by {launcher}: that would make {count} separate worlds",
            f"start muster once, without {launcher}",
        )


def _check_scheduler(options: RunOptions) -> None:
    """Raise `InvalidRequest` for a scheduler that is not known, and for options that were typed for another one."""
    name = options.scheduler or ""
    if name and name not in SCHEDULERS:
        hint = did_you_mean(name, SCHEDULERS) or f"known: {', '.join(SCHEDULERS)}"
        raise InvalidRequest(f"there is no scheduler `{name}`", hint)
    others = [option for option in choosing(options) if option.key not in ("scheduler", name) and options.value(option)]
    if name and others:
        raise InvalidRequest(
            f"{others[0].long_name} and --scheduler {name} contradict each other", "leave one of them out"
        )
    for other in SCHEDULERS:
        given = [option for option in options.all_given("argv") if of_scheduler(option) == other]
        if given and options.scheduled != other:
            names, what = ", ".join(option.long_name for option in given), title(other)
            hint = f"add `{typed(other)}`"
            if any(option.key == "time" for option in given):
                hint += f"; `--timeout 1h` ends a run after that time without {what}"
            raise InvalidRequest(f"{names}: that is for {what}, and this is no run of {what}", hint)


def program(parsed: ParsedArgs, options: RunOptions, verb: str, cwd: str, brought: str = "") -> Program:
    """What is to run. A script that can be read only once is read now, for all ranks; `brought` is its text already."""
    words = tuple(parsed.operands)
    if not words:
        what = "a program after `--`" if parsed.after_dashes else "a script"
        raise InvalidRequest(f"`muster {verb}` wants {what}", f"for example `muster {verb} -g 4 train.py --lr 0.1`")
    if parsed.after_dashes or options.no_python:
        if options.module:
            other = "after `--` stands" if parsed.after_dashes else "with `--no-python` comes"
            raise InvalidRequest(f"`-m` is for a Python module, and {other} a program", "leave out one of them")
        return Program("command", words)
    if options.module:
        return Program("module", words)
    if words[0] == "-" or is_stream(words[0], cwd):
        return Program(
            "script",
            (f"{BUNDLED}{name_of_stream(words[0])}", *words[1:]),
            read_stream(words[0], cwd),
        )
    if options.launcher == "spawn" and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", words[0]):
        return Program("function", words)
    return Program("script", words, brought)


_SPAWNS = re.compile(_CALLS_SPAWN.pattern + r"|\bspawn\(|\bnotebook_launcher\(")
"""What is in a script that starts its ranks by itself."""


def named_hosts(named: str | None, hostfile: str | None, cwd: str = "") -> tuple[HostSpec, ...]:
    """What `--hosts` or `--hostfile` name; none without them. Raises `InvalidRequest`."""
    if named is not None and hostfile is not None:
        raise InvalidRequest("--hosts and --hostfile were both given", "one of them names the hosts")
    if named is not None:
        return hostlist.parse_hosts(named)
    if hostfile is not None:
        return hostlist.parse_hostfile(read_text(os.path.join(cwd, hostfile), "--hostfile"), hostfile)
    return ()


def wanted_hosts(options: RunOptions, cwd: str) -> tuple[HostSpec, ...]:
    """The hosts that were named, those that get a rank; empty for this machine alone. Raises `InvalidRequest`."""
    if options.elsewhere and options.scheduled:
        naming = options.option(get_scheduler(options.scheduled).nodelist)
        raise InvalidRequest(
            f"{typed(options.scheduled)} with hosts: {title(options.scheduled)} chooses the nodes",
            "leave one out" + (f"; {naming.long_name} asks for nodes" if naming is not None else ""),
        )
    if not options.elsewhere:
        for option in (RunOptions.include, RunOptions.exclude):
            if options.given(option):
                hint = "name them by --hosts or --hostfile"
                raise InvalidRequest(f"{option.long_name}: there are no hosts to choose from", hint)
        return ()
    found = named_hosts(options.hosts, options.hostfile, cwd)
    found = hostlist.filter_hosts(found, options.include, options.exclude)
    count = options.nodes
    if count is not None:
        if count > len(found):
            names = hostlist.fold_hostlist(host.name for host in found)
            raise InvalidRequest(
                f"--nnodes {count}: only {plural(len(found), 'host was', 'hosts were')} named: {names}",
                "name more of them",
            )
        found = found[:count]
    each = options.nproc_per_node
    number = int(each) if each is not None and each.isdigit() else None
    counts = hostlist.assign_slots(found, number, options.np)
    idle = [host.name for host, count in zip(found, counts) if count == 0]
    if idle and options.nnodes is not None:
        raise InvalidRequest(
            f"--nnodes {options.nnodes} with -n {options.np}: that leaves {hostlist.fold_hostlist(idle)} "
            f"without a rank",
            f"use `--nnodes {len(found) - len(idle)}`, or leave it out",
        )
    return tuple(host._replace(slots=count, gpus=host.gpus[:count]) for host, count in zip(found, counts) if count != 0)


def ranks_there(each: str | None, cores: int, gpus: int, host: str) -> int:
    """How many ranks `-g` means on a host with so many cores and GPUs, where no number was said."""
    if each == "gpu" and not gpus:
        raise InvalidRequest(f"-g gpu: {host} has no GPU", "use `-g cpu` or a number")
    if each == "cpu":
        return cores
    if each == "auto":
        return gpus or cores
    return max(1, gpus)


def split_per_host(items: Any, names: tuple[str, ...], option: str) -> tuple[list[str], dict[str, list[str]]]:
    """Split `HOSTS:VALUE` from plain values: (for all hosts, {host: those for it alone})."""
    every: list[str] = []
    single: dict[str, list[str]] = {}
    for item in items:
        first, colon, value = item.partition(":")
        try:
            chosen = hostlist.expand_hostset(first, option) if colon and names else []
        except InvalidRequest:
            chosen = []
        if chosen and set(chosen) <= set(names):
            for name in chosen:
                single.setdefault(name, []).append(value.strip())
        else:
            every.append(item)
    return every, single


def _gpus(options: RunOptions) -> tuple[str, ...]:
    """The GPUs that `--gpus` names."""
    return tuple(piece.strip() for piece in (options.gpus or "").split(",") if piece.strip())


def ranks_wanted(options: RunOptions, env: Mapping[str, str]) -> int:
    """How many ranks `-g` asks for on this machine."""
    wanted = options.nproc_per_node
    visible = _gpus(options) if options.gpus is not None else hardware.gpus(env)
    if wanted is None:
        return max(1, len(visible))
    if wanted == "gpu":
        if not visible:
            raise InvalidRequest("-g gpu: there is no GPU here", "use `-g cpu` or a number")
        return len(visible)
    if wanted == "cpu":
        return hardware.cores()
    if wanted == "auto":
        return len(visible) or hardware.cores()
    return int(wanted)


class JobRequest(NamedTuple):
    """What the options ask for."""

    job: Job
    hosts: tuple[HostSpec, ...]
    """The hosts that were named; empty for this machine."""
    ranks_per_node: str | None
    """What `-g` said."""
    pythons: Mapping[str, str]
    """The interpreter of a host that has one of its own."""
    setups: Mapping[str, tuple[str, ...]]
    """Lines of `--setup` for one host."""
    threads_chosen: bool
    """The person set OMP_NUM_THREADS."""
    snapshot: tuple[Tree, Path] | None = None
    """The code that is to be copied, and to where."""


def make_job(
    parsed: ParsedArgs,
    options: RunOptions,
    env: Mapping[str, str],
    verb: str,
    brought: str,
    warn: Callable[[str], object],
) -> JobRequest:
    """The job that these options ask for; `brought` is the text of a script of muster's own. Raises `InvalidRequest`.

    `warn` is told what a person should know of how they were understood.
    """
    reject_nested_launch(options, env)
    _check_scheduler(options)
    cwd = absolute(options.cwd or ".")
    if not os.path.isdir(cwd):
        raise InvalidRequest(f"--cwd {options.cwd}: there is no such folder", "make it first; ranks start there")
    what = program(parsed, options, verb, cwd, brought)
    if what.path:
        check_script(what.argv, cwd, env, verb)
    named = wanted_hosts(options, cwd)
    names = tuple(host.name for host in named)
    if what.kind == "command" and not options.setup and not named:
        check_command(what.argv[0], cwd, env)
    launcher = options.launcher
    wrap = split_words(options.wrap or "", "--wrap")
    if launcher is None:
        launcher = "exec" if what.kind == "command" or wrap else "fork"
    if launcher not in LAUNCHERS:
        raise InvalidRequest(
            f"there is no launcher `{launcher}`", did_you_mean(launcher, LAUNCHERS) or f"known: {', '.join(LAUNCHERS)}"
        )
    package = LAUNCHERS[launcher].package
    if package and not named and not options.scheduled and not options.python and not options.setup:
        check_package(package, launcher)
    if named and options.gpus is not None:
        raise InvalidRequest("--gpus is for this machine", "with hosts write `--hosts n1:0,1`: GPUs 0 and 1 of n1")
    if named and options.numa_binding is not None:
        raise InvalidRequest("--numa-binding is for this machine", "leave it out where the ranks run on other hosts")
    general, pythons = split_per_host(options.python, names, "--python")
    setup, setups = split_per_host(options.setup, names, "--setup")
    python, why = choose_python(
        general[-1] if general else None, what.argv[0], cwd, env, sys.executable, not named, warn
    )
    variables = env_forwarding.select(options.env, env)
    in_what, value = runtimes.chosen(options)
    job = Job(
        program=what,
        launcher=launcher,
        python=python,
        python_why=why,
        python_named=bool(general),
        cwd=cwd,
        place="ssh" if named else "step" if options.scheduled else "local",
        scheduler=options.scheduled,
        runtime=in_what,
        runtime_value=value,
        name=options.name or "",
        env={**env_forwarding.forwarded(env), **variables} if named else variables,
        setup=tuple(setup),
        preload=_preload(options, launcher),
        wrap=wrap,
        binding=options.numa_binding or "",
        stdin=options.stdin,
        grace=options.grace,
        timeout=options.timeout,
        spawns=launcher == "spawn" and bool(what.path) and _spawns(os.path.join(cwd, what.path)),
        launcher_args=split_words(options.launcher_args or "", "--launcher-args"),
        max_restarts=options.max_restarts,
        ssh=split_words(options.ssh, "--ssh"),
        passes=_passes(options),
        signals_to_handle=",".join(options.signals_to_handle),
        role=options.role,
        log_dir=_log_dir(options, named),
        terminal=_terminal(options, env),
        lease=options.lease if named or options.scheduled else 0.0,
    )
    return JobRequest(
        job=job,
        hosts=named,
        ranks_per_node=options.nproc_per_node,
        pythons={name: values[-1] for name, values in pythons.items()},
        setups={name: tuple(values) for name, values in setups.items()},
        threads_chosen="OMP_NUM_THREADS" in variables or "OMP_NUM_THREADS" in env,
    )


def _terminal(options: RunOptions, env: Mapping[str, str]) -> TerminalSize | None:
    """The pseudo-terminal that `--tty` gives to each rank; raises `InvalidRequest` together with `--no-tty`."""
    if options.tty and options.no_tty:
        raise InvalidRequest("--tty and --no-tty contradict each other", "leave one of them out")
    return size_here(env) if options.tty else None


def job_on_a_terminal(job: Job, ranks: int, options: RunOptions, env: Mapping[str, str]) -> Job:
    """The job of an attached run here: a rank that is alone, and shown on a terminal, has one itself."""
    shown = not (options.no_tty or options.json or options.quiet)
    if job.terminal is None and ranks == 1 and shown and os.isatty(1) and os.isatty(2):
        return job._replace(terminal=size_here(env))
    return job


def _log_dir(options: RunOptions, named: tuple[HostSpec, ...]) -> str:
    """How the names of `--log-dir` begin; raises `InvalidRequest` where no such folder can be on this machine."""
    if options.log_dir is None or options.log_dir == os.devnull:  # with it torchrun writes no file either
        return ""
    folder = absolute(options.log_dir)
    if not named and os.path.lexists(folder) and not os.path.isdir(folder):
        raise InvalidRequest(f"--log-dir {options.log_dir}: it is not a folder", "name one, which is made if need be")
    id_of_torchrun = (options.rdzv_id or "").replace("/", "-")
    return os.path.join(folder, f"{id_of_torchrun}_" if id_of_torchrun else "")


def _passes(options: RunOptions) -> tuple[str, ...]:
    """The signals that are passed on: these two, and others that were named, unless they end the run."""
    named = (*Job._field_defaults["passes"], *options.signals_to_handle)
    check_signals(named)
    return tuple(name for name in dict.fromkeys(named) if name not in ENDING)


def local_nodes(asked: JobRequest, options: RunOptions, env: Mapping[str, str]) -> tuple[Node, ...]:
    """The one node that this machine is; raises `InvalidRequest`."""
    count = options.np if options.np is not None else ranks_wanted(options, env)
    if options.np is not None and asked.ranks_per_node is not None and ranks_wanted(options, env) != count:
        raise InvalidRequest(
            f"-n {count} with -g {asked.ranks_per_node}: on one machine both are the number of ranks, and they differ",
            "leave one of them out",
        )
    check_limits(count)
    _check_ranks(count, asked.job, options.ranks or ())
    host = Host(
        identity()["host"],
        gpus=_gpus(options),
        threads=0 if asked.threads_chosen else max(1, hardware.cores() // count),
        cpus=numa_bindings(asked.job.binding, count) if asked.job.binding else (),
    )
    return layout([(host, count)])


def hosts_to_reach(asked: JobRequest) -> tuple[Host, ...]:
    """The hosts that were named, as far as they are known before they answer."""
    return tuple(
        Host(
            host.name,
            user=host.user,
            python=asked.pythons.get(host.name, ""),
            setup=asked.setups.get(host.name, ()),
            gpus=host.gpus,
        )
        for host in asked.hosts
    )


def remote_nodes(
    asked: JobRequest, facts: Mapping[str, Mapping[str, Any]] | None, shown: Sequence[int] = ()
) -> tuple[Node, ...]:
    """The nodes that the hosts are; `facts` are what each host told of itself, None when nobody was asked.

    Raises `InvalidRequest`, also for one of the ranks that are to be `shown` that there is not.
    """
    counts = [wanted.slots for wanted in asked.hosts]
    return nodes_of(asked.job, hosts_to_reach(asked), counts, asked.ranks_per_node, facts, asked.threads_chosen, shown)


def nodes_of(
    job: Job,
    hosts: Sequence[Host],
    counts: Sequence[int | None],
    each: str | None,
    facts: Mapping[str, Mapping[str, Any]] | None,
    threads_chosen: bool,
    shown: Sequence[int] = (),
) -> tuple[Node, ...]:
    """The same for any hosts, with so many ranks on each; None where `each` says that, `-g`, by what the host has."""
    found = []
    for host, count in zip(hosts, counts):
        told = facts[host.name] if facts is not None else None
        if count is None:
            if told is None:
                raise InvalidRequest(
                    f"how many ranks {host.name} gets is known when it is asked how many GPUs it has",
                    "say it for a plan: `-g 8`, or `--hosts n1:8,n2:8`",
                )
            count = ranks_there(each, told["cores"], len(told["gpus"]), host.name)
        if not threads_chosen:
            host = host._replace(threads=None if told is None else max(1, told["cores"] // count))
        found.append((host, count))
    nodes = layout(found)
    _check_ranks(sum(len(node.ranks) for node in nodes), job, shown)
    return nodes


def _check_ranks(count: int, job: Job, shown: Sequence[int]) -> None:
    for option, ranks in (("--stdin", () if job.stdin is None else (job.stdin,)), ("--ranks", shown)):
        wrong = [rank for rank in ranks if rank >= count]
        if wrong:
            raise InvalidRequest(f"{option} {wrong[0]}: there is no such rank", f"the ranks are 0 to {count - 1}")


def _spawns(path: str) -> bool:
    with open(path, errors="replace") as file:
        return _SPAWNS.search(file.read()) is not None


def _preload(options: RunOptions, launcher: str) -> tuple[str, ...]:
    """What the warm interpreter imports; what a file asks for is no reason to refuse another launcher."""
    if launcher not in ("fork", "exec") and not options.typed(RunOptions.preload):
        return ()
    return tuple(name for names in options.preload for name in names.split(",") if name)


def split_words(text: str, option: str) -> tuple[str, ...]:
    """Words as a shell would make them of an option's value; raises `InvalidRequest`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidRequest(
            f"cannot read `{option} {text}`: {processes.reason(error)}", "quote it as in a shell"
        ) from None
