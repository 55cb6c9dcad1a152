"""From options to a job and its plan, on this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from muster.errors import Impossible
from muster.launchers import LAUNCHERS
from muster.model import Host, Job, Node, Plan, Program
from muster.options import Parsed, near
from muster.ranks import layout, started_by
from muster.world import here

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
    "role": "ROLE_NAME is `default`",
    "run_path": "Python itself runs the script",
    "log_dir": "logs are kept in the run directory, see --run-dir",
    "redirects": "each rank's output is always kept in files of its own",
    "tee": "each rank's output is always both kept and shown",
    "duplicate_stdout_filters": "`muster logs` shows what is wanted",
    "duplicate_stderr_filters": "`muster logs` shows what is wanted",
    "logs_specs": "each rank's output is always kept in files of its own",
    "signals_to_handle": "SIGINT, SIGTERM and SIGHUP are handled",
}
"""Options of torchrun that need no doing here, and why."""


def notes(given: Mapping[str, Any]) -> list[str]:
    """One line for each option of torchrun that was given and changes nothing."""
    return [f"--{key.replace('_', '-')} changes nothing: {_SILENT[key]}" for key in given if key in _SILENT]


def refuse_worlds(given: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Raise `Impossible` where this muster would be one of several that know nothing of each other."""
    nodes = str(given.get("nnodes", "1"))
    few, _, many = nodes.partition(":")
    if (few, many or few) != ("1", "1"):
        raise Impossible(
            f"--nnodes {nodes}: muster runs on this machine only",
            "leave --nnodes out for one machine; several cannot be reached yet, and one muster a machine would make "
            "a world of its own on each",
        )
    if str(given.get("node_rank", "0")) != "0":
        raise Impossible(
            f"--node-rank {given['node_rank']}: muster is started once, not once a node",
            "start it on one machine, without --node-rank",
        )
    if given.get("virtual_local_rank"):
        raise Impossible("--virtual-local-rank is not supported", "let the script use LOCAL_RANK")
    outer = started_by(env)
    if outer is not None:
        launcher, count = outer
        raise Impossible(
            f"muster was itself started {count} times by {launcher}: that would make {count} separate worlds",
            f"start muster once, without {launcher}; where its variables are only left over, unset them",
        )


def program(parsed: Parsed, given: Mapping[str, Any], verb: str) -> Program:
    """What is to run."""
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
    if words[0] == "-":
        raise Impossible("a script from standard input cannot be given to several ranks", "write it to a file")
    return Program("script", words)


def ranks_wanted(given: Mapping[str, Any], env: Mapping[str, str]) -> int:
    """How many ranks `-g` asks for on this machine."""
    wanted = given.get("nproc_per_node")
    if "gpus" in given:
        visible = [piece.strip() for piece in given["gpus"].split(",") if piece.strip()]
    else:
        visible = here.gpus(env)
    if wanted is None:
        return max(1, len(visible))
    if wanted == "gpu":
        if not visible:
            raise Impossible("-g gpu: there is no GPU here", "use `-g cpu` or a number")
        return len(visible)
    if wanted == "cpu":
        return here.cores()
    if wanted == "auto":
        return len(visible) or here.cores()
    return int(wanted)


def make_job(
    parsed: Parsed, given: Mapping[str, Any], env: Mapping[str, str], verb: str
) -> tuple[Job, tuple[Node, ...]]:
    """The job that these options ask for, on this machine; raises `Impossible`."""
    refuse_worlds(given, env)
    what = program(parsed, given, verb)
    cwd = os.path.abspath(given.get("cwd") or os.getcwd())
    if not os.path.isdir(cwd):
        raise Impossible(f"--cwd {given.get('cwd')}: there is no such folder", "make it first; ranks start there")
    if what.kind == "script":
        here.check_script(what.argv[0], cwd)
    elif what.kind == "command" and "setup" not in given:
        here.check_command(what.argv[0], cwd, env)
    launcher = given.get("launcher")
    wrap = _words(given.get("wrap", ""), "--wrap")
    if launcher is None:
        launcher = "exec" if what.kind == "command" or wrap else "fork"
    if launcher not in LAUNCHERS:
        raise Impossible(
            f"there is no launcher `{launcher}`", near(launcher, LAUNCHERS) or f"known: {', '.join(LAUNCHERS)}"
        )
    count = ranks_wanted(given, env)
    here.check_limits(count)
    stdin = given.get("stdin")
    for option, ranks in (("--stdin", () if stdin is None else (stdin,)), ("--ranks", given.get("ranks", ()))):
        wrong = [rank for rank in ranks if rank >= count]
        if wrong:
            raise Impossible(f"{option} {wrong[0]}: there is no such rank", f"the ranks are 0 to {count - 1}")
    python, why = here.choose_python(given.get("python"), what.argv[0], cwd, env, sys.executable)
    variables = _variables(given.get("env", ()), env)
    threads = 0 if "OMP_NUM_THREADS" in variables or "OMP_NUM_THREADS" in env else max(1, here.cores() // count)
    job = Job(
        program=what,
        launcher=launcher,
        ranks_per_node=count,
        python=python,
        python_why=why,
        cwd=cwd,
        threads=threads,
        name=given.get("name", ""),
        env=variables,
        setup=tuple(given.get("setup", ())),
        preload=tuple(name for names in given.get("preload", ()) for name in names.split(",") if name),
        wrap=wrap,
        gpus=tuple(piece.strip() for piece in given.get("gpus", "").split(",") if piece.strip()),
        binding=given.get("numa_binding", ""),
        stdin=stdin,
        grace=given.get("grace", 10.0),
        timeout=given.get("timeout"),
        max_restarts=given.get("max_restarts", 0),
    )
    cpus = here.bindings(job.binding, count) if job.binding else ()
    return job, layout([(Host(here.identity()["host"], cpus), count)])


def make_plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """The plan of the job's launcher."""
    return LAUNCHERS[job.launcher].plan(job, nodes, run_id)


def _words(text: str, option: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise Impossible(f"cannot read `{option} {text}`: {error}", "quote it as in a shell") from None


def _variables(items: Any, env: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            if name not in env:
                raise Impossible(
                    f"--env {name}: there is no such variable here", f"give its value: `--env {name}=VALUE`"
                )
            value = env[name]
        found[name] = value
    return found
