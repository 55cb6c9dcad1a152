"""From options to a job and its plan: on this machine, or on the hosts that were named."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from muster import environ, hosts
from muster.agent import machine, system
from muster.errors import Impossible
from muster.hosts import Wanted
from muster.launchers import LAUNCHERS
from muster.model import BROUGHT, ENDING, GRACE, Host, Job, Node, Program, TerminalSize
from muster.options import OF_SLURM, Parsed, near
from muster.plurals import plural
from muster.ranks import layout, started_by
from muster.world import here
from muster.world.terminal import size_here

if TYPE_CHECKING:
    from muster.world.code import Tree

_SILENT = {
    "standalone": "there is one node, and its port is bound, not chosen",
    "rdzv_backend": "muster brings the ranks together by itself",
    "rdzv_endpoint": "muster brings the ranks together by itself",
    "rdzv_id": "the id of the run is chosen by muster",
    "rdzv_conf": "muster brings the ranks together by itself",
    "master_addr": "all ranks are on this machine",
    "master_port": "a free port is bound when the ranks start",
    "local_addr": "all ranks are on this machine",
    "monitor_interval": "ends are seen at once",
    "start_method": "see --launcher",
    "event_log_handler": "events are in events.jsonl of the run",
    "run_path": "Python itself runs the script",
    "redirects": "each rank's output is always kept in files of its own",
    "tee": "each rank's output is always both kept and shown",
    "duplicate_stdout_filters": "`muster logs` shows what is wanted",
    "duplicate_stderr_filters": "`muster logs` shows what is wanted",
    "logs_specs": "each rank's output is always kept in files of its own",
}
"""Options of torchrun that need no doing here, and why."""


def notes(given: Mapping[str, Any]) -> list[str]:
    """One line for each option of torchrun that was given and changes nothing."""
    used = {"rdzv_id"} if "log_dir" in given else set()
    return [
        f"--{key.replace('_', '-')} changes nothing: {_SILENT[key]}"
        for key in given
        if key in _SILENT and key not in used
    ]


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


def refuse_worlds(given: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Raise `Impossible` where this muster would be one of several that know nothing of each other."""
    nodes = str(given.get("nnodes", "1"))
    few, _, many = nodes.partition(":")
    if few != (many or few):
        raise Impossible(
            f"--nnodes {nodes}: muster does not change the number of nodes while it runs", f"use `--nnodes {many}`"
        )
    if few != "1" and not _elsewhere(given) and not given.get("slurm"):
        raise Impossible(
            f"--nnodes {nodes}: no machines were named",
            f"name them: `--hosts n1,n2 --nnodes {few}`, or `--hostfile FILE`; `--slurm` asks Slurm for them",
        )
    if str(given.get("node_rank", "0")) != "0":
        raise Impossible(
            f"--node-rank {given['node_rank']}: muster is started once, not once a node",
            "start it on one machine, without --node-rank",
        )
    if given.get("virtual_local_rank"):
        raise Impossible("--virtual-local-rank is not supported", "let the script use LOCAL_RANK")
    outer = started_by(env, system.ancestors())
    if outer is not None:
        launcher, count = outer
        raise Impossible(
            f"muster was itself started {count} times by {launcher}: that would make {count} separate worlds",
            f"start muster once, without {launcher}",
        )


def _refuse_options_of_slurm(parsed: Parsed, given: Mapping[str, Any]) -> None:
    """Raise `Impossible` for options that were typed for Slurm where it is not asked for anything."""
    typed = [key for key in parsed.given if key in OF_SLURM]
    if typed and not given.get("slurm"):
        names = ", ".join(f"--{key.replace('_', '-')}" for key in typed)
        hint = "add `--slurm`"
        if "time" in typed:
            hint += "; `--timeout 1h` ends a run after that time without Slurm"
        raise Impossible(f"{names}: that is for Slurm, and this is no run of Slurm", hint)


def program(parsed: Parsed, given: Mapping[str, Any], verb: str, cwd: str) -> Program:
    """What is to run. A script that can be read only once is read now, for all ranks."""
    words = tuple(parsed.rest)
    if not words:
        what = "a program after `--`" if parsed.dashes else "a script"
        raise Impossible(f"`muster {verb}` wants {what}", f"for example `muster {verb} -g 4 train.py --lr 0.1`")
    if parsed.dashes or given.get("no_python"):
        if given.get("module"):
            other = "after `--` stands" if parsed.dashes else "with `--no-python` comes"
            raise Impossible(f"`-m` is for a Python module, and {other} a program", "leave out one of them")
        return Program("command", words)
    if given.get("module"):
        return Program("module", words)
    if words[0] == "-" or here.is_stream(words[0], cwd):
        return Program(
            "script", (f"{BROUGHT}{here.name_of_stream(words[0])}", *words[1:]), here.read_stream(words[0], cwd)
        )
    if given.get("launcher") == "spawn" and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", words[0]):
        return Program("function", words)
    return Program("script", words, given.get("brought", ""))


