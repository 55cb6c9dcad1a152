"""A command's connection to a controller: questions, the end of the run, files; it breaks and is made again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sockets import Host, arrives, says, stays

from muster.client import client as module
from muster.client import follow
from muster.client.client import Client, _ask_agent
from muster.client.follow import Follower, Mirror, wait
from muster.client.remote import sizes_of
from muster.client.status import RunStatus
from muster.core.results import RunResult, RunState
from muster.protocol.frames import VERSION
from muster.rundir.run import Run
from muster.ui.text import outcome_as_json

ID = "20261127-101112-0123456789abc-train"
ENDED = RunResult(RunState.FAILED, 3, 2.0)


ANSWERS = [arrives, "state", says("answer", version=VERSION, phase="running")]
OVER = says("finished", outcome=outcome_as_json(ENDED))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host()
    monkeypatch.setattr(module, "connect", made.connect)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    monkeypatch.setattr(follow, "_PAUSE", 0.0)
    yield made
    made.end()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose run directory is elsewhere."""
    path = tmp_path / "runs" / ID
    path.mkdir(parents=True, mode=0o700)
    record = {"id": ID, "name": "", "time": 1000.0, "ranks": 2, "host": "n1", "boot": "b", "there": "/there"}
    record.update(served={"name": "n1", "user": ""}, shared=False)
    (path / "job.json").write_text(json.dumps(record))
    return Run(path)


def log(run: Run, rank: int, attempt: int = 0) -> bytes:
    return run.log(attempt, rank, "out").read_bytes()


def test_all_questions_go_over_one_connection(host: Host, run: Run) -> None:
    host.scripts = [[*ANSWERS, "kill", says("answer"), "usage", says("unknown", what="usage", version=9), stays]]
    with Client(run) as client:
        assert "running" == client.ask("state")["phase"]
        assert "answer" == client.ask("kill", by="ada")["kind"]
        assert {"refused": "it does not know `usage`"} == client.ask("usage")
    assert 1 == len(host.links)
    assert ["state", "kill", "usage"] == [fields["kind"] for fields in host.heard]
    assert "ada" == host.heard[1]["by"]


def test_clients_learn_why_there_is_no_answer(host: Host, run: Run) -> None:
    gone = [arrives, "state", says("no_controller", there=True), stays]
    refused = [lambda link: link.complain("ssh: connect to host n1 port 22: Connection refused\n")]
    old = [arrives, "state", says("answer", version=2), stays]
    host.scripts = [gone, refused, old, *[[arrives, "state"]] * 5, [arrives, stays]]
    with Client(run) as client:
        assert {"gone": True, "there": True} == client.ask("state")
        assert {"silent": "ssh: connect to host n1 port 22: Connection refused"} == client.ask("state")
        assert "its protocol version is 2" in client.ask("kill")["refused"]
        client.close()
        assert "the controller did not answer (5 attempts)" in client.ask("state")["silent"]
        assert {"silent": "no answer within 0.1s"} == client.ask("state", 0.1)
        assert not client.connected, "what is answered later would be taken for the answer to another question"


def test_an_agent_that_hangs_up_gives_no_answer(run: Run) -> None:
    """As at the end of a run, before the request or after it."""
    here, there = socket.socketpair()
    with here:
        there.close()
        assert {} == _ask_agent(run, here, "inspect")


def test_a_controller_that_has_just_restarted_is_asked_again(host: Host, run: Run) -> None:
    host.scripts = [[arrives, "state"], [*ANSWERS, stays]]
    with Client(run) as client:
        assert "running" == client.ask("state")["phase"]
    assert 2 == len(host.links)


def test_the_end_and_the_files_come_over_the_same_connection(host: Host, run: Run) -> None:
    """No question is sent while the controller reports by itself."""
    outcome = json.dumps(outcome_as_json(ENDED)).encode()
    host.scripts = [
        [
            *ANSWERS,
            "attach",
            says("run", id=ID, phase="running", plan={}, version=VERSION),
            OVER,
            "files",
            says("file", b"0123", name="attempt_0/rank_00000.out", offset=0, whole=False),
            says("file", b"x", name="../../elsewhere", offset=0, whole=False),
            says("file", outcome, name="outcome.json", offset=0, whole=True),
            says("done"),
            stays,
        ]
    ]
    with Client(run) as client:
        follower = Follower(run, client)
        waited = wait(follower)
        assert (True, RunStatus(RunState.FAILED, outcome=ENDED)) == (waited.in_time, waited.status)
        assert waited.status == follower.look()
    assert ["state", "attach", "files"] == [fields["kind"] for fields in host.heard]
    watch, files = host.heard[1:]
    assert ([], False) == (watch["want"], watch["owner"])
    assert files["last"] is True and "job.json" in files["have"]
    assert (b"0123", ENDED) == (log(run, 0), run.outcome)
    assert ["runs"] == os.listdir(run.path.parents[1])


