"""Which agent opens the port of the first attempt, and when: the supervisor decides it, once, whatever dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.controller.detached import DetachedController
from muster.core.controller_config import ControllerConfig, NodeRecord
from muster.core.layout import layout
from muster.core.model import Host, Job, Program
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import FrameDecoder
from muster.rundir.run import Run

RUN_ID = "20261127-000000-abcdef"
PLAN = make_plan(
    Job(Program("command", ("true",)), "exec", "python3", "--python", "/"), layout([(Host("n1"), 1)]), RUN_ID
)

CONFIGURED = {"event": "configured", "t": 0.1}
OLDER = [
    {"event": "state", "t": 0.1, "node": 0, "started": -1, "listened": -1},
    {"event": "ready", "t": 0.8, "node": 0},
    {"event": "listening", "t": 0.9, "attempt": 0, "port": 29500},
    {"event": "do start", "attempt": 0, "port": 29500},
]
"""Events of version 0.1, which has none for that."""
FAILED_ONCE = [
    {"event": "ended", "t": 2.0, "rank": 0, "attempt": 0, "code": 7, "signal": None},
    {"event": "swept", "t": 2.1, "node": 0, "ended": [], "left": []},
]


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as loop:
        yield loop


@pytest.mark.parametrize(
    "events, listened, first, asked_for, decides",
    [
        ([], -1, 0, [0], True),
        ([], -1, 2, [2], True),  # two attempts were made by controllers whose job has ended
        ([CONFIGURED], -1, 0, [0], False),  # it was killed before the agent received it
        ([CONFIGURED], 0, 0, [], False),
        (OLDER, 0, 0, [], False),
        (OLDER[:2], 0, 0, [], False),
        (OLDER[:2], -1, 0, [0], True),
        ([*OLDER, *FAILED_ONCE], 0, 0, [1], False),
        ([*OLDER, *FAILED_ONCE], 1, 0, [], False),
    ],
)
def test_the_port_of_an_attempt_is_asked_for_once(
    loop: EventLoop,
    tmp_path: Path,
    events: list[dict[str, Any]],
    listened: int,
    first: int,
    asked_for: list[int],
    decides: bool,
) -> None:
    """By the first controller of a run, and by one that restarts with the events of an earlier one."""
    plan = PLAN._replace(job=PLAN.job._replace(max_restarts=1))
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    config = ControllerConfig(time.monotonic(), "10.0.0.1", 0.0, (NodeRecord(str(tmp_path)),), first_attempt=first)
    served = DetachedController(loop, plan, Run(tmp_path), config, "secret")
    node = served.far[0]
    served.receive(node, [({"kind": "agent_state", "started": -1, "listened": listened, "t": time.monotonic()}, b"")])
    sent = [fields for frame in node.channel._unacked for fields, _ in FrameDecoder().feed(frame)]
    listens = [fields for fields in sent if fields["kind"] == "open_store"]
    assert [{"kind": "open_store", "attempt": attempt, "host": "10.0.0.1"} for attempt in asked_for] == listens
    noted = [json.loads(line)["event"] for line in served.records[len(events) :]]
    assert decides == ("configured" in noted) == ("do listen" in noted)
