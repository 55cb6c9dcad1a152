"""A terminal that shows rows and reads keys, for `muster top`: curses, which sends only what has changed."""

from __future__ import annotations

import curses
import locale
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from muster.ui.top_text import Piece, Row, Style

_KEYS = {
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page up",
    curses.KEY_NPAGE: "page down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    27: "escape",
    12: "redraw",
    10: "enter",
    13: "enter",
}
_ESCAPE_WAIT = 25
"""Milliseconds for the rest of an escape sequence to arrive; with curses' default of a second, the key seems dead."""


class Screen:
    """The terminal, from `with` until its end, which restores it in any case.

    `wake` makes `key` return; it may be called by other threads.
    """

    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._styles: dict[Style, int] = {}

    def __enter__(self) -> Screen:
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "")
        os.environ.setdefault("ESCDELAY", str(_ESCAPE_WAIT))
        self._resize_before = signal.signal(signal.SIGWINCH, self._resized)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._window = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            self._window.keypad(True)
            self._window.nodelay(True)
            with suppress(curses.error):  # a terminal that cannot hide it
                curses.curs_set(0)
            self._set_styles()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _restore(self) -> None:
        with suppress(curses.error):
            self._window.keypad(False)
            curses.endwin()
        signal.set_wakeup_fd(self._wakeup_before)
        signal.signal(signal.SIGWINCH, self._resize_before)
        read, write, self._read, self._write = self._read, self._write, -1, -1
        os.close(read)
        os.close(write)

    def _set_styles(self) -> None:
        colours = dict.fromkeys(Style, 0)
        if self._colour:
            with suppress(curses.error):
                curses.start_color()
                curses.use_default_colors()
                for number, (style, colour) in enumerate(
                    ((Style.GOOD, curses.COLOR_GREEN), (Style.BAD, curses.COLOR_RED), (Style.ODD, curses.COLOR_YELLOW)),
                    1,
                ):
                    curses.init_pair(number, colour, -1)
                    colours[style] = curses.color_pair(number)
        more = {Style.TITLE: curses.A_BOLD, Style.FAINT: curses.A_DIM, Style.CHOSEN: curses.A_REVERSE}
        more[Style.BAD] = curses.A_BOLD
        self._styles = {style: colours[style] | more.get(style, 0) for style in Style}

    def _resized(self, number: int, frame: FrameType | None) -> None:
        """Do nothing: the signal interrupts the wait for a key, and the size is read before drawing."""

    # ---- out --------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows)."""
        columns, rows = os.get_terminal_size(1)
        return max(1, columns or 80), max(1, rows or 24)

    def draw(self, rows: Sequence[Row], foot: Row, anew: bool = False) -> None:
        """Show these rows from the top, and one at the bottom. `anew`: send all of it again."""
        columns, height = self.size
        if self._window.getmaxyx() != (height, columns):
            curses.resizeterm(height, columns)
            anew = True
        self._window.erase()
        for place, row in enumerate(rows[: height - 1]):
            self._put(place, row, columns)
        self._put(height - 1, foot, columns)
        if anew:
            self._window.clearok(True)
        self._window.refresh()

    def _put(self, place: int, row: Row, columns: int) -> None:
        at = 0
        for text, style in row:
            if at >= columns:
                return
            text = text[: columns - at]
            # curses complains of the last cell, from which the cursor cannot move on; and of characters that the
            # terminal cannot show
            with suppress(curses.error, ValueError, UnicodeError):
                self._window.addstr(place, at, text, self._styles[style])
            at += len(text)

    # ---- in ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make `key` return. Thread-safe."""
        with suppress(OSError):  # the screen is gone, or the pipe is full
            os.write(self._write, b"\0")

    def key(self, seconds: float) -> str:
        """Return the name of the next key, or its character; empty after so many seconds, or if woken."""
        import select

        code = self._window.getch()
        if code == -1:
            select.select([0, self._read], [], [], seconds)
            with suppress(BlockingIOError):
                os.read(self._read, 4096)
            code = self._window.getch()
        if code in (-1, curses.KEY_RESIZE):
            return ""
        return _KEYS.get(code) or (chr(code) if 32 <= code < 127 else "")


def row(text: str, style: Style = Style.PLAIN) -> Row:
    """Return a row of a single piece."""
    return (Piece(text, style),)
