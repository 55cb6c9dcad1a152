"""A command's requests to the controller of a run: questions, files and the final result, over one connection."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muster.client.compat import HINT, lacks, version_of
from muster.client.local import agent_of, is_anothers, may_start_its_agent
from muster.client.remote import Replacement, connect, keep_piece, sizes_of
from muster.client.status import ANSWERS_WITHIN
from muster.core.json_checks import NOT_UNDERSTOOD
from muster.core.json_records import outcome_from_json
from muster.core.results import RunResult
from muster.errors import ControlError, InvalidRequest, Unreachable
from muster.linux.eventloop import EventLoop
from muster.protocol.frames import VERSION, FrameDecoder, Refused, UnknownKinds, encode_frame
from muster.protocol.messages import AGENT, CLIENT, FROM_CLIENT, between
from muster.rundir.run import Run, Unreadable

if TYPE_CHECKING:
    from muster.client.connection import Connection

_TRIALS, _PAUSE = 5, 0.3
"""Number of attempts to ask a controller that hung up without an answer, and the seconds between them."""
_FILES_WITHIN = 60.0
"""Seconds for the files of a run to arrive."""
_ALL_SEEN = 1 << 40
"""An event number beyond those of any run, so that no events are sent."""

Output = Callable[[int, str, int, int, bytes], object]
"""Called with output of a rank: rank, stream, attempt, offset, bytes."""


class Events:
    """The lines of events.jsonl that a subscriber receives, each once, also after the connection broke."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self.seen = 0
        """The number of the last line."""

    def put(self, number: int, line: bytes) -> None:
        """Take in the line with this number."""
        if number > self.seen:
            self.seen = number
            self._take(line)


