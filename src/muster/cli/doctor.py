"""`muster doctor`: check all machines at once, before running anything."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from muster.agent import facts
from muster.cli.common import parse_command
from muster.config.command_options import DoctorOptions
from muster.config.files import absolute, check_target
from muster.config.hosts import named_hosts, split_per_host
from muster.config.program import split_words
from muster.controller.bootstrap import Need
from muster.controller.connections import captured_signals
from muster.controller.started_agents import StartedAgents
from muster.core.fold import by_value
from muster.core.hostlist import HostSpec, fold_hostlist
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.diagnostics.checks import passed, run_checks, skipped
from muster.diagnostics.findings import ClusterFacts, Finding
from muster.diagnostics.network_checks import gloo_interface, nccl_interface
from muster.errors import InvalidRequest, Unreachable
from muster.linux import processes
from muster.linux.eventloop import EventLoop
from muster.linux.identity import identity
from muster.linux.signals import CapturedSignals
from muster.schedulers import SCHEDULERS, client, get_scheduler, of_scheduler, typed
from muster.schedulers.scheduler import NodeStatus
from muster.transports.target import Target

_PAIRS = 16
"""Up to this number of machines, all pairs are tried; with more, each tries three others."""

_NAMES = 64
"""Maximum number of names that each machine looks up; a thousand machines would send their servers a million queries.
"""


def doctor(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print problems, their impact and remedies; return 1 if training would fail."""
    asked = parse_command(DoctorOptions, "doctor", words, env)
    if asked is None:
        return 0
    options, _, store = asked
    named = options.given(DoctorOptions.hosts, DoctorOptions.hostfile)
    around = None if named else client.around(env, store.root)
    if options.scheduled and around is None:
        return _in_a_job(options, words)
    wanted = _first(named_hosts(options.hosts, options.hostfile), options)
    check_target(options.pass_file, "--pass-file")
    check_target(options.fail_file, "--fail-file")
    names = tuple(host.name for host in wanted)
    pythons, python_of = split_per_host(options.python, names, "--python")
    setup, setup_of = split_per_host(options.setup, names, "--setup")
    common = Target(
        transport="ssh" if wanted else "step" if around is not None else "local",
        host=identity()["host"],
        python=pythons[-1] if pythons else sys.executable,
        setup=tuple(setup),
        ssh=split_words(options.ssh, "--ssh"),
        cwd=absolute(options.cwd or "."),
    )
    targets = [
        common._replace(
            host=host.name,
            user=host.user,
            python=python_of.get(host.name, [common.python])[-1],
            setup=(*setup, *setup_of.get(host.name, ())),
        )
        for host in wanted
    ] or [common]
    if around is not None:
        name, allocation = around
        gpus = client.client(name).gpus_by_host(allocation, env)
        common = common._replace(scheduler=name, allocation=allocation.job)
        chosen = allocation.hosts[: options.nodes]
        targets = [common._replace(host=host, gpus=gpus[host] or 0) for host in chosen]
        env = get_scheduler(name).clean(env)
    patient, silent = _look(targets, env, store.root)
    if around is not None:
        # the job sees only its share of a node's GPUs, which says nothing about the scheduler's configuration
        patient = patient._replace(gres={})
    results = [("hosts reachable", silent), *run_checks(patient)]
    bad = {finding.host for _, findings in results for finding in findings if finding.level == "error"}
    _write(options.pass_file, [target.host for target in targets if target.host not in bad])
    _write(options.fail_file, [target.host for target in targets if target.host in bad])
    if options.json:
        told = [{"check": name, "findings": [finding.as_json() for finding in found]} for name, found in results]
        print(json.dumps({"hosts": [target.host for target in targets], "checks": told}, indent=1))
    else:
        print(_in_words(results, patient))
    return 0 if passed(results) else 1


def _first(found: tuple[HostSpec, ...], options: DoctorOptions) -> tuple[HostSpec, ...]:
    """Return the hosts to check. Raises `InvalidRequest` for options of other schedulers, and too few hosts."""
    for option in options.all_given():
        if (name := of_scheduler(option)) and name != options.scheduled:
            what = f"{option.long_name} requires {typed(name)}"
            raise InvalidRequest(what, f"add {typed(name)}, or leave out {option.long_name}")
    if options.scheduled:
        return found
    count = len(found) if options.nodes is None else options.nodes
    if count > len(found):
        others = "".join(f", or use {typed(name)}" for name in SCHEDULERS if get_scheduler(name).hold is not None)
        hint = f"name hosts with --hosts{others}"
        raise InvalidRequest(f"--nnodes {count}: {plural(len(found), 'host')} given", hint)
    return found[:count]


def _in_a_job(options: DoctorOptions, words: Sequence[str]) -> int:
    """Allocate nodes for the duration of the check, and run it on them."""
    name = options.scheduled
    if name not in SCHEDULERS:
        raise InvalidRequest(f"unknown scheduler: `{name}`", f"known schedulers: {', '.join(SCHEDULERS)}")
    asks = client.client(name)
    if options.given(DoctorOptions.hosts, DoctorOptions.hostfile):
        raise InvalidRequest(
            f"{typed(name)} cannot be combined with --hosts: {asks.title} chooses the nodes",
            f"leave out one of them{asks.scheduler.naming_nodes}",
        )
    if asks.scheduler.hold is None:
        raise InvalidRequest(
            f"{typed(name)}: muster cannot allocate nodes from {asks.title}", "run `muster doctor` inside a job"
        )
    nodes = 1 if options.nodes is None else options.nodes
    doctor = (sys.executable, "-m", "muster", "doctor", *words)
    return asks.replace_with(asks.scheduler.hold(nodes, options, doctor))


