"""`muster top`: a run in the terminal, live."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from muster.cli.commands import COMMANDS
from muster.cli.common import end_in_words, find_operand_run, parse_command
from muster.client.client import Client
from muster.client.top import RunWatch
from muster.config.command_options import TopOptions
from muster.core.live_view import TopView
from muster.core.results import RunState
from muster.errors import InvalidRequest, MusterError
from muster.linux.identity import user_name
from muster.rundir.run import Run
from muster.rundir.sweeps import is_sweep
from muster.ui.color import use_color
from muster.ui.top_text import HELP, KEYS, Style, head, narrowed, neighbour, plain, screen, tail_of

if TYPE_CHECKING:
    from muster.ui.top_screen import Screen

_TICK = 0.1
"""Seconds between checks for requests of the user, while a run is watched."""
_LOOK = 1.0
"""Seconds between two looks at least."""
_LEAVES_WITHIN = 2.0
"""Seconds for the connection to be closed when the user leaves."""
_NOTE = 5.0
"""Seconds for which a note is shown."""


def top(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Show a run until it ends, or the user leaves; return its exit code, or 0."""
    asked = parse_command(TopOptions, "top", words, env)
    if asked is None:
        return 0
    options, rest, store = asked
    run = find_operand_run(store, rest, "top", sweeps=True)
    if is_sweep(run):
        from muster.cli.sweep_watch import top_sweep

        return top_sweep(run, options.once, env)
    with Client(run) as client:
        watch = RunWatch(run, client)
        first = watch.look()
        if _over(first):
            return _tell_end(run, first)
        if options.once or not (sys.stdin.isatty() and sys.stdout.isatty()) or env.get("TERM", "dumb") == "dumb":
            return _print_once(watch, first)
        try:
            from muster.ui.top_screen import Screen
        except ImportError as error:
            raise InvalidRequest(f"this Python has no curses: {error}", "use `muster top --once`") from None
        live = _Live(watch, first, f"{env.get('USER') or f'user {user_name(os.getuid())}'} (pid {os.getpid()})", env)
        with _EndingSignals(), Screen(use_color(1, env)) as terminal, redirect_stderr(live.warnings):
            last = live.show(terminal)
    print(live.warnings.getvalue(), end="", file=sys.stderr)
    if live.error is not None:
        raise live.error
    return _tell_end(run, last) if _over(last) else _tell_left(run)


def _over(view: TopView) -> bool:
    return not view.state.lives and view.state is not RunState.UNKNOWN


def _print_once(watch: RunWatch, view: TopView) -> int:
    """Print one screen; the rate of collectives takes a second look."""
    if view.collectives is not None:
        watch.wait(_LOOK)
        view = watch.look()
    width, height = shutil.get_terminal_size()
    print(plain(screen(view, width, max(height, 24), watch.selected), width if sys.stdout.isatty() else 1000))
    return 1 if view.state is RunState.UNKNOWN else 0


def _tell_end(run: Run, view: TopView) -> int:
    if view.outcome is None:
        print(f"{run.id} is {view.state}: {view.why}", file=sys.stderr)
        return 125
    print(f"{run.id}: {end_in_words(run, view.outcome)}")
    return view.outcome.code


def _tell_left(run: Run) -> int:
    print(f"{run.id} keeps running; watch it again: muster top {run.operand}", file=sys.stderr)
    return 0


