"""The phases of the start of a run, as values."""

from __future__ import annotations

from typing import Any

import pytest

from muster.ui.summary import Step, steps_of

EVENTS: list[dict[str, Any]] = [
    {"event": "hello", "t": 0.05},
    {"event": "warm", "fork": True, "times": {"begun": 0.1, "python": 0.125, "imported": 1.0}, "t": 1.125},
    {"event": "do start", "attempt": 0, "port": 29500},
    {"event": "started", "t": 1.25, "attempt": 0},
    {"event": "output began", "t": 2.0, "attempt": 0, "rank": 1},
    {"event": "output began", "t": 2.5, "attempt": 0, "rank": 0},
]

RESTARTED: list[dict[str, Any]] = [
    {"event": "do listen", "attempt": 1},
    {"event": "do start", "attempt": 1, "port": 29501},
    {"event": "started", "t": 3600.0, "attempt": 1},
    {"event": "output began", "t": 3601.0, "attempt": 1, "rank": 0},
    {"event": "output began", "t": 3602.0, "attempt": 1, "rank": 1},
]


def test_the_steps_of_a_start_follow_one_another() -> None:
    """Each lasts from the end of the previous one."""
    assert steps_of(EVENTS) == [
        (Step.MUSTER, 0.05),
        (Step.PROBE, 0.05),
        (Step.PYTHON, pytest.approx(0.025)),
        (Step.IMPORT, 0.875),
        (Step.PREPARE_FORK, 0.125),
        (Step.START, 0.125),
        (Step.FIRST_OUTPUT, 0.75),
        (Step.LAST_OUTPUT, 0.5),
    ]


def test_a_restart_is_not_part_of_the_start() -> None:
    """The phases are those of the first attempt, however many followed."""
    assert steps_of(EVENTS + RESTARTED) == steps_of(EVENTS)


def test_without_events_there_are_no_steps() -> None:
    assert steps_of([]) == []


def test_what_ranks_write_as_they_fail_is_no_part_of_the_start() -> None:
    """Of two ranks only rank 1 prints; a minute later both have a traceback, as one has lost its peer."""
    silent = [event for event in EVENTS if not (event["event"] == "output began" and event["rank"] == 0)]
    failing = [
        {"event": "ended", "t": 60.0, "attempt": 0, "rank": 1, "code": 1},
        {"event": "output began", "t": 60.1, "attempt": 0, "rank": 0},
    ]
    steps = dict(steps_of(silent + failing))
    assert Step.LAST_OUTPUT not in steps and Step.FIRST_OUTPUT in steps
    assert sum(steps.values()) == 2.0
