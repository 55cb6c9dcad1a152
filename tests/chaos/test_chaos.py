"""A few fixed scenarios of `make chaos`: whatever dies, the run ends as documented, and nothing is lost or left."""

from __future__ import annotations

from pathlib import Path

import pytest
from playing import play, scenario_of
from scenarios import Ending, Moment, Place, Scenario
from striking import FAULTS, at_place

from muster.lab import Lab


def scenario(
    place: Place,
    launcher: str,
    job: str,
    fault: str,
    moment: Moment = Moment.WHILE,
    ending: Ending = Ending.WORK,
    rank: int = 1,
) -> Scenario:
    return Scenario(0, place, launcher, job, fault, moment, ending, rank, 0.0, 0.5, 0)


SCENARIOS = (
    scenario(Place.LOCAL, "fork", "torch", "rank killed"),
    scenario(Place.LOCAL, "exec", "family", "agent killed"),
    scenario(Place.LOCAL, "exec", "talks", "agent and guard killed"),
    scenario(Place.LOCAL, "exec", "family", "terminal killed"),
    scenario(Place.LOCAL, "fork", "torch", "store killed"),
    scenario(Place.LOCAL, "fork", "slow end", "fork server killed", Moment.END, Ending.INTERRUPT),
    scenario(Place.LOCAL, "exec", "talks", "agent stopped"),
    scenario(Place.LOCAL, "exec", "fails", "terminal stopped", Moment.AFTER),
    scenario(Place.LOCAL_DETACHED, "exec", "plain", "controller killed"),
    scenario(Place.SSH, "exec", "family", "agent killed"),
    scenario(Place.SSH, "exec", "talks", "sshd session killed", rank=0),
    scenario(Place.SSH, "exec", "talks", "controller killed"),
)


@pytest.mark.parametrize("which", SCENARIOS, ids=lambda one: f"{one.place.value} {one.launcher} {one.fault}")
def test_a_run_that_a_fault_strikes(lab: Lab, tmp_path: Path, which: Scenario) -> None:
    played = play(lab, tmp_path / "chaos", which)
    assert played.seen.struck, f"its victim was not there: {played}"
    assert not played.violations, str(played)


def test_a_seed_is_a_scenario() -> None:
    places = tuple(Place)
    assert [scenario_of(seed, places) for seed in range(500)] == [scenario_of(seed, places) for seed in range(500)]
    drawn = {(one.place, one.fault) for one in (scenario_of(seed, places) for seed in range(3000))}
    assert {(place, fault) for place in places for fault in at_place(place)} == drawn
    assert {fault for _, fault in drawn} == set(FAULTS)