def test_links_that_lead_nowhere_are_no_files_of_a_run(run: Run) -> None:
    (run.path / "loop").symlink_to("loop")
    (run.path / "gone").symlink_to("nothing")
    assert {"job.json": (run.path / "job.json").stat().st_size} == sizes_of(run)


def test_a_rewritten_file_is_never_incomplete(host: Host, run: Run) -> None:
    """Several commands copy the files of a run here at once, and all of them read outcome.json meanwhile."""
    outcome = json.dumps(outcome_as_json(ENDED)).encode()
    half = says("file", outcome[:10], name="outcome.json", offset=0, whole=True)
    rest = says("file", outcome[10:], name="outcome.json", offset=10, whole=True)
    other = says("file", b"{}", name="attempt_0/rank_00000.error.json", offset=0, whole=True)
    host.scripts = [
        [arrives, "files", half],
        [arrives, "files", half, rest, other, says("done"), stays],
        [arrives, "files", half],
    ]
    for brought, found in ((False, None), (True, ENDED), (False, ENDED)):
        with Client(run) as client:
            assert brought is client.sync_files()
        assert found == run.outcome
    assert b"{}" == run.log(0, 0, "error.json").read_bytes()
    assert ["attempt_0", "job.json", "outcome.json"] == sorted(os.listdir(run.path))


def test_an_end_whose_files_do_not_come_is_known_all_the_same(host: Host, run: Run) -> None:
    host.scripts = [[*ANSWERS, "attach", OVER, "files"]]
    with Client(run) as client:
        assert ENDED == wait(Follower(run, client)).status.outcome
    assert ENDED == run.outcome


def piece(rank: int, data: bytes, offset: int, attempt: int = 0) -> Any:
    return says("output", data, node=0, rank=rank, stream="out", attempt=attempt, offset=offset)


def test_a_connection_that_breaks_is_made_again_and_nothing_comes_twice(host: Host, run: Run) -> None:
    """Missing output is reported once, by the length of each log."""
    said: list[str] = []
    host.scripts = [
        [*ANSWERS, "attach", piece(0, b"one\n", 0), piece(1, b"two\n", 0), "credit"],
        [lambda link: link.complain("ssh: timed out\n")],
        [
            *ANSWERS,
            "attach",
            piece(0, b"three\n", 4),
            piece(1, b"again\n", 0, 1),
            "credit",
            OVER,
            "files",
            says("done"),
        ],
    ]
    with Client(run) as client:
        mirror = Mirror(run, [0, 1])
        follower = Follower(run, client, said.append, mirror)
        assert ENDED == wait(follower).status.outcome
        assert [(0, 4), (1, 4), (0, 10)] == [(grown.rank, grown.upto) for grown in mirror.take(0)]
        assert [(1, 6)] == [(grown.rank, grown.upto) for grown in mirror.take(1)]
    assert (b"one\nthree\n", b"two\n", b"again\n") == (log(run, 0), log(run, 1), log(run, 1, 1))
    first, second = [fields for fields in host.heard if fields["kind"] == "attach"]
    assert ({}, [0, 1]) == (first["offsets"], first["want"])
    assert {"0/0.out": 4, "0/1.out": 4} == second["offsets"]
    assert ["no answer from its controller on n1: ssh: timed out"] == said