_SPAWNS = re.compile(_CALLS_SPAWN.pattern + r"|\bspawn\(|\bnotebook_launcher\(")
"""What is in a script that starts its ranks by itself."""


def _elsewhere(given: Mapping[str, Any]) -> bool:
    """The ranks run on hosts that were named."""
    return "hosts" in given or "hostfile" in given


def wanted_hosts(given: Mapping[str, Any], cwd: str) -> tuple[Wanted, ...]:
    """The hosts that were named, those that get a rank; empty for this machine alone. Raises `Impossible`."""
    if _elsewhere(given) and given.get("slurm"):
        raise Impossible("--slurm with hosts: Slurm chooses the nodes", "leave one out; --nodelist asks for nodes")
    if not _elsewhere(given):
        for option in ("include", "exclude"):
            if option in given:
                raise Impossible(f"--{option}: there are no hosts to choose from", "name them by --hosts or --hostfile")
        return ()
    if "hosts" in given and "hostfile" in given:
        raise Impossible("--hosts and --hostfile were both given", "one of them names the hosts")
    if "hosts" in given:
        found = hosts.parse_hosts(given["hosts"])
    else:
        found = hosts.parse_hostfile(
            here.read_text(os.path.join(cwd, given["hostfile"]), "--hostfile"), given["hostfile"]
        )
    found = hosts.choose(found, given.get("include"), given.get("exclude"))
    if "nnodes" in given:
        count = int(str(given["nnodes"]).partition(":")[0])
        if count > len(found):
            names = hosts.fold_hosts(host.name for host in found)
            raise Impossible(
                f"--nnodes {count}: only {plural(len(found), 'host was', 'hosts were')} named: {names}",
                "name more of them",
            )
        found = found[:count]
    each = given.get("nproc_per_node")
    number = int(each) if each is not None and each.isdigit() else None
    counts = hosts.shares(found, number, given.get("np"))
    idle = [host.name for host, count in zip(found, counts) if count == 0]
    if idle and "nnodes" in given:
        raise Impossible(
            f"--nnodes {given['nnodes']} with -n {given['np']}: that leaves {hosts.fold_hosts(idle)} without a rank",
            f"use `--nnodes {len(found) - len(idle)}`, or leave it out",
        )
    return tuple(host._replace(slots=count, gpus=host.gpus[:count]) for host, count in zip(found, counts) if count != 0)


