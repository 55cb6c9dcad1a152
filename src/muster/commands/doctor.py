"""`muster doctor`: look at all machines at once, before anything runs."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster import checkup
from muster.agent import meet, system
from muster.agent.eventloop import EventLoop
from muster.agent.signals import CapturedSignals
from muster.checkup import Finding, Patient
from muster.commands.common import read
from muster.errors import Impossible, Unreachable
from muster.fold import by_value
from muster.hosts import Wanted, fold_hosts
from muster.job import named_hosts, per_host, split_words
from muster.options import DoctorOptions
from muster.places.target import Target
from muster.plurals import plural
from muster.printable import line as safe
from muster.schedulers import slurm
from muster.world import here, queue
from muster.world.bootstrap import Need
from muster.world.gather import Gathering
from muster.world.link import captured_signals

_PAIRS = 16
"""Up to so many machines each is tried from each; of more, each from three others."""

_NAMES = 64
"""So many names are looked up by each machine; a thousand machines would ask their servers a million times."""

_MINUTES = 10
"""For which nodes are asked of Slurm."""


def doctor(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print what was found, why it matters and what to do; 1 when training would fail."""
    asked = read(DoctorOptions, "doctor", words, env, "look at all machines at once, before anything runs", "")
    if asked is None:
        return 0
    options, _, store = asked
    allocation = (
        None if options.given(DoctorOptions.hosts, DoctorOptions.hostfile) else queue.allocation(env, store.root)
    )
    if options.slurm and allocation is None:
        return _in_slurm(options, words)
    wanted = _first(named_hosts(options.hosts, options.hostfile), options)
    here.check_target(options.pass_file, "--pass-file")
    here.check_target(options.fail_file, "--fail-file")
    names = tuple(host.name for host in wanted)
    pythons, python_of = per_host(options.python, names, "--python")
    setup, setup_of = per_host(options.setup, names, "--setup")
    common = Target(
        place="ssh" if wanted else "slurm" if allocation is not None else "local",
        host=here.identity()["host"],
        python=pythons[-1] if pythons else sys.executable,
        setup=tuple(setup),
        ssh=split_words(options.ssh, "--ssh"),
        allocation=allocation.job if allocation is not None else "",
        cwd=here.absolute(options.cwd or "."),
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
    if allocation is not None:
        gpus = queue.gpus_by_host(allocation)
        chosen = allocation.hosts[: options.nnodes]
        targets = [common._replace(host=host, gpus=gpus[host] or 0) for host in chosen]
        env = slurm.clean(env)
    patient, silent = _look(targets, env, store.root)
    if allocation is not None:
        # the job sees only its share of a node's GPUs, which says nothing about how Slurm is configured
        patient = patient._replace(gres={})
    results = [("hosts answer", silent), *checkup.examine(patient)]
    bad = {finding.host for _, findings in results for finding in findings if finding.level == "error"}
    _write(options.pass_file, [target.host for target in targets if target.host not in bad])
    _write(options.fail_file, [target.host for target in targets if target.host in bad])
    if options.json:
        told = [{"check": name, "findings": [finding._asdict() for finding in found]} for name, found in results]
        print(json.dumps({"hosts": [target.host for target in targets], "checks": told}, indent=1))
    else:
        print(_in_words(results, patient))
    return 0 if checkup.sound(results) else 1


def _first(found: tuple[Wanted, ...], options: DoctorOptions) -> tuple[Wanted, ...]:
    """The hosts that are meant. Raises `Impossible` for options that say something about other places."""
    of_slurm = [option for option in options.all_given() if option.slurm]
    if of_slurm and not options.slurm:
        raise Impossible(f"{of_slurm[0].long_name} is for nodes of Slurm", "add --slurm, or leave it out")
    if options.slurm:
        return found
    count = len(found) if options.nnodes is None else options.nnodes
    if count > len(found):
        raise Impossible(
            f"--nnodes {count}: {plural(len(found), 'host')} named", "name them by --hosts, or add --slurm"
        )
    return found[:count]


def _in_slurm(options: DoctorOptions, words: Sequence[str]) -> int:
    """Have nodes for as long as this takes, and look at them."""
    if options.given(DoctorOptions.hosts, DoctorOptions.hostfile):
        raise Impossible("--slurm with --hosts: Slurm chooses the nodes", "leave one out; --slurm-opt nodelist=n[1-3]")
    wanted = [f"partition={options.partition}"] if options.partition is not None else []
    wanted += [f"gpus-per-node={options.gpus_per_node}"] if options.gpus_per_node is not None else []
    wanted += options.slurm_opt
    wanted += [] if any(option.startswith("time=") for option in wanted) else [f"time={_MINUTES}"]
    nodes = 1 if options.nnodes is None else options.nnodes
    command = slurm.for_a_while(nodes, wanted, (sys.executable, "-m", "muster", "doctor", *words))
    return queue.replace_with(command)


def _look(targets: Sequence[Target], env: Mapping[str, str], root: Path) -> tuple[Patient, list[Finding]]:
    """Ask all machines; gives what they told, and those that told nothing."""
    with EventLoop() as loop, captured_signals(loop) as signals:
        return _look_with(loop, signals, targets, env, root)


def _look_with(
    loop: EventLoop, signals: CapturedSignals, targets: Sequence[Target], env: Mapping[str, str], root: Path
) -> tuple[Patient, list[Finding]]:
    cwd = targets[0].cwd
    say = functools.partial(print, "muster:", file=sys.stderr)
    gathering = Gathering(loop, signals, Need(cwd), targets, env, say)
    flag = _flag(root)
    try:
        gathering.reach(flag, strict=False)
        facts = gathering.probe([target.host for target in targets[:_NAMES]], cwd, str(root))
        ways = gathering.ways(_PAIRS)
        clocks = gathering.clocks_ahead(time.time(), time.monotonic())
        silent = [
            Finding(
                "error",
                targets[node].host,
                error.message,
                "nothing can run there",
                error.hint or "",
            )
            for node, error in sorted(gathering.failed.items())
        ]
    finally:
        gathering.give_up()
        shutil.rmtree(flag, ignore_errors=True)
    if len(targets) == 1:
        facts = {host: {**told, "names": {}} for host, told in facts.items()}  # nobody looks for the others
    nodes, why = _nodes_of_slurm([target.host for target in targets])
    states = {node.name: (node.state, node.reason) for node in nodes}
    gres = {node.name: sum(node.gpus.values()) for node in nodes}
    return Patient(facts, ways, clocks, cwd, states, gres, why), silent


def _flag(root: Path) -> str:
    """A folder by which other machines see whether they share this one; where none can be made, the checks say why."""
    try:
        system.make_private(str(root))
        flag = tempfile.mkdtemp(dir=root, prefix="doctor-")
        meet.put_flag(flag)
    except OSError:
        return "/nowhere"
    return flag


def _nodes_of_slurm(names: Sequence[str]) -> tuple[list[slurm.NodeSeen], str]:
    """What Slurm says of these machines, where there is Slurm; and why it says nothing."""
    try:
        found = slurm.nodes(queue.ask(slurm.machines()))
    except Impossible:
        return [], ""  # there is none
    except Unreachable as error:
        return [], error.sentence
    return [node for node in found if node.name in names], ""


def _write(path: Any, names: Sequence[str]) -> None:
    if path is not None:
        Path(path).write_text("".join(f"{name}\n" for name in names))


def _in_words(results: Sequence[tuple[str, list[Finding]]], patient: Patient) -> str:
    """One line for each check; below it what was found, why it matters, what to do, folded over hosts."""
    lines = [_machines(patient)] if patient.facts else []
    for name, findings in results:
        level = "error" if any(finding.level == "error" for finding in findings) else "warning"
        lines.append(f"{level if findings else 'ok':<8} {name}")
        told = [(one.host, (safe(one.found), safe(one.why), safe(one.do))) for one in findings]
        for (found, why, do), names in by_value(told).items():
            lines += [f"         {fold_hosts(dict.fromkeys(names))}: {found}", f"           why it matters: {why}"]
            lines += [f"           what to do: {do}"] if do else []
    # a finding that many hosts share is one
    errors, warnings = (
        len({(name, finding.found) for name, findings in results for finding in findings if finding.level == level})
        for level in ("error", "warning")
    )
    count = f"{plural(errors, 'error')}, {plural(warnings, 'warning')}" if errors or warnings else "all is well"
    return "\n".join([*lines, f"{plural(len(results), 'check')}: {count}"])


def _machines(patient: Patient) -> str:
    """A line for equal machines."""
    rows: dict[str, list[str]] = {}
    for host, facts in patient.facts.items():
        torch = facts["torch"]
        version = f"torch {torch['version']}, imported in {torch['again']:.1f} s" if "version" in torch else "no torch"
        cores = plural(facts["cores"], "core")
        gpus = plural(len(facts["gpus"]), "GPU") if facts["gpus"] else "no GPU"
        ways = ", ".join(f"{name} {address}" for name, address in facts["interfaces"][:1])
        ways += f" (gloo takes {checkup.gloo_interface(facts)}, NCCL {checkup.nccl_interface(facts)})"
        rows[safe(f"{host}: {cores}, {gpus}, Python {facts['python']}, {version}; {ways}")] = [host]
    return "\n".join(rows) + "\n"