@pytest.mark.parametrize(
    "wrong",
    [
        says("finished", outcome={"state": "nonsense"}),
        says("finished"),
        says("output", b"x", node=0, rank=0, stream="stack", attempt=0, offset=0),
        says("output", b"x", node=0, rank=-1, stream="out", attempt=0, offset=0),
        says("file", b"x", name=7, offset=0, whole=True),
        lambda link: link.say_raw(b"GET / HTTP/1.0\r\n\r\n"),
    ],
)
def test_unknown_data_end_the_connection_and_nothing_else(host: Host, run: Run, wrong: Any) -> None:
    host.scripts = [
        [*ANSWERS, "attach", wrong, stays],
        [arrives, "state", says("no_controller"), "files", says("done"), stays],
    ]
    with Client(run) as client:
        found = wait(Follower(run, client, mirror=Mirror(run, [0]))).status
    assert RunState.LOST is found.state
    assert ["job.json", "answered"] == sorted(os.listdir(run.path), reverse=True)


def test_reports_of_an_older_controller_have_the_names_of_its_version(host: Host, run: Run) -> None:
    answer = says("answer", version=4, phase="running")
    over = says("over", outcome=outcome_as_json(ENDED))
    host.scripts = [[arrives, "state", answer, "watch", piece(0, b"one\n", 0), "taken", over, "files", says("done")]]
    with Client(run) as client:
        assert ENDED == wait(Follower(run, client, mirror=Mirror(run, [0]))).status.outcome
    assert b"one\n" == log(run, 0)


def test_an_incompatible_controller_is_polled_over_one_connection(host: Host, run: Run) -> None:
    """It is too old; questions that all versions know show whether it is there."""
    states = ["state", says("answer", version=2)]
    host.scripts = [[arrives, *states * 4], [arrives, "state", says("no_controller"), "files", says("done"), stays]]
    with Client(run) as client:
        assert RunState.LOST is wait(Follower(run, client)).status.state
    assert 2 == len(host.links)
    assert "attach" not in [fields["kind"] for fields in host.heard]


def test_each_controller_of_a_job_that_is_requeued_is_found_by_what_it_leaves(
    host: Host, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an attempt is not the end of the run; only the scheduler knows whether another follows, and it is
    asked only without a controller."""
    job = json.loads((run.path / "job.json").read_text())
    job.update(shared=True, scheduler={"name": "slurm", "job": "17", "requeue": 1})
    (run.path / "job.json").write_text(json.dumps(job))
    asked: list[RunState] = []

    def told(run: Run, client: Client) -> RunStatus:
        """First there is no controller yet, then one of the first attempt; it ends, waits, and there is the next."""
        asked.append(RunState.PENDING if len(asked) in (0, 3) else RunState.RUNNING)
        if len(asked) in (3, 6):
            (run.path / "controller.json").write_text(json.dumps({"began": len(asked)}))
        return RunStatus(asked[-1])

    monkeypatch.setattr(follow, "reconcile", told)
    done = says("finished", outcome=outcome_as_json(RunResult(RunState.SUCCEEDED, 0, 2.0)))
    host.scripts = [[*ANSWERS, "attach", OVER], [*ANSWERS, "attach", done]]
    with Client(run) as client:
        assert RunState.SUCCEEDED is wait(Follower(run, client)).status.state
    assert 2 == len(host.links), "the controller that has told of its end is not asked again"
    assert 6 == len(asked)


def test_a_controller_in_a_job_that_cannot_be_reached_is_not_tried_all_the_time(
    host: Host, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scheduler is asked meanwhile."""
    job = json.loads((run.path / "job.json").read_text())
    (run.path / "job.json").write_text(json.dumps({**job, "shared": True, "scheduler": {"name": "slurm", "job": "17"}}))
    (run.path / "controller.json").write_text("{}")
    asked: list[int] = []

    def told(run: Run, client: Client) -> RunStatus:
        asked.append(len(host.links))
        return RunStatus(RunState.RUNNING) if len(asked) < 20 else RunStatus(RunState.FAILED, outcome=ENDED)

    monkeypatch.setattr(follow, "reconcile", told)
    monkeypatch.setattr(follow, "_LOOK", 3600.0)
    host.scripts = [[lambda link: link.complain("srun: error: Job 17 is completing\n")]]
    with Client(run) as client:
        follower = Follower(run, client)
        while follower.goes_on(follower.look()):
            pass
    assert [0, *[1] * 19] == asked


def test_waiting_ends_when_its_time_is_over(host: Host, run: Run) -> None:
    host.scripts = [[*ANSWERS, "attach", stays]]
    with Client(run) as client:
        waited = wait(Follower(run, client), 0.05)
    assert (False, RunState.RUNNING) == (waited.in_time, waited.status.state)