def check_sizes(nodes: int, each: str | None, total: int | None, source: str) -> None:
    """Raise `Impossible` where `-n` ranks cannot be on so many nodes with `-g` ranks each; `source` says who counts."""
    if total is None:
        return
    if total < nodes:
        raise Impossible(f"-n {total} with {source}: {nodes} nodes need {nodes} ranks at least", f"use `-N {total}`")
    if each is None or not each.isdigit():
        return
    if total > nodes * int(each):
        raise Impossible(
            f"-n {total} with {source} and -g {each}: that is room for {plural(nodes * int(each), 'rank')}",
            "leave one of them out",
        )
    needed = -(-total // int(each))
    if needed < nodes:
        raise Impossible(
            f"-n {total} with {source} and -g {each}: that leaves {nodes - needed} of the nodes without a rank",
            f"use `-N {needed}`, or leave one of them out",
        )


def ranks_there(each: str | None, cores: int, gpus: int, host: str) -> int:
    """How many ranks `-g` means on a host with so many cores and GPUs, where no number was said."""
    if each == "gpu" and not gpus:
        raise Impossible(f"-g gpu: {host} has no GPU", "use `-g cpu` or a number")
    if each == "cpu":
        return cores
    if each == "auto":
        return gpus or cores
    return max(1, gpus)


def per_host(items: Any, names: tuple[str, ...], option: str) -> tuple[list[str], dict[str, list[str]]]:
    """Split `HOSTS:VALUE` from plain values: (for all hosts, {host: those for it alone})."""
    every: list[str] = []
    single: dict[str, list[str]] = {}
    for item in items:
        first, colon, value = item.partition(":")
        try:
            chosen = hosts.expand(first, option) if colon and names else []
        except Impossible:
            chosen = []
        if chosen and set(chosen) <= set(names):
            for name in chosen:
                single.setdefault(name, []).append(value.strip())
        else:
            every.append(item)
    return every, single


def ranks_wanted(given: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """How many ranks `-g` asks for on this machine."""
    wanted = given.get("nproc_per_node")
    if "gpus" in given:
        visible = [piece.strip() for piece in given["gpus"].split(",") if piece.strip()]
    else:
        visible = machine.gpus(env)
    if wanted is None:
        return max(1, len(visible))
    if wanted == "gpu":
        if not visible:
            raise Impossible("-g gpu: there is no GPU here", "use `-g cpu` or a number")
        return len(visible)
    if wanted == "cpu":
        return machine.cores()
    if wanted == "auto":
        return len(visible) or machine.cores()
    return int(wanted)


class Asked(NamedTuple):
    """What the options ask for."""

    job: Job
    hosts: tuple[Wanted, ...]
    """The hosts that were named; empty for this machine."""
    each: str | None
    """What `-g` said."""
    pythons: Mapping[str, str]
    """The interpreter of a host that has one of its own."""
    setups: Mapping[str, tuple[str, ...]]
    """Lines of `--setup` for one host."""
    threads_chosen: bool
    """The person set OMP_NUM_THREADS."""
    copied: tuple[Tree, Path] | None = None
    """The code that is to be copied, and to where."""


def make_job(parsed: Parsed, given: Mapping[str, Any], env: Mapping[str, str], verb: str) -> Asked:
    """The job that these options ask for; raises `Impossible`."""
    refuse_worlds(given, env)
    _refuse_options_of_slurm(parsed, given)
    cwd = here.absolute(given.get("cwd") or ".")
    if not os.path.isdir(cwd):
        raise Impossible(f"--cwd {given.get('cwd')}: there is no such folder", "make it first; ranks start there")
    what = program(parsed, given, verb, cwd)
    if what.path:
        here.check_script(what.argv, cwd, env, verb)
    named = wanted_hosts(given, cwd)
    names = tuple(host.name for host in named)
    if what.kind == "command" and "setup" not in given and not named:
        here.check_command(what.argv[0], cwd, env)
    launcher = given.get("launcher")
    wrap = split_words(given.get("wrap", ""), "--wrap")
    if launcher is None:
        launcher = "exec" if what.kind == "command" or wrap else "fork"
    if launcher not in LAUNCHERS:
        raise Impossible(
            f"there is no launcher `{launcher}`", near(launcher, LAUNCHERS) or f"known: {', '.join(LAUNCHERS)}"
        )
    package = LAUNCHERS[launcher].package
    if package and not named and not given.get("slurm") and "python" not in given and "setup" not in given:
        here.check_package(package, launcher)
    if named and "gpus" in given:
        raise Impossible("--gpus is for this machine", "with hosts write `--hosts n1:0,1`: GPUs 0 and 1 of n1")
    if named and "numa_binding" in given:
        raise Impossible("--numa-binding is for this machine", "leave it out where the ranks run on other hosts")
    general, pythons = per_host(given.get("python", ()), names, "--python")
    setup, setups = per_host(given.get("setup", ()), names, "--setup")
    python, why = here.choose_python(
        general[-1] if general else None, what.argv[0], cwd, env, sys.executable, not named
    )
    variables = environ.chosen(given.get("env", ()), env)
    job = Job(
        program=what,
        launcher=launcher,
        python=python,
        python_why=why,
        cwd=cwd,
        place="ssh" if named else "slurm" if given.get("slurm") else "local",
        name=given.get("name", ""),
        env={**environ.forwarded(env), **variables} if named else variables,
        setup=tuple(setup),
        preload=_preload(parsed, given, launcher),
        wrap=wrap,
        binding=given.get("numa_binding", ""),
        stdin=given.get("stdin"),
        grace=given.get("grace", GRACE),
        timeout=given.get("timeout"),
        spawns=launcher == "spawn" and bool(what.path) and _spawns(os.path.join(cwd, what.path)),
        launcher_args=split_words(given.get("launcher_args", ""), "--launcher-args"),
        max_restarts=given.get("max_restarts", 0),
        ssh=split_words(given.get("ssh", "ssh"), "--ssh"),
        passes=_passes(given),
        signals_to_handle=",".join(given.get("signals_to_handle", ENDING)),
        role=given.get("role", Job._field_defaults["role"]),
        log_dir=_log_dir(given, named),
        terminal=_terminal(given, env),
        lease=given.get("lease", 30.0) if named or given.get("slurm") else 0.0,
    )
    return Asked(
        job=job,
        hosts=named,
        each=given.get("nproc_per_node"),
        pythons={name: values[-1] for name, values in pythons.items()},
        setups={name: tuple(values) for name, values in setups.items()},
        threads_chosen="OMP_NUM_THREADS" in variables or "OMP_NUM_THREADS" in env,
    )


def _terminal(given: Mapping[str, Any], env: Mapping[str, str]) -> TerminalSize | None:
    """The pseudo-terminal that `--tty` gives to each rank; raises `Impossible` together with `--no-tty`."""
    if given.get("tty") and given.get("no_tty"):
        raise Impossible("--tty and --no-tty contradict each other", "leave one of them out")
    return size_here(env) if given.get("tty") else None


def on_a_terminal(job: Job, ranks: int, given: Mapping[str, Any], env: Mapping[str, str]) -> Job:
    """The job of an attached run here: a rank that is alone, and shown on a terminal, has one itself."""
    shown = not any(given.get(key) for key in ("no_tty", "json", "quiet", "view"))
    if job.terminal is None and ranks == 1 and shown and os.isatty(1) and os.isatty(2):
        return job._replace(terminal=size_here(env))
    return job


def _log_dir(given: Mapping[str, Any], named: tuple[Wanted, ...]) -> str:
    """How the names of `--log-dir` begin; raises `Impossible` where no such folder can be on this machine."""
    if given.get("log_dir", os.devnull) == os.devnull:  # with it torchrun writes no file either
        return ""
    folder = here.absolute(given["log_dir"])
    if not named and os.path.lexists(folder) and not os.path.isdir(folder):
        raise Impossible(f"--log-dir {given['log_dir']}: it is not a folder", "name one, which is made if need be")
    id_of_torchrun = str(given.get("rdzv_id", "")).replace("/", "-")
    return os.path.join(folder, f"{id_of_torchrun}_" if id_of_torchrun else "")


def _passes(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The signals that are passed on: these two, and others that were named, unless they end the run."""
    named = (*Job._field_defaults["passes"], *given.get("signals_to_handle", ()))
    here.check_signals(named)
    return tuple(name for name in dict.fromkeys(named) if name not in ENDING)


def nodes_here(asked: Asked, given: Mapping[str, Any], env: Mapping[str, str]) -> tuple[Node, ...]:
    """The one node that this machine is; raises `Impossible`."""
    count = int(given["np"]) if "np" in given else ranks_wanted(given, env)
    if "np" in given and asked.each is not None and ranks_wanted(given, env) != count:
        raise Impossible(
            f"-n {count} with -g {asked.each}: on one machine both are the number of ranks, and they differ",
            "leave one of them out",
        )
    here.check_limits(count)
    _check_ranks(count, asked.job, given)
    host = Host(
        here.identity()["host"],
        gpus=tuple(piece.strip() for piece in given.get("gpus", "").split(",") if piece.strip()),
        threads=0 if asked.threads_chosen else max(1, machine.cores() // count),
        cpus=here.bindings(asked.job.binding, count) if asked.job.binding else (),
    )
    return layout([(host, count)])


def hosts_to_reach(asked: Asked) -> tuple[Host, ...]:
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


def nodes_there(
    asked: Asked, given: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]] | None
) -> tuple[Node, ...]:
    """The nodes that the hosts are; `facts` are what each host told of itself, None when nobody was asked.

    Raises `Impossible`.
    """
    found = []
    for host, wanted in zip(hosts_to_reach(asked), asked.hosts):
        told = facts[host.name] if facts is not None else None
        count = wanted.slots
        if count is None:
            if told is None:
                raise Impossible(
                    f"how many ranks {host.name} gets is known when it is asked how many GPUs it has",
                    "say it for a plan: `-g 8`, or `--hosts n1:8,n2:8`",
                )
            count = ranks_there(asked.each, told["cores"], len(told["gpus"]), host.name)
        if told is not None and not asked.threads_chosen:
            host = host._replace(threads=max(1, told["cores"] // count))
        found.append((host, count))
    nodes = layout(found)
    _check_ranks(sum(len(node.ranks) for node in nodes), asked.job, given)
    return nodes


def _check_ranks(count: int, job: Job, given: Mapping[str, Any]) -> None:
    for option, ranks in (("--stdin", () if job.stdin is None else (job.stdin,)), ("--ranks", given.get("ranks", ()))):
        wrong = [rank for rank in ranks if rank >= count]
        if wrong:
            raise Impossible(f"{option} {wrong[0]}: there is no such rank", f"the ranks are 0 to {count - 1}")


def _spawns(path: str) -> bool:
    with open(path, errors="replace") as file:
        return _SPAWNS.search(file.read()) is not None


def _preload(parsed: Parsed, given: Mapping[str, Any], launcher: str) -> tuple[str, ...]:
    """What the warm interpreter imports; what a file asks for is no reason to refuse another launcher."""
    if launcher not in ("fork", "exec") and "preload" not in parsed.given:
        return ()
    return tuple(name for names in given.get("preload", ()) for name in names.split(",") if name)


def split_words(text: str, option: str) -> tuple[str, ...]:
    """Words as a shell would make them of an option's value; raises `Impossible`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise Impossible(f"cannot read `{option} {text}`: {system.reason(error)}", "quote it as in a shell") from None
