"""Commands work with controllers of other versions: a run keeps its own muster.pyz, whatever is upgraded meanwhile."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from muster.client.remote import Way
from muster.core.model import as_json
from muster.protocol.frames import VERSION, FrameDecoder, encode_frame
from muster.protocol.local_sockets import SUPERVISOR, Sockets, keep, new_token

HERE = os.uname().nodename
OLDER = Path(__file__).parents[1] / "unit" / "older"
"""Files of runs as the version before has written them."""


class Controller:
    """A fake controller of another version on the socket of a real run's controller; `answers` has its answers."""

    def __init__(self, home: Path, run_id: str, answers: Callable[[dict[str, Any]], list[bytes]]):
        self.run, self.answers, self.heard = home / "runs" / run_id, answers, list[dict[str, Any]]()
        self.run.mkdir(parents=True, mode=0o700)
        self.plan = json.loads((OLDER / "detached" / "plan.json").read_text())
        record: dict[str, Any] = {
            "id": run_id,
            "name": "",
            "argv": ["muster", "run"],
            "cwd": "/",
            "started": "2026-11-27 10:11:12",
        }
        record.update(time=time.time(), ranks=2, pid=0, pid_started="", host=HERE, boot="x", there=str(self.run))
        self.write("job.json", {**record, "served": {"name": HERE, "user": ""}, "shared": True})
        self.write("plan.json", self.plan)
        ways = home / "ways"
        ways.mkdir(mode=0o700, exist_ok=True)
        (ways / f"{run_id}.json").write_text(json.dumps(as_json(Way("local"))))
        token = new_token()
        keep(str(self.run), token)
        self.listener = Sockets(run_id, token).listen(SUPERVISOR)
        threading.Thread(target=self.serve, daemon=True).start()

    def write(self, name: str, data: Any) -> None:
        (self.run / name).write_text(json.dumps(data))

    def serve(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                link, _ = self.listener.accept()
                threading.Thread(target=self.talk, args=(link,), daemon=True).start()

    def talk(self, link: socket.socket) -> None:
        frames = FrameDecoder()
        with link, suppress(OSError):
            while data := link.recv(1 << 16):
                for fields, _ in frames.feed(data):
                    self.heard.append(fields)
                    for frame in self.answers(fields):
                        link.sendall(frame)

    def end(self) -> dict[str, Any]:
        """End the run, and return its result."""
        outcome: dict[str, Any] = {"state": "killed", "code": 137, "duration": 1.5, "attempt": 0}
        outcome.update(reason="it was ended by ada", first=None, ends=[], left=[], unlogged=[])
        self.write("outcome.json", outcome)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        return outcome


@pytest.fixture
def speaks(muster: Any) -> Iterator[Callable[..., Controller]]:
    made: list[Controller] = []

    def make(answers: Callable[[dict[str, Any]], list[bytes]]) -> Controller:
        made.append(Controller(muster.home, f"20261127-10111{len(made)}-0123456789abc-old", answers))
        return made[-1]

    yield make
    for controller in made:
        with suppress(OSError):
            controller.end()


def test_an_older_controller_gets_messages_of_its_version(muster: Any, speaks: Any) -> None:
    """Version 3: it does not report a version, does not know any, and ignores unknown messages."""

    def answers(said: dict[str, Any]) -> list[bytes]:
        kind, old = said["kind"], controllers[-1]
        if kind == "state":
            return [encode_frame("answer", phase="running", attempt=0, alive=[0], parted=[])]
        if kind == "stacks":
            return [encode_frame("answer", texts={"0": "File train.py, line 3"}, mute={}, missing=[])]
        if kind == "usage":
            use = {"node": 0, "pid": 7, "memory": 1 << 20, "cpu": 1.0, "children": 0, "children_memory": 0}
            return [encode_frame("answer", ranks={"0": use}, missing=[])]
        if kind == "watch":
            written = encode_frame("output", b"hello\n", node=0, rank=0, stream="out", attempt=0, offset=0)
            run = encode_frame("run", id=old.run.name, phase="running", plan=old.plan)
            return [run, written, encode_frame("over", outcome=old.end())]
        if kind == "kill":
            old.end()
            return [encode_frame("answer")]
        return []

    controllers = [speaks(answers)]
    assert ["running"] == [run["state"] for run in json.loads(muster("ps", "--json").stdout)]
    stacks = muster("stacks", "last")
    assert (0, True) == (stacks.returncode, "File train.py, line 3" in stacks.stdout), stacks.stderr
    attached = muster("attach", "last")
    assert (137, "[0] hello\n") == (attached.returncode, attached.stdout), attached.stderr
    heard = controllers[0].heard
    assert {"state", "stacks", "watch"} <= {said["kind"] for said in heard}
    assert all(said["version"] == VERSION for said in heard if said["kind"] in ("state", "watch"))
    controllers.append(speaks(answers))
    killed = muster("kill", "last")
    assert (0, True) == (killed.returncode, "terminated" in killed.stdout), killed.stderr


@pytest.mark.parametrize("version", [2, VERSION + 5])
def test_an_incompatible_controller_is_reported_with_a_hint(muster: Any, speaks: Any, version: int) -> None:
    """It is too old; or it is newer, and no longer knows the request."""

    def answers(said: dict[str, Any]) -> list[bytes]:
        if said["kind"] == "state":
            return [encode_frame("answer", version=version)]
        if said["kind"] == "attach":
            return [
                encode_frame("run", id=controller.run.name, phase="running", plan=["in another form"], version=version)
            ]
        return [encode_frame("unknown", what=said["kind"], version=version)]

    controller = speaks(answers)
    speaking = f"its protocol version is {version}"
    says = "it does not know `stacks`" if version > VERSION else speaking
    for words in (("stacks", "last"), ("kill", "last")):
        done = muster(*words)
        assert (125, says.replace("stacks", words[0]) in done.stderr) == (done.returncode, True), done.stderr
        assert "hint: use the version of muster that started the run" in done.stderr
        assert "Traceback" not in done.stderr
    assert ["running"] == [run["state"] for run in json.loads(muster("ps", "--json").stdout)]
    attached = muster("attach", "last")
    assert (125, speaking in attached.stderr) == (attached.returncode, True), attached.stderr
    assert "Traceback" not in attached.stderr
