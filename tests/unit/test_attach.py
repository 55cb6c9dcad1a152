"""A terminal attached to a run elsewhere: what it shows, and what it sends to the controller."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sockets import Host, arrives, says, stays

from muster.client import attach
from muster.client.attach import AttachedClient
from muster.core.layout import layout
from muster.core.model import Host as Machine
from muster.core.model import Job, Plan, Program, as_json
from muster.core.results import RunResult, RunState
from muster.launchers import make_plan
from muster.linux.eventloop import EventLoop
from muster.linux.signals import CapturedSignals
from muster.protocol.frames import VERSION
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

ID = "20261127-101112-0123456789abc-train"
ENDED = RunResult(RunState.FAILED, 3, 2.0)
JOB = Job(Program("command", ("true",)), "exec", "python3", "--python", "/")
PLAN = make_plan(JOB, layout([(Machine("n1"), 2)]), ID)
RUN = says("run", id=ID, phase="running", plan=as_json(PLAN), version=VERSION)
OVER = says("finished", outcome=outcome_as_json(ENDED))
GREETED = [arrives, "state", says("answer", version=VERSION), "attach"]
"""First message of each client that does not know the version of the controller yet."""


class Screen:
    """A view that records what it is to show."""

    def __init__(self) -> None:
        self.wants: Any = True
        self.put: Callable[[int, bytes], None] = lambda fd, data: None
        self.shown: list[tuple[int, str, bytes]] = []
        self.said: list[str] = []
        self.began: list[Any] = []
        self.finished: list[RunResult] = []

    def begin(self, facts: Mapping[str, Any]) -> None:
        self.began.append(facts)

    def output(self, rank: int, stream: str, data: bytes) -> None:
        self.shown.append((rank, stream, data))

    def pause(self) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)

    def event(self, event: Mapping[str, Any]) -> None:
        pass

    def finish(self, outcome: RunResult) -> None:
        self.finished.append(outcome)


class Terminal:
    """A terminal that attaches to a host, with its own view and signals."""

    def __init__(self, host: Host) -> None:
        self.host, self.screen = host, Screen()
        self.client: AttachedClient

    def attach(self, *scripts: list[Any], owner: bool = False, keep: Run | None = None) -> RunResult | None:
        """Attach to a host with this script, until the end."""
        self.host.scripts = list(scripts)
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        with EventLoop() as loop, CapturedSignals(loop, numbers) as signals:
            self.client = AttachedClient(
                loop, signals, "n1", ID, self.host.connect, self._show, owner, patience=20.0, keep=keep
            )
            return self.client.go()

    def _show(self, plan: Plan, run_id: str) -> Screen:
        assert (PLAN, ID) == (plan, run_id)
        return self.screen

    def heard(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of this kind that the host has received."""
        return [fields for fields in self.host.heard if fields["kind"] == kind]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setattr(attach, "_PAUSE", 0.0)
    host = Host()
    yield Terminal(host)
    host.end()


def event(number: int, **fields: Any) -> Any:
    return says("event", json.dumps(fields).encode(), number=number)


def piece(rank: int, data: bytes, offset: int, node: int = 0) -> Any:
    return says("output", data, node=node, rank=rank, stream="out", attempt=0, offset=offset)


def test_output_that_was_received_is_not_sent_again_after_a_reconnect(terminal: Terminal, tmp_path: Path) -> None:
    """The local run directory gets the same, once."""
    (path := tmp_path / ID).mkdir()
    begin, words = event(1, event="begin", facts={"python": "3"}), event(2, event="say", text="n2 is back")
    ended = terminal.attach(
        [*GREETED, RUN, begin, piece(0, b"one\n", 0), piece(1, b"uno\n", 0), "credit"],
        [lambda link: link.complain("ssh: timed out\n")],
        [arrives, "attach", RUN, begin, words, piece(0, b"two\n", 4), OVER, stays],
        keep=Run(path),
    )
    screen = terminal.screen
    assert (ENDED, [ENDED]) == (ended, screen.finished)
    assert [(0, "out", b"one\n"), (1, "out", b"uno\n"), (0, "out", b"two\n")] == screen.shown
    assert [{"python": "3"}] == screen.began
    assert ["connection to n1 lost; reconnecting for up to 20s", "reconnected after 0s", "n2 is back"] == [
        text for text in screen.said if "cannot reach" not in text
    ]
    first, second = terminal.heard("attach")
    assert ({}, 0, False) == (first["offsets"], first["events"], first["owner"])
    assert ({"0/0.out": 4, "0/1.out": 4}, 1) == (second["offsets"], second["events"])
    assert b"one\ntwo\n" == (path / "attempt_0" / "rank_00000.out").read_bytes()
    assert 2 == (path / "events.jsonl").read_text().count("\n")
    assert ENDED == Run(path).outcome


def test_output_may_be_missing_where_the_connection_broke(terminal: Terminal) -> None:
    terminal.attach([*GREETED, RUN], [arrives, "attach", RUN, OVER, stays])
    assert [
        f"warning: cannot reach n1: output may be missing here; `muster logs {ID}` shows all of it"
    ] == terminal.screen.said