class _EndingSignals:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that the terminal is restored."""

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._leave) for number in (signal.SIGTERM, signal.SIGHUP)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @staticmethod
    def _leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)


class _Text(NamedTuple):
    """Text that covers the run: stacks, help."""

    title: str
    lines: tuple[str, ...]


class _Poller(threading.Thread):
    """Looks at the run in a thread of its own, so that keys are answered while a host is slow."""

    def __init__(self, watch: RunWatch, first: TopView, changed: Callable[[], object]) -> None:
        super().__init__(name="poller", daemon=True)
        self.watch, self.view, self._changed = watch, first, changed
        self.error: BaseException | None = None
        self.requests: deque[Callable[[], object]] = deque()
        """Calls to make between two looks."""
        self.hurry = False
        """True if something was selected whose lines are not known yet."""
        self.stopping = False

    def run(self) -> None:
        """Look again and again, until the run has ended."""
        try:
            while not self.stopping and not _over(self.view):
                looked = time.monotonic()
                while not self.stopping and time.monotonic() < looked + (
                    _LOOK if self.hurry else self.watch.pause(self.view)
                ):
                    while self.requests:
                        self.requests.popleft()()
                        self._changed()
                    if self.watch.client.outcome is not None:
                        break
                    self.watch.wait(_TICK)
                if not self.stopping:
                    self.hurry = False
                    self.view = self.watch.look()
                    self._changed()
        except BaseException as error:
            self.error = error
        self._changed()


class _Live:
    """The screen of a run, and what keys do there."""

    def __init__(self, watch: RunWatch, first: TopView, by: str, env: Mapping[str, str]) -> None:
        self.watch, self.by, self.env = watch, by, env
        self.selected = watch.selected
        self.warnings = io.StringIO()
        """What was written to stderr meanwhile."""
        self.error: BaseException | None = None
        self._first = first
        self._text: _Text | None = None
        self._offset = 0
        self._logs = self._asking = False
        self._note, self._noted = "", 0.0

    def show(self, terminal: Screen) -> TopView:
        """Show the run until it ends, or the user leaves; return how it was at last."""
        poller = _Poller(self.watch, self._first, terminal.wake)
        poller.start()
        key = ""
        try:
            while poller.error is None and not _over(poller.view):
                self._draw(terminal, poller.view, anew=key == "redraw")
                key = terminal.key(1.0)
                if key and not self._pressed(key, poller, terminal):
                    break
        finally:
            poller.stopping = True
            poller.join(_LEAVES_WITHIN)
        self.error = poller.error
        return poller.view

    # ---- out --------------------------------------------------------------------------------------------------------

    def _draw(self, terminal: Screen, view: TopView, anew: bool) -> None:
        from muster.ui.top_screen import row

        width, height = terminal.size
        foot = row(KEYS, Style.FAINT)
        if self._text is not None:
            lines = self._text.lines
            self._offset = max(0, min(self._offset, len(lines) - (height - 2)))
            rows = [row(self._text.title, Style.TITLE), *(row(narrowed(line, width)) for line in lines[self._offset :])]
            foot = row("arrows scroll  q back", Style.FAINT)
        elif self._logs:
            rows = [*head(view, width)[:2], *tail_of(view, height - 4)]
            rows.append(row(f"all of it: muster logs {self.watch.run.operand} --rank {self.selected}", Style.FAINT))
            foot = row("left, right  another rank  q back", Style.FAINT)
        else:
            rows = screen(view, width, height - 1, self.selected)
        if self._asking:
            foot = row(f"terminate {view.run_id}? y/N", Style.BAD)
        elif self._note and time.monotonic() - self._noted < _NOTE:
            foot = row(self._note, Style.ODD)
        terminal.draw(rows, foot, anew)

    def _say(self, note: str) -> None:
        self._note, self._noted = note, time.monotonic()

    # ---- keys -------------------------------------------------------------------------------------------------------

    def _pressed(self, key: str, poller: _Poller, terminal: Screen) -> bool:
        """Do what a key means; return False if the user leaves."""
        if self._asking:
            self._asking = False
            if key in ("y", "Y"):
                self._ask(poller, "terminating the ranks", lambda: self._say(self.watch.kill(self.by)))
            return True
        if key in ("left", "right", "up", "down", "n") and self._text is None:
            self.selected = neighbour(poller.view, self.selected, "next" if key == "n" else key)
            self.watch.selected = self.selected
            poller.hurry = True
        elif key in ("q", "escape") and (self._text is not None or self._logs):
            self._text, self._logs = None, False
        elif key == "q":
            return False
        elif self._text is not None:
            page = terminal.size[1] - 3
            steps = {"up": -1, "down": 1, "page up": -page, "page down": page, " ": page, "home": -1 << 30}
            self._offset += steps.get(key, 1 << 30 if key == "end" else 0)
        elif key == "l":
            self._logs = True
        elif key == "k":
            self._asking = True
        elif key in ("?", "h"):
            self._show(_Text("muster top", tuple(HELP.splitlines())))
        elif key in ("s", "w"):
            name = "stacks" if key == "s" else "why"
            self._ask(poller, f"asking the ranks (muster {name})", lambda: self._show(self._output(name)))
        return True

    def _show(self, text: _Text) -> None:
        self._text, self._offset = text, 0

    def _ask(self, poller: _Poller, note: str, request: Callable[[], object]) -> None:
        """Have something done between two looks."""
        self._say(note)

        def done() -> None:
            try:
                request()
            except MusterError as error:
                self._say(f"error: {error.sentence}")

        poller.requests.append(done)

    def _output(self, name: str) -> _Text:
        """Return what another command prints of this run."""
        out = io.StringIO()
        operand = self.watch.run.operand
        command = getattr(import_module(COMMANDS[name].module), name)
        with redirect_stdout(out), redirect_stderr(out):
            command(shlex.split(operand), self.env, time.monotonic())
        self._note = ""
        return _Text(f"muster {name} {operand}", tuple(line.expandtabs() for line in out.getvalue().splitlines()))
