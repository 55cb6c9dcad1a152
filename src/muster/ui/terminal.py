"""What a user sees of a run: the lines of the ranks with prefixes, and muster's own messages on stderr."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from string import Formatter
from typing import Any, Optional, Union

from muster.core.layout import fill
from muster.core.model import Plan, TerminalSize
from muster.core.printable import lines
from muster.core.results import RoleRanks, RunResult
from muster.core.roles import label, ranks_of, role_of
from muster.errors import InvalidRequest
from muster.ui.color import use_color
from muster.ui.output_writer import write
from muster.ui.text import begin_in_words, outcome_as_json, outcome_in_words

_FD = {"out": 1, "err": 2}
"""The descriptors that show the streams of ranks."""

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)


QUIET = 0.3
"""Seconds without output after which an incomplete line is shown."""

LONGEST_LINE = 64 << 20
"""Bytes of a line after which it is shown as several lines: they are in memory until the line ends."""

Where = tuple[str, int, int]
"""(host, local rank, node) of a rank."""


Prefix = Union[bytes, Callable[[Optional[float]], bytes]]
"""The prefix of lines: constant, or a function of the time of the line, which may be unknown."""

TIMESTAMP = "{time:iso} "
"""What `--timestamps` puts before each line."""


class Moment:
    """A time for users, in the local zone: `21:04:05.123`, by a `{time:%H:%M}` format, or with the date, `{time:iso}`.

    An unknown time is `-`.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def __str__(self) -> str:
        return format(self)

    __repr__ = __str__

    def __format__(self, form: str) -> str:
        if self.seconds is None:
            return "-"
        try:
            at = datetime.fromtimestamp(self.seconds).astimezone()
        except (ValueError, OverflowError, OSError):  # a host may report any number
            return "-"
        check_time_format(form)
        if form == "iso":
            return at.isoformat(timespec="milliseconds")
        return at.strftime(form) if form else at.time().isoformat("milliseconds")


def prefixes(
    where: Mapping[int, Where],
    template: str | None,
    colour: bool,
    before: str = "",
    roles: Sequence[RoleRanks] = (),
) -> dict[int, Prefix]:
    """Return the prefix of each rank's lines; `before` is a template put before it.

    With `roles`, ranks are named by their role: `[trainer:0] `.
    """
    names = {rank: label(rank, roles) or str(rank) for rank in where}
    width = max(map(len, names.values()), default=1)

    def stands(rank: int) -> Prefix:
        host, local, node = where[rank]
        form = before + (f"[{names[rank]:>{width}}] " if template is None else template)
        if colour and form:
            form = f"\x1b[{_COLOURS[rank % len(_COLOURS)]}m{form}\x1b[0m"
        values = {"rank": rank, "host": host, "local_rank": local, "node": node, "time": Moment(0.0)}
        if (role := role_of(rank, roles)) is not None:
            values.update(role=role.name, role_rank=rank - role.first)
        text = fill(form, values, "--prefix")  # raises for what cannot be filled in, including the time
        if not any(name == "time" for _, name, _, _ in Formatter().parse(form)):
            return text.encode("utf-8", "surrogateescape")
        return lambda seconds: form.format(**{**values, "time": Moment(seconds)}).encode("utf-8", "surrogateescape")

    return {rank: stands(rank) for rank in where}


def size_here(env: Mapping[str, str], default: bool = True) -> TerminalSize | None:
    """Return the size of the terminal that shows ranks; without one a default size, or None unless `default`."""
    try:
        found = os.get_terminal_size(1)
    except OSError:
        return TerminalSize(24, 80, env.get("TERM", "")) if default else None
    # a terminal that does not know its size reports 0
    return TerminalSize(found.lines or 24, found.columns or 80, env.get("TERM", ""))


_DIRECTIVE = re.compile(r"%(?:[-_0^#]*\d*[EO]?[aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%f]|:z)")
"""What strftime knows: Python, and the C library that it calls."""