class Client:
    """A command's connection to the controller of one run that is elsewhere, or detached.

    It is made on first use, and again on the next use after it broke. A subscriber is notified of the end of the run,
    and of output, while the loop runs (`pause`).
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.outcome: RunResult | None = None
        """The result of the run, or of an attempt that may be repeated, once the controller has reported it."""
        self._subscribed = False
        self._loop: EventLoop | None = None
        self._connection: Connection | None = None
        self._version: int | None = None
        """The controller's protocol version; None until it is known."""
        self._gone: dict[str, Any] | None = None
        """The reply that there is no controller at the other end, only the files of the run."""
        self._gone_told = False
        """True once that was returned to the caller: another question asks again whether there is a controller by now.
        """
        self._answers: deque[dict[str, Any]] = deque()
        self._output: Output | None = None
        self._events: Events | None = None
        self._replacement: Replacement | None = None
        """The file whose pieces are arriving."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the controller."""
        return self._open and self._gone is None

    @property
    def _open(self) -> bool:
        """Whether there is a connection to the machine of the run."""
        return self._connection is not None and self._connection.open

    @property
    def subscribed(self) -> bool:
        """Whether the controller will report the end of the run."""
        return self._subscribed and self.connected

    # ---- the connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        """Return the connection, making it if necessary. Raises `InvalidRequest` for an invalid hostname."""
        from muster.client.connection import Connection  # imported late: `muster ps` of local runs does not need it

        if self._connection is None or not self._connection.open:
            self._forget()
            self._loop = self._loop or EventLoop()
            self._connection = Connection(self._loop, connect(self.run), self._heard)
            self._unknown = UnknownKinds(self._note)
            self._connection.start()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._forget()

    def _forget(self) -> None:
        self._connection, self._version, self._subscribed = None, None, False
        self._gone, self._gone_told = None, False
        self._replacement = None  # an incomplete file
        self._answers.clear()

    def _note(self, text: str) -> None:
        import sys

        name = self._connection.link.host if self._connection is not None else self.run.id
        print(f"warning: {name}: {text}", file=sys.stderr)

    def _until(self, condition: Callable[[], object], deadline: float) -> bool:
        """Run the loop until the condition holds; return False if the connection ends or time runs out first."""
        while not condition():
            left = deadline - time.monotonic()
            if self._loop is None or not self._open or left <= 0:
                return False
            self._loop.run_once(left)
        return True

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`; less if the end of the run is reported, or the connection ends that would report it."""
        if not self.connected or self._loop is None:
            time.sleep(seconds)
            return
        before = self.outcome
        self._until(lambda: self.outcome is not before, time.monotonic() + seconds)

    def _heard(self, fields: dict[str, Any], payload: bytes) -> None:
        from muster.client.connection import HEARD

        message = HEARD.get(fields["kind"])
        if message is None:
            self._unknown(fields["kind"])
            return
        if fields["kind"] == "no_controller":
            self._gone = {"gone": True, "there": bool(fields.get("there"))}
            return
        if fields["kind"] in ("answer", "unknown"):
            self._answers.append(fields)
            return
        try:
            told = message.fitting(fields)
            if fields["kind"] == "finished":
                self.outcome = outcome_from_json(told["outcome"])
            elif fields["kind"] == "file":
                self._keep(payload, **told)
            elif fields["kind"] == "done":
                self._keep_replacement()
                self._answers.append(fields)
            elif fields["kind"] == "event" and self._events is not None:
                self._events.put(told["number"], payload)
            elif fields["kind"] == "output" and self._output is not None:
                self._output(told["rank"], told["stream"], told["attempt"], told["offset"], payload)
                self._tell("credit", node=told["node"], count=len(payload))
        except NOT_UNDERSTOOD:
            # a hostile host, or another version of muster: the result is taken from the files of the run
            self._disconnect()

    def _keep(self, data: bytes, name: str, offset: int, whole: bool) -> None:
        """Write a piece of a file; a file that is `whole` is replaced completely."""
        if self._replacement is not None and (not whole or self._replacement.name != name):
            self._keep_replacement()
        if not whole:
            keep_piece(self.run, name, offset, data)
            return
        if self._replacement is None:
            self._replacement = Replacement(name)
        self._replacement.add(offset, data)

    def _keep_replacement(self) -> None:
        """Write the file whose pieces have arrived: files are sent one after another."""
        if self._replacement is not None:
            replacement, self._replacement = self._replacement, None
            replacement.keep(self.run)

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._connection is not None and self._connection.open:
            self._connection.tell(kind, **fields)

    # ---- questions --------------------------------------------------------------------------------------------------

    def ask(self, kind: str, within: float = ANSWERS_WITHIN, **fields: Any) -> dict[str, Any]:
        """Send a request to the controller and return its reply; `gone` is true in it if there is no controller.

        `within`: timeout in seconds. If the controller cannot be reached, the reply has only `silent`: why, as a
        sentence. If it does not understand the request, the reply has only `refused`.
        """
        deadline = time.monotonic() + within
        for _ in range(_TRIALS):
            if self._gone_told:
                self._disconnect()
            try:
                connection = self._connect()
            except Unreadable:
                raise
            except InvalidRequest as error:
                return {"silent": error.sentence}
            answer = self._answer(connection, kind, fields, deadline)
            if answer is not None:
                return answer
            self._disconnect()  # a late reply would be taken for that to another request
            if not connection.arrived or time.monotonic() >= deadline:
                return {"silent": connection.link.stderr_summary() or f"no answer within {within:g}s"}
            # it was reached, and was about to exit or to restart
            time.sleep(_PAUSE)
        return {"silent": f"the host was reached, but the controller did not answer ({_TRIALS} attempts)"}

    def _answer(
        self, connection: Connection, kind: str, fields: Mapping[str, Any], deadline: float
    ) -> dict[str, Any] | None:
        """Return the controller's reply; None if there is none."""
        if not self._until(lambda: connection.arrived, deadline):
            return None
        if self._version is None or kind == "state":
            greeting = self._exchange("state", {"version": VERSION}, deadline)  # every version knows this message
            if greeting is None or kind == "state" or self._version is None:
                return greeting
        if why := lacks(self._version, FROM_CLIENT[kind]):
            return {"refused": why}
        return self._exchange(kind, fields, deadline)

    def _exchange(self, kind: str, fields: Mapping[str, Any], deadline: float) -> dict[str, Any] | None:
        self._answers.clear()
        self._tell(kind, **fields)
        if not self._until(lambda: self._answers or self._gone, deadline):
            return None
        if self._gone is not None:
            self._gone_told = True
            return self._gone
        answer = self._answers.popleft()
        if answer["kind"] == "unknown":
            return {"refused": f"it does not know `{kind}`"}
        self._version = version_of(answer)
        if self._connection is not None:
            self._connection.version = self._version
        return answer

    # ---- subscription -----------------------------------------------------------------------------------------------

    def subscribe(
        self,
        want: Sequence[int] = (),
        offsets: Mapping[str, int] | None = None,
        output: Output | None = None,
        events: Events | None = None,
    ) -> bool:
        """Subscribe to the end of the run, to output of ranks from `offsets` on, and to its events.

        Returns False if that is impossible.

        The controller must have answered before.
        """
        if not self.connected or self._version is None or lacks(self._version, FROM_CLIENT["attach"]):
            return False
        self._output, self._events = output, events
        number = _ALL_SEEN if events is None else events.seen
        seen: dict[str, Any] = {"offsets": dict(offsets or {}), "tail": None, "events": number}
        self._tell("attach", want=list(want), owner=False, version=VERSION, **seen)
        assert self._connection is not None
        self._connection.keep_alive()
        self._subscribed = True
        return self.connected

    # ---- files ------------------------------------------------------------------------------------------------------

    @property
    def keeps_files(self) -> bool:
        """Whether the local run directory is a copy of one elsewhere."""
        job = self.run.job
        return bool(job.get("served")) and not job.get("shared") and not is_anothers(self.run)

    def sync_files(self, last: bool = False) -> bool:
        """Update the local copy of a run directory elsewhere; return False if that is unreachable.

        `last`: the run has ended, and the controller only waits for its clients to leave.
        """
        if not self.keeps_files:
            return True
        connection, deadline = self._connect(), time.monotonic() + _FILES_WITHIN
        if not self._until(lambda: connection.arrived, deadline):
            self._disconnect()
            return False
        self._answers.clear()
        self._tell("files", have=sizes_of(self.run), last=last)
        done = self._until(lambda: any(answer["kind"] == "done" for answer in self._answers), deadline)
        if last:
            self._gone, self._gone_told = {"gone": True, "there": True}, True
        if not done:
            self._disconnect()
        return done


def sync_files(run: Run) -> bool:
    """Update the local copy of a run directory over a new connection; see `Client.sync_files`."""
    with Client(run) as client:
        return client.sync_files()


def ask(
    run: Run, kind: str, client: Client | None = None, within: float = ANSWERS_WITHIN, **fields: Any
) -> dict[str, Any]:
    """Send a request to the controller of a run and return its reply. Raises `ControlError`, `Unreachable`.

    `within`: timeout in seconds for other machines. `client`: the connection to use.
    """
    if not run.job.get("served"):
        return _ask_here(run, kind, fields)
    if client is None:
        with Client(run) as own:
            return ask(run, kind, own, within, **fields)
    answer = client.ask(kind, within, **fields)
    if "silent" in answer:
        raise Unreachable(f"no answer from {run.id}: {answer['silent']}", "try again when the host is reachable")
    if answer.get("gone"):
        raise ControlError(f"no answer from {run.id}: it has ended", f"see how it ended: muster show {run.operand}")
    if "refused" in answer:
        raise ControlError(f"the controller of {run.id} is not compatible: {answer['refused']}", HINT)
    return answer


_STARTS_WITHIN, _PAUSE_AT_START = 3.0, 0.05
"""Seconds to wait for the agent of a run that has just been started, and between attempts."""


def _ask_here(run: Run, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the agent of a run that is controlled from a terminal of this machine. Raises `ControlError`."""
    try:
        link, deadline = agent_of(run), time.monotonic() + _STARTS_WITHIN
        while link is None and may_start_its_agent(run) and time.monotonic() < deadline:
            time.sleep(_PAUSE_AT_START)
            link = agent_of(run)
    except TimeoutError:
        raise ControlError(
            f"the agent of {run.id} accepts no connections", f"it may be stopped; see {run.path}/node_*/agent.log"
        ) from None
    if link is None and may_start_its_agent(run):
        raise ControlError(f"no answer from {run.id}: it is still starting", "try again in a moment")
    if link is None:
        raise ControlError(
            f"no answer from {run.id}: it is not running here", f"see its state: muster show {run.operand}"
        )
    with link:
        greeting = _ask_agent(run, link, "state", version=VERSION)
        if why := lacks(version_of(greeting), between(CLIENT, AGENT)[kind]):
            raise ControlError(f"the agent of {run.id} is not compatible: {why}", HINT)
        answer = _ask_agent(run, link, kind, **fields) if greeting else {}
        if answer.get("kind") == "unknown":
            raise ControlError(f"the agent of {run.id} is not compatible: it does not know `{kind}`", HINT)
        return answer


def _ask_agent(run: Run, link: socket.socket, kind: str, **fields: Any) -> dict[str, Any]:
    """Send a request to the agent of a run; return an empty reply if it hangs up. Raises `ControlError`."""
    try:
        link.sendall(encode_frame(kind, **fields))
    except (BrokenPipeError, ConnectionResetError):
        return {}
    frames = FrameDecoder()
    while True:
        try:
            data = link.recv(1 << 16)
        except OSError:
            raise ControlError(f"no answer from the agent of {run.id}", f"see {run.path}/node_*/agent.log") from None
        if not data:
            return {}
        try:
            answers = frames.feed(data)
        except Refused as error:
            raise ControlError(f"invalid answer from the agent of {run.id}: {error}", None) from None
        for answer, _ in answers:
            return answer