@pytest.mark.parametrize("complete", [True, False])
def test_output_may_be_missing_where_not_all_was_sent(terminal: Terminal, complete: bool) -> None:
    """An agent was killed, or somebody did not want to wait for the rest."""
    over = says("finished", outcome=outcome_as_json(ENDED), complete=complete)
    assert ENDED == terminal.attach([*GREETED, RUN, over, stays])
    assert complete != any("output may be missing here" in text for text in terminal.screen.said)


def test_what_was_shown_makes_room_for_more(terminal: Terminal) -> None:
    terminal.attach([*GREETED, RUN, piece(0, b"12345", 0, node=1), "credit", OVER, stays])
    assert [(1, 5)] == [(taken["node"], taken["count"]) for taken in terminal.heard("credit")]


def test_without_a_controller_there_is_nothing_to_watch(terminal: Terminal) -> None:
    assert terminal.attach([arrives, says("no_controller", there=True), stays]) is None
    assert terminal.client.gone and not terminal.client.left


@pytest.mark.parametrize(
    "wrong",
    [
        says("run", id=ID, phase="running", plan=["in another form"], version=VERSION),
        says("finished", outcome={"state": "nonsense"}),
        says("event", b"nonsense", number=1),
        says("output", b"x", node=0, rank=0, stream="stack", attempt=0, offset=0),
        says("output", b"x", node=0, rank=-1, stream="out", attempt=0, offset=0),
    ],
)
def test_unknown_data_are_neither_shown_nor_kept(terminal: Terminal, tmp_path: Path, wrong: Any) -> None:
    (path := tmp_path / ID).mkdir()
    nothing_shown = terminal.attach([*GREETED, RUN, wrong, piece(0, b"later", 0), stays], keep=Run(path))
    assert nothing_shown is None and terminal.client.gone
    assert ["error: "] == [text[:7] for text in terminal.screen.said]
    assert [] == terminal.screen.shown
    assert [] == os.listdir(path)


def test_unknown_messages_of_a_newer_controller_are_skipped(terminal: Terminal) -> None:
    assert ENDED == terminal.attach([*GREETED, RUN, says("weather", rain=True), OVER, stays])
    assert ["n1: skipped a message of unknown kind: 'weather'"] == terminal.screen.said


def test_a_newer_incompatible_controller_is_reported_with_a_hint(
    terminal: Terminal, capfd: pytest.CaptureFixture[str]
) -> None:
    unknown = says("unknown", what="attach", version=VERSION + 1)
    assert terminal.attach([*GREETED, unknown, stays]) is None
    why = f"its protocol version is {VERSION + 1}, which has no `attach`\nhint: use the version of muster"
    assert terminal.client.gone and why in capfd.readouterr().err


@pytest.mark.parametrize("version", [{}, {"version": 4}], ids=["3", "4"])
def test_an_older_controller_is_handled_by_its_version(terminal: Terminal, version: dict[str, Any]) -> None:
    """Version 3 sends no version."""
    answer = says("answer", phase="running", **version)
    run = says("run", id=ID, phase="running", plan=as_json(PLAN), **version)
    signals = [interrupt(signal.SIGUSR1), "pass", interrupt(signal.SIGINT), "asked"]
    over = says("over", outcome=outcome_as_json(ENDED))
    script = [arrives, "state", answer, "watch", run, piece(0, b"one\n", 0), "taken", *signals, over, stays]
    assert ENDED == terminal.attach(script, owner=True)
    assert [(0, "out", b"one\n")] == terminal.screen.shown
    assert ["state", "watch", "taken", "pass", "asked"] == [fields["kind"] for fields in terminal.host.heard]


def interrupt(number: int) -> Any:
    return lambda link: os.kill(os.getpid(), number)


def test_clients_that_do_not_own_the_run_detach_by_ctrl_c(terminal: Terminal) -> None:
    assert terminal.attach([*GREETED, RUN, interrupt(signal.SIGINT), stays]) is None
    assert terminal.client.left and not terminal.heard("stop")


def test_ctrl_c_of_the_owner_and_other_signals_reach_the_run(terminal: Terminal) -> None:
    steps = [interrupt(signal.SIGUSR1), "forward_signal", interrupt(signal.SIGINT), "stop", OVER, stays]
    assert ENDED == terminal.attach([*GREETED, RUN, *steps], owner=True)
    assert [signal.SIGINT] == [stop["number"] for stop in terminal.heard("stop")]
    assert [signal.SIGUSR1] == [passed["number"] for passed in terminal.heard("forward_signal")]
    assert terminal.heard("attach")[0]["owner"]


def test_ctrl_c_is_sent_again_after_a_reconnect(terminal: Terminal) -> None:
    """The controller may have been killed before it had recorded it; a new one counts those that it knows."""
    first = [*GREETED, RUN, interrupt(signal.SIGINT), "stop", lambda link: link.complain("ssh: timed out\n")]
    assert ENDED == terminal.attach(first, [arrives, "attach", RUN, OVER, stays], owner=True)
    assert [None, [signal.SIGINT]] == [attach.get("stops") for attach in terminal.heard("attach")]
    assert 1 == len(terminal.heard("stop"))