def check_time_format(form: str) -> None:
    """Raise `InvalidRequest` for a directive that strftime would print unchanged, or drop."""
    wrong = _DIRECTIVE.sub("", form).partition("%")
    if wrong[1]:
        raise InvalidRequest(
            f"unknown directive in {{time:{form}}}: %{wrong[2][:1]}", "for example: `{time:%H:%M:%S}` or `{time:iso}`"
        )


_MODES = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
_SEQUENCES_AT_END = re.compile(rb"(?:\x1b\[[0-?]*[ -/]*[@-~])+$")
_USUAL_MODES = (b"7", b"25")
"""The modes of a terminal by default: wrap lines, show the cursor."""
_COLOUR = re.compile(rb"\x1b\[([0-9;:]*)m")


class Raw:
    """The output of a single rank with a pseudo-terminal, shown unchanged, including cursor movements and colors."""

    def __init__(self) -> None:
        self.at = "out"
        self._open = False
        self._modes: dict[bytes, bytes] = {}
        """Whether each mode was last switched on (`h`) or off (`l`)."""
        self._coloured = False
        self._end = b""

    def feed(self, rank: int, stream: str, data: bytes, moment: float | None = None) -> bytes:
        """Return what to write now for these bytes of a rank."""
        seen = self._end + data
        if b"\x1b[?" in seen:
            for numbers, how in _MODES.findall(seen):
                self._modes.update(dict.fromkeys(numbers.split(b";"), how))
        for colour in _COLOUR.findall(seen) if b"\x1b[" in seen else ():
            self._coloured = colour not in (b"", b"0")
        self._end = seen[-16:]
        last = _SEQUENCES_AT_END.sub(b"", self._end)[-1:]
        self._open = last not in (b"\n", b"\r") if last else self._open
        return data

    def quiet(self) -> bytes:
        """Return nothing: everything has been shown."""
        return b""

    def clear(self) -> bytes:
        """Return what makes room for messages: the end of an open line."""
        was, self._open = self._open, False
        return b"\n" if was else b""

    def rest(self, streams: Sequence[str] = ("out", "err")) -> bytes:
        """Return what resets the terminal of a killed rank: shows the cursor, restores the default color."""
        strange = [mode for mode, how in self._modes.items() if how != (b"h" if mode in _USUAL_MODES else b"l")]
        usual = b"".join(b"\x1b[?%b%b" % (mode, b"h" if mode in _USUAL_MODES else b"l") for mode in strange)
        usual += b"\x1b[0m" if self._coloured else b""
        self._modes.clear()
        self._coloured = False
        return usual


def keep_part(begun: bytearray, part: bytes) -> None:
    """Append to an incomplete line, dropping what a progress bar has overwritten."""
    again = part.rstrip(b"\r").rfind(b"\r")
    if again >= 0:
        begun.clear()
    elif begun.endswith(b"\r") and part.strip(b"\r"):
        del begun[:-1]
    begun += part[max(0, again) :]


