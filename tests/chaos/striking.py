"""The faults: one row each, with how it strikes and how the run may end because of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Callable, NamedTuple

from scenarios import LEASE, Moment, Place, Scenario
from stage import Stage, sleep

EVERYWHERE = tuple(Place)
OVER_SSH = (Place.SSH, Place.SSH_DETACHED)
HERE = (Place.LOCAL, Place.LOCAL_DETACHED)
SERVED = (Place.LOCAL_DETACHED, *OVER_SSH, Place.SLURM)
"""With a controller of their own."""


class End(NamedTuple):
    """A way in which a run may end."""

    state: str
    code: int | None
    """The exit code; None if it depends."""
    says: str = ""
    """A pattern that the report has."""
    root: bool = False
    """Whether the struck rank is the root cause."""


class Fault(NamedTuple):
    """A fault."""

    strike: Callable[[Stage], str]
    """Make it, for a while if it passes; return what was struck, empty if there was no victim."""
    places: tuple[Place, ...] = EVERYWHERE
    leads: Callable[[Scenario], tuple[End, ...]] = lambda _: ()
    """How the run may end instead."""
    certain: bool = False
    """While ranks run it always leads to one of these ends."""
    launchers: tuple[str, ...] = ()
    """The launchers with such a victim; empty for all."""
    clean: bool = False
    """Whether files may remain, which the next agent or `muster clean` removes."""


_VICTIM = 30.0
"""Seconds within which a victim has to appear; a run on a busy machine starts slowly."""


def _victims(stage: Stage, role: str) -> list[int]:
    deadline = time.monotonic() + (_VICTIM if stage.scenario.moment is Moment.BEFORE else 1.0)
    while True:
        found = [one.pid for one in stage.find(role)]
        if found or time.monotonic() > deadline or stage.over:
            return found
        time.sleep(0.005)


def _kill(role: str, number: int = signal.SIGKILL, all_of_them: bool = False) -> Callable[[Stage], str]:
    def strike(stage: Stage) -> str:
        found = _victims(stage, role)
        sleep(stage.scenario.delay)
        struck = []
        for pid in found if all_of_them else found[-1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                struck.append(pid)
        if struck and role == "terminal":
            place = stage.scenario.place
            stage.terminal_struck = number == signal.SIGKILL or place.detached or place is Place.SLURM
        return f"{signal.Signals(number).name} to the {role} {struck}" if struck else ""

    return strike


def _stop(role: str) -> Callable[[Stage], str]:
    def strike(stage: Stage) -> str:
        found = _victims(stage, role)[-1:]
        sleep(stage.scenario.delay)
        for pid in found:
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                return ""
            sleep(stage.scenario.length)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            if role == "terminal" and stage.terminal is not None:
                stage.terminal.send_signal(signal.SIGCONT)  # nsenter stops with what it runs
        return f"{role} {found} stopped for {stage.scenario.length:g}s" if found else ""

    return strike


def _agent_and_guard(stage: Stage) -> str:
    found = _victims(stage, "guard")[-1:] + _victims(stage, "agent")[-1:]
    sleep(stage.scenario.delay)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"SIGKILL to the guard and the agent {found}" if found else ""


def _on_lab(name: str, of_host: bool = True, passes: bool = True) -> Callable[[Stage], str]:
    """A fault of the lab, which is undone after the length of the scenario if it passes."""

    def strike(stage: Stage) -> str:
        host = stage.host if of_host else ""
        sleep(stage.scenario.delay)
        stage.there.lab.fault(name, host)
        if passes:
            sleep(stage.scenario.length)
            stage.there.lab.clear(name, host)
        return f"{name} of {host or 'the lab'} for {stage.scenario.length:g}s"

    return strike


def _loss(stage: Stage) -> str:
    """A fifth of all packets of the host is lost, in both directions. (This kernel has no `tc netem`.)"""
    host, lab = stage.host, stage.there.lab
    rules = "add table inet chaos;"
    for hook, side in (("input", "iifname"), ("output", "oifname")):
        rules += f" add chain inet chaos {hook} {{ type filter hook {hook} priority 0; }};"
        rules += f' add rule inet chaos {hook} {side} "eth0" numgen random mod 100 < 20 drop;'
    if lab.run(host, ["nft", rules]).returncode:
        return ""
    sleep(stage.scenario.length)
    lab.run(host, ["nft", "delete", "table", "inet", "chaos"], check=True)
    return f"packet loss of {host} for {stage.scenario.length:g}s"


def _slow_link(stage: Stage) -> str:
    """Packets to the network leave the host at 100 KB/s, delayed by up to 0.4 s; what exceeds that is dropped."""
    host, lab = stage.host, stage.there.lab
    limit = ["rate", "800kbit", "burst", "2kb", "latency", "400ms"]
    if lab.run(host, ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit]).returncode:
        return ""
    sleep(stage.scenario.length)
    lab.run(host, ["tc", "qdisc", "del", "dev", "eth0", "root"], check=True)
    return f"slow link of {host} for {stage.scenario.length:g}s"


def _nothing(stage: Stage) -> str:
    return "nothing"


# ---- how runs end ----------------------------------------------------------------------------------------------------


def _rank_killed(scenario: Scenario) -> tuple[End, ...]:
    ends: tuple[End, ...] = (End("failed", 137, rf"rank {scenario.rank}\b.*SIGKILL", root=True),)
    if scenario.moment is Moment.BEFORE and scenario.launcher in ("torchrun", "srun"):
        ends += (End("failed", None), End("error", 125))
    return ends


def _agent_lost(scenario: Scenario) -> tuple[End, ...]:
    if scenario.moment is Moment.BEFORE:  # nothing, or something, was started
        return (End("error", 125, r"agent|lost|exited|cannot start Python"), End("refused", 3, "error: "))
    return (End("error", 125, r"lost |muster's agent|exited"),)


def _store_lost(scenario: Scenario) -> tuple[End, ...]:
    says = "rendezvous store exited: killed by signal 9"
    return (End("error", 125, says), End("failed", 125, says))  # if a rank has failed before that


def _fork_server_lost(scenario: Scenario) -> tuple[End, ...]:
    if scenario.moment is Moment.WHILE and not scenario.restarts:
        return ()
    return (End("error", 125), End("failed", None))


def _terminal_lost(scenario: Scenario) -> tuple[End, ...]:
    if scenario.place is Place.LOCAL:
        return (End("lost", 125, "muster"),)
    if scenario.place is Place.SSH:
        ends: tuple[End, ...] = (End("interrupted", None, "terminal that started the run was gone"),)
        early = (End("lost", 125), End("refused", None)) if scenario.moment is Moment.BEFORE else ()
        return ends + early
    return ()


def _terminal_stopped(scenario: Scenario) -> tuple[End, ...]:
    if scenario.place is Place.SSH and scenario.length >= LEASE - 1:
        return (End("interrupted", None, "terminal that started the run was gone"),)
    return ()


def _hung_up(scenario: Scenario) -> tuple[End, ...]:
    if scenario.place.detached or scenario.place is Place.SLURM:
        return ()
    # before muster has set up anything, the kernel ends it
    early = (End("refused", -signal.SIGHUP),) if scenario.moment is Moment.BEFORE else ()
    return (End("interrupted", 129, "SIGHUP"), *early)


def _connection_lost(scenario: Scenario) -> tuple[End, ...]:
    if scenario.moment is Moment.BEFORE:
        return (End("refused", 3, "error: "), End("error", 125, "n[12]"))
    return ()


def _launcher_lost(scenario: Scenario) -> tuple[End, ...]:
    return (End("error", 125), End("failed", None))


def _cut_off(scenario: Scenario) -> tuple[End, ...]:
    """A host that is cut off for less than the lease changes nothing, once the run has started."""
    ends: tuple[End, ...] = ()
    if scenario.moment is Moment.BEFORE:
        ends += (End("refused", 3, "error: "), End("error", 125, "n[12]"))
    if scenario.length >= LEASE - 2 or scenario.moment is not Moment.WHILE:
        ends += (End("error", 125, "n[123]"), End("failed", None, "no rank failed by itself|n[123]"))
        ends += (End("interrupted", 129, "terminal that started the run was gone"), End("unknown", None))
    return ends


def _disk_full(scenario: Scenario) -> tuple[End, ...]:
    # only temporary directories are full: what is to start needs them
    return (
        () if scenario.moment is Moment.WHILE else (End("error", 125, "space|full"), End("refused", None, "space|full"))
    )


def _crashed(scenario: Scenario) -> tuple[End, ...]:
    return (End("error", 125, "lost n[123]|n[123]"), End("unknown", 3), End("lost", 125), End("refused", 3, "error: "))


def _of_slurm(scenario: Scenario) -> tuple[End, ...]:
    return (End("error", 125), End("failed", None), End("killed", 137), End("lost", 125), End("unknown", 3))


NETWORK = (*OVER_SSH, Place.SLURM)
IN_SLURM = (Place.SLURM,)

FAULTS: Mapping[str, Fault] = {
    "nothing": Fault(_nothing),
    "rank killed": Fault(_kill("rank"), leads=_rank_killed, certain=True),
    "rank stopped": Fault(_stop("rank")),
    "child killed": Fault(_kill("child")),
    "child stopped": Fault(_stop("child")),
    "fork server killed": Fault(_kill("fork server"), leads=_fork_server_lost, launchers=("fork",)),
    "fork server stopped": Fault(_stop("fork server"), launchers=("fork",)),
    "store killed": Fault(_kill("store"), leads=_store_lost, launchers=("fork",)),
    "store stopped": Fault(_stop("store"), launchers=("fork",)),
    "agent killed": Fault(_kill("agent"), leads=_agent_lost, certain=True),
    "agent stopped": Fault(_stop("agent")),
    "guard killed": Fault(_kill("guard"), leads=_agent_lost),
    "agent and guard killed": Fault(_agent_and_guard, leads=_agent_lost, certain=True, clean=True),
    "controller killed": Fault(_kill("controller"), (Place.LOCAL_DETACHED, *OVER_SSH)),
    "controller stopped": Fault(_stop("controller"), SERVED),
    "terminal killed": Fault(_kill("terminal"), leads=_terminal_lost),
    "terminal stopped": Fault(_stop("terminal"), leads=_terminal_stopped),
    "terminal hung up": Fault(_kill("terminal", signal.SIGHUP), leads=_hung_up),
    "ssh killed": Fault(_kill("ssh", all_of_them=True), (Place.SSH,), leads=_connection_lost),
    "sshd session killed": Fault(_kill("session", all_of_them=True), OVER_SSH, leads=_connection_lost),
    "launcher killed": Fault(_kill("launcher"), leads=_launcher_lost, launchers=("torchrun", "srun")),
    "partition": Fault(_on_lab("partition"), NETWORK, leads=_cut_off),
    "packet loss": Fault(_loss, NETWORK, leads=_cut_off),
    "slow link": Fault(_slow_link, NETWORK, leads=_cut_off),
    "frozen host": Fault(_on_lab("freeze"), NETWORK, leads=_cut_off),
    "sshd down": Fault(_on_lab("drop-ssh"), OVER_SSH, leads=_cut_off),
    "slow names": Fault(_on_lab("slow-dns"), EVERYWHERE),
    "full disk": Fault(_on_lab("full-disk"), EVERYWHERE, leads=_disk_full),
    "stalled disk": Fault(_on_lab("stall"), EVERYWHERE),
    "host crash": Fault(_on_lab("crash", passes=False), OVER_SSH, leads=_crashed, certain=True),
    "slurmctld down": Fault(_on_lab("slurmctld-down", of_host=False), IN_SLURM, leads=_of_slurm),
    "slurmd stopped": Fault(_stop("slurmd"), IN_SLURM, leads=_of_slurm),
    "slurmctld stopped": Fault(_stop("slurmctld"), IN_SLURM, leads=_of_slurm),
    "slurmstepd killed": Fault(_kill("slurmstepd"), IN_SLURM, leads=_of_slurm),
    "srun killed": Fault(_kill("srun"), IN_SLURM, leads=_of_slurm),
    "batch script killed": Fault(_kill("controller"), IN_SLURM, leads=_of_slurm),
}


def at_place(place: Place) -> tuple[str, ...]:
    """Return the faults that are possible at a place."""
    return tuple(name for name, fault in FAULTS.items() if place in fault.places)
