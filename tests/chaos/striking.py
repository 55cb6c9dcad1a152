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
}


def at_place(place: Place) -> tuple[str, ...]:
    """Return the faults that are possible at a place."""
    return tuple(name for name, fault in FAULTS.items() if place in fault.places)