def last_state(line: bytes) -> bytes:
    """Return what a line shows at its end, if it was redrawn with carriage returns."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


class LinePrefixer:
    """Splits the output of ranks into lines, and puts the prefix of its rank before each.

    A line that is redrawn with carriage returns (a progress bar) is updated in place on a terminal; elsewhere only its
    last state is shown, when the line ends. The output of the rank that reads the terminal (`eager`) is shown without
    waiting for the end of a line: it may be a prompt. A line of more than `LONGEST_LINE` bytes is shown as several.
    The log files keep every byte.
    """

    def __init__(self, prefixes: Mapping[int, Prefix], terminal: bool, eager: int | None = None):
        self.prefixes, self.terminal, self.eager = prefixes, terminal, eager
        self._moment: float | None = None
        """Unix time at which the fed data was written."""
        self._parts: dict[tuple[int, str], bytearray] = {}
        """Incomplete lines, the most recently extended last. They are only appended to: a line may have 50 MB, and
        arrive in small pieces."""
        self._live = b""
        self._open = False
        """True if the eager rank is in the middle of a line."""
        self.at = "out"
        """The stream to which such a line, or a progress bar, was written last."""

    def feed(self, rank: int, stream: str, data: bytes, moment: float | None = None) -> bytes:
        """Return what to write now for these bytes of a rank, which were written at Unix time `moment`."""
        self._moment = moment
        if rank == self.eager:
            self.at = stream if data else self.at
            return self._at_once(rank, data)
        whole, newline, part = data.rpartition(b"\n")
        text = b""
        if newline:
            text = self._prefixed(rank, bytes(self._parts.pop((rank, stream), b"")) + whole + newline)
        begun = bytearray()
        if part:
            begun = self._parts[rank, stream] = self._parts.pop((rank, stream), begun)
        keep_part(begun, part)
        if len(begun) > LONGEST_LINE:
            text += self._prefixed(rank, bytes(self._parts.pop((rank, stream))) + b"\n")
            begun = bytearray()
        if text and self._open:
            text, self._open = b"\n" + text, False
        # nothing may be redrawn in place beside a prompt
        if not self.terminal or self.eager is not None:
            return text
        text = self._in_place(rank, text, begun)
        self.at = stream if text else self.at
        return text

    def _at_once(self, rank: int, data: bytes) -> bytes:
        if not data:
            return b""
        prefix = self._prefix(rank)
        begin = b"" if self._open else prefix
        self._open = not data.endswith(b"\n")
        body, end = (data, b"") if self._open else (data[:-1], b"\n")
        return begin + body.replace(b"\n", b"\n" + prefix) + end

    def quiet(self) -> bytes:
        """Return what to write after a while without output.

        On a terminal it is the most recent incomplete line (dots, a prompt), shown in place like a progress bar.
        """
        if not self.terminal or self.eager is not None or not self._parts:
            return b""
        (rank, self.at), begun = next(reversed(self._parts.items()))
        was, self._live = self._live, self._prefix(rank) + self._form(begun)
        return b"" if was == self._live else (b"\r\x1b[K" if was else b"") + self._live

    @staticmethod
    def _form(begun: bytearray) -> bytes:
        return bytes(begun[:201]).strip(b"\r")[:200]

    def _in_place(self, rank: int, text: bytes, begun: bytearray) -> bytes:
        """Keep the current state of a progress bar below all lines."""
        live = self._live
        form = self._form(begun)
        if form and (begun.startswith(b"\r") or begun.endswith(b"\r")):
            self._live = self._prefix(rank) + form
        elif text:
            self._live = b""
        if not text and self._live == live:
            return b""
        return (b"\r\x1b[K" if live else b"") + text + self._live

    def rest(self, streams: Sequence[str] = ("out", "err")) -> bytes:
        """Return the last lines of these streams that did not end with a newline."""
        left = sorted(key for key in self._parts if key[1] in streams)
        return self.clear() + b"".join(self._prefixed(key[0], bytes(self._parts.pop(key)) + b"\n") for key in left)

    def clear(self) -> bytes:
        """Return what makes room for messages: ends an open line, removes a progress bar."""
        text = (b"\r\x1b[K" if self._live else b"") + (b"\n" if self._open else b"")
        self._live, self._open = b"", False
        return text

    def _prefix(self, rank: int) -> bytes:
        prefix = self.prefixes[rank]
        return prefix if isinstance(prefix, bytes) else prefix(self._moment)

    def _prefixed(self, rank: int, text: bytes) -> bytes:
        if b"\r" in text:
            text = b"\n".join(map(last_state, text.split(b"\n")))
        prefix = self._prefix(rank)
        if not prefix:
            return text
        return prefix + text[:-1].replace(b"\n", b"\n" + prefix) + b"\n"


class TerminalView:
    """The view on a terminal."""

    def __init__(
        self,
        plan: Plan,
        run_id: str,
        env: Mapping[str, str],
        prefix: str | None = None,
        ranks: Sequence[int] | None = None,
        quiet: bool = False,
        notes: Callable[[RunResult], Sequence[str]] = lambda outcome: (),
    ):
        """`notes` returns the lines that follow the result (`outcome_in_words`)."""
        self.put: Callable[[int, bytes], None] = write
        """Writes bytes to a descriptor; may be replaced by the `put` of an `OutputWriter`."""
        self.notes = notes
        self.plan, self.run_id, self.quiet = plan, run_id, quiet
        self.operand = run_id
        """The name of the run in displayed commands."""
        self.wants: bool | Sequence[int] = False if quiet else (True if ranks is None else list(ranks))
        self.colour = use_color(2, env)
        colour = use_color(1, env)
        self._prefix = prefix, colour
        eager = plan.reader if plan.job.stdin is not None or os.isatty(0) else None
        raw = plan.job.terminal is not None and plan.world_size == 1 and not prefix
        self.lines: LinePrefixer | Raw = Raw() if raw else LinePrefixer(self._prefixes(), colour, eager)

    def _prefixes(self) -> dict[int, Prefix]:
        nodes = self.plan.nodes
        where = {rank.rank: (node.host.name, rank.local_rank, node.number) for node in nodes for rank in node.ranks}
        return prefixes(where, *self._prefix, roles=ranks_of(self.plan))

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Show the first line."""
        if not self.quiet:
            self.say(begin_in_words(self.plan, self.run_id, facts))

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Show output of a rank: stdout on stdout, stderr on stderr."""
        self.put(_FD[stream], self.lines.feed(rank, stream, data, time.time()))

    def pause(self) -> None:
        """Show an incomplete line, as nothing has come for a while."""
        text = self.lines.quiet()
        self.put(_FD[self.lines.at], text)

    def say(self, text: str) -> None:
        """Show a message of muster on stderr."""
        self._clear()
        mark = "\x1b[1mmuster:\x1b[0m " if self.colour else "muster: "
        self.put(2, (mark + lines(text) + "\n").encode())

    def _clear(self) -> None:
        """Make room for messages in the stream of the last line: stdout and stderr may go to different places."""
        self.put(_FD[self.lines.at], self.lines.clear())

    def event(self, event: Mapping[str, Any]) -> None:
        """Note that a spare host takes the place of another; other events are for programs."""
        if event.get("event") != "do replace":
            return
        node, spare = event.get("node"), event.get("spare")
        hosts = dict(enumerate(self.plan.spares, len(self.plan.nodes)))
        if spare in hosts:
            host = hosts[spare]
            nodes = (known._replace(host=host) if known.number == node else known for known in self.plan.nodes)
            self.plan = self.plan._replace(nodes=tuple(nodes))
            if isinstance(self.lines, LinePrefixer):
                self.lines.prefixes = self._prefixes()

    def finish(self, outcome: RunResult) -> None:
        """Show the result."""
        self._clear()
        for stream, fd in _FD.items():
            self.put(fd, self.lines.rest([stream]))
        if not (self.quiet and outcome.code == 0):
            notes = self.notes(outcome)
            self.say(outcome_in_words(outcome, self.operand, self.plan.world_size, self.plan.hosts, notes))


class JsonView:
    """The view for programs: every event, message and output as one line of JSON on stdout."""

    def __init__(self, run_id: str, ranks: Sequence[int] | None = None, quiet: bool = False):
        self.put: Callable[[int, bytes], None] = write
        self.run_id = self.operand = run_id
        self.wants: bool | Sequence[int] = False if quiet else (True if ranks is None else list(ranks))

    def pause(self) -> None:
        """Do nothing."""

    def _line(self, record: Mapping[str, Any]) -> None:
        self.put(1, (json.dumps(record) + "\n").encode())

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Show the run id and the facts about its Python."""
        self._line({"event": "begin", "run": self.run_id, **facts})

    def output(self, rank: int, stream: str, data: bytes) -> None:
        """Show output of a rank as text, with invalid UTF-8 escaped as by Python's `surrogateescape`."""
        self._line({"event": "output", "rank": rank, "stream": stream, "text": data.decode("utf-8", "surrogateescape")})

    def say(self, text: str) -> None:
        """Show a message."""
        self._line({"event": "say", "text": text})

    def event(self, event: Mapping[str, Any]) -> None:
        """Show an event, as in events.jsonl."""
        self._line(event)

    def finish(self, outcome: RunResult) -> None:
        """Show the result."""
        self._line({"event": "outcome", **outcome_as_json(outcome)})
