"""Plays a scenario on a lab: start, strike, end, look."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple

from invariants import INVARIANTS, Seen
from lab_cluster import LabCluster
from population import everything, new
from scenarios import Ending, Moment, Place, Scenario, draw
from stage import Stage, sleep
from striking import FAULTS, at_place

from muster.lab import Lab
from muster.lab.spec import SETTLING

BOUND = 150.0
"""Seconds within which a run ends after a fault: many times what it takes, since machines are busy."""

_LEFT = 60.0
"""Seconds within which nothing of the run remains."""

_OWN_END = 90.0
"""Seconds for which a run may take to end by a fault that certainly ends it, before its work is done."""


class Played(NamedTuple):
    """The result of a scenario."""

    seen: Seen
    violations: tuple[str, ...]

    def __str__(self) -> str:
        found = self.seen.outcome or {"state": "lost" if self.seen.began else "refused", "code": self.seen.code}
        words = f"{self.seen.struck or 'missed'}: {found['state']} ({found['code']}) in {self.seen.seconds:.1f}s"
        return f"{self.seen.scenario}\n    {words}" + "".join(f"\n    VIOLATION: {one}" for one in self.violations)


def scenario_of(seed: int, places: tuple[Place, ...]) -> Scenario:
    """Return the scenario of a seed, with a launcher that has the victim."""
    found = draw(seed, places, {place: at_place(place) for place in places})
    fault = FAULTS[found.fault]
    if fault.launchers and found.launcher not in fault.launchers:
        found = found._replace(launcher=fault.launchers[0])
    # the controller is on the other host
    return found._replace(rank=1) if found.fault == "host crash" else found


def _wait(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def play(lab: Lab, folder: Path, scenario: Scenario) -> Played:
    """Play a scenario in a new directory, and check the invariants; nothing of it remains in the lab."""
    folder.mkdir(parents=True)
    there = LabCluster(lab, folder)
    if scenario.place is Place.SLURM:
        _wait(lambda: not lab.run("head", ["squeue", "--noheader"]).stdout.strip(), SETTLING)
    stage = Stage(there, scenario)
    try:
        seen = _seen(stage)
        return Played(seen, tuple(found for check in INVARIANTS for found in check(seen)))
    finally:
        _clear(stage)


def _strike(stage: Stage) -> str:
    """Start the run, wait for the moment, and strike; return what was struck."""
    scenario, fault = stage.scenario, FAULTS[stage.scenario.fault]
    stage.start()
    if scenario.moment is Moment.BEFORE:
        struck = fault.strike(stage)
        stage.watch()
        return struck
    stage.watch()
    _wait(lambda: stage.reached(Moment.WHILE) or stage.over, BOUND)
    if scenario.moment is not Moment.WHILE:
        stage.end()
        _wait(lambda: stage.reached(scenario.moment) or stage.over, BOUND)
    return fault.strike(stage)


def _seen(stage: Stage) -> Seen:
    scenario, fault = stage.scenario, FAULTS[stage.scenario.fault]
    struck = _strike(stage)
    began = time.monotonic()
    if struck and fault.certain and scenario.moment is Moment.WHILE and not scenario.restarts:
        _wait(lambda: stage.over, _OWN_END)
    else:
        sleep(0.5)  # the run goes on for a while
    if scenario.ending is Ending.WORK:
        stage.go.touch()
    over = _wait(lambda: stage.over or _killed_again(stage), BOUND)
    seconds = time.monotonic() - began
    there, terminal = stage.there, stage.terminal or stage.submission
    started = stage.run is not None
    show: dict[str, Any] = {}
    waited, report = None, ""
    if started:
        waited = there.muster("wait", "last", "--timeout", "120").returncode
        told = there.muster("show", "last", "--json")
        show = json.loads(told.stdout) if told.returncode == 0 else {"state": told.stderr}
        report = there.muster("show", "last").stdout
    # Slurm has killed all processes of a job that its killed controller had not saved (seed 50053)
    of_slurm = scenario.place is Place.SLURM and show.get("state") == "lost"
    if fault.clean or of_slurm:
        stage.clean()
    left: list[str] = []

    def gone() -> bool:
        left[:] = new(stage.before, everything(stage.living()))
        return not left

    _wait(gone, _LEFT)
    return Seen(
        scenario=scenario,
        struck=struck,
        seconds=seconds,
        bound=BOUND,
        over=over,
        code=terminal.poll() if terminal is not None and not stage.terminal_struck else None,
        said=stage.said(),
        began=started,
        outcome=stage.outcome(),
        show=show,
        report=report,
        waited=waited,
        own=stage.written(),
        logs=stage.log(),
        left=left,
    )


def _killed_again(stage: Stage) -> bool:
    """Run `muster kill` again if it failed, as it says; return False."""
    if stage.killed is not None and stage.killed.poll() not in (None, 0):
        stage.killed = stage.there.start("kill", "last")
    return False


def _clear(stage: Stage) -> None:
    """End what is left, so that the next scenario begins with nothing."""
    stage.there.lab.clear()
    if stage.scenario.place is Place.SLURM:
        stage.there.lab.run("head", ["scancel", "--user=root"])
    for one in stage.ours():
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGCONT)
            os.kill(one.pid, signal.SIGKILL)
    for process in stage.there.started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
    _wait(lambda: not stage.ours(), 20)
    if stage.there.home.parent != stage.folder:
        shutil.rmtree(stage.there.home, ignore_errors=True)
    living = stage.living()
    for host, path in everything(living).files - stage.before.files:
        target = f"/proc/{living[host]}/root{path}"
        if os.path.isdir(target):
            shutil.rmtree(target, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(target)