def _look(targets: Sequence[Target], env: Mapping[str, str], root: Path) -> tuple[ClusterFacts, list[Finding]]:
    """Check all machines; return the facts of those that answered, and findings for the others."""
    with EventLoop() as loop, captured_signals(loop) as signals:
        return _look_with(loop, signals, targets, env, root)


def _look_with(
    loop: EventLoop, signals: CapturedSignals, targets: Sequence[Target], env: Mapping[str, str], root: Path
) -> tuple[ClusterFacts, list[Finding]]:
    cwd = targets[0].cwd
    say = functools.partial(print, "muster:", file=sys.stderr)
    gathering = StartedAgents(loop, signals, Need(cwd), targets, env, say)
    flag = _flag(root)
    try:
        gathering.start_agents(flag, strict=False)
        told = gathering.probe([target.host for target in targets[:_NAMES]], cwd, str(root))
        ways = gathering.probe_routes(_PAIRS)
        clocks = gathering.clocks_ahead(time.time(), time.monotonic())
        silent = [
            Finding(
                "error",
                targets[node].host,
                error.message,
                "muster cannot start ranks there",
                error.hint or "",
            )
            for node, error in sorted(gathering.failed.items())
        ]
    finally:
        gathering.abort()
        shutil.rmtree(flag, ignore_errors=True)
    if len(targets) == 1:
        told = {host: {**told, "names": {}} for host, told in told.items()}  # no other host looks for it
    view = _scheduler_view([target.host for target in targets])
    states = {node.name: (node.state, node.reason) for node in view.nodes}
    gres = {node.name: sum(node.gpus.values()) for node in view.nodes}
    return ClusterFacts(told, ways, clocks, cwd, states, gres, view.scheduler, view.silent), silent


def _flag(root: Path) -> str:
    """Return a marker directory by which machines recognize a shared one; if it cannot be made, checks say why."""
    try:
        processes.make_private(str(root))
        flag = tempfile.mkdtemp(dir=root, prefix="doctor-")
        facts.write_marker(flag)
    except OSError:
        return "/nowhere"
    return flag


class _View(NamedTuple):
    """A scheduler's view of machines."""

    nodes: Sequence[NodeStatus] = ()
    silent: str = ""
    """Why it does not answer, if it is installed."""
    scheduler: str = ""
    """Its key; empty if there is none."""


def _scheduler_view(names: Sequence[str]) -> _View:
    """Return the scheduler's view of these machines, if there is a scheduler.

    Several have commands of the same name, so the first one that answers counts.
    """
    silent = _View()
    for name in SCHEDULERS:
        asks = client.client(name)
        machines = asks.scheduler.machines
        if machines is None:
            continue
        try:
            found = asks.ask(machines.nodes)
        except InvalidRequest:
            continue  # not installed here
        except Unreachable as error:
            silent = silent if silent.scheduler else _View((), error.sentence, name)
            continue
        return _View([node for node in found if node.name in names], "", name)
    return silent


def _write(path: Any, names: Sequence[str]) -> None:
    if path is not None:
        Path(path).write_text("".join(f"{name}\n" for name in names))


def _in_words(results: Sequence[tuple[str, list[Finding]]], patient: ClusterFacts) -> str:
    """Return one line per check, and below it each finding with impact and remedy, grouped by hosts."""
    lines = [_machines(patient)] if patient.facts else []
    skips = {name: why for name, why in skipped(patient).items() if not dict(results)[name]}
    for name, findings in results:
        level = "error" if any(finding.level == "error" for finding in findings) else "warning"
        why = f" ({skips[name]})" if name in skips else ""
        lines.append(f"{level if findings else 'skipped' if why else 'ok':<8} {name}{why}")
        told = [(one.host, (safe(one.summary), safe(one.impact), safe(one.remedy))) for one in findings]
        for (found, impact, do), names in by_value(told).items():
            lines += [f"         {fold_hostlist(dict.fromkeys(names))}: {found}", f"           impact: {impact}"]
            lines += [f"           fix: {do}"] if do else []
    # a finding that many hosts share counts once
    errors, warnings = (
        len({(name, finding.summary) for name, findings in results for finding in findings if finding.level == level})
        for level in ("error", "warning")
    )
    if not errors and not warnings:
        rest = f", {len(skips)} skipped" if skips else ""
        return "\n".join([*lines, f"{plural(len(results) - len(skips), 'check')} passed{rest}"])
    count = f"{plural(errors, 'error')}, {plural(warnings, 'warning')}"
    return "\n".join([*lines, f"{plural(len(results), 'check')}: {count}"])


def _machines(patient: ClusterFacts) -> str:
    """Return one line per group of equal machines."""
    rows: dict[str, list[str]] = {}
    for host, told in patient.facts.items():
        torch = told["torch"]
        version = f"torch {torch['version']}, imported in {torch['again']:.1f}s" if "version" in torch else "no torch"
        cores = plural(told["cores"], "core")
        gpus = plural(len(told["gpus"]), "GPU") if told["gpus"] else "no GPU"
        ways = ", ".join(f"{name} {address}" for name, address in told["interfaces"][:1])
        ways += f" (gloo uses {gloo_interface(told)}, NCCL {nccl_interface(told)})"
        rows[safe(f"{host}: {cores}, {gpus}, Python {told['python']}, {version}; {ways}")] = [host]
    return "\n".join(rows) + "\n"
