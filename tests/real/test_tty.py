"""Ranks with a pseudo-terminal (`--tty`), on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest
from running import carriers, living, log, newest, outcome
from waiting import until

Script = Callable[..., Path]


class Screen:
    """A terminal of 30 rows and 100 columns, and a program that was started on it."""

    def __init__(self, muster: Any, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                self.resize(30, 100, 1)
                os.chdir(muster.cwd)
                os.execvpe(muster.argv()[0], muster.argv(*words), {**muster.env, "TERM": "xterm"})
            finally:
                os._exit(127)
        self.shown = b""

    def resize(self, rows: int, columns: int, fd: int | None = None) -> None:
        """Resize it, as a user does with the mouse."""
        fcntl.ioctl(self.fd if fd is None else fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, words: bytes, after: bytes = b"") -> None:
        """Wait until these bytes have been shown, after others."""
        while words not in (self.shown.partition(after)[2] if after else self.shown):
            assert self._more(120), self.shown.decode(errors="replace")

    def end(self) -> int:
        """Return all output up to the end, and the exit code."""
        while self._more(120):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _more(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # all have closed it
            data = b""
        self.shown += data
        return bool(data)


@contextmanager
def screen(muster: Any, *words: str) -> Iterator[Screen]:
    """A program on a terminal; it is ended in any case."""
    found = Screen(muster, *words)
    try:
        yield found
    finally:
        try:
            os.kill(found.pid, signal.SIGKILL)
            os.waitpid(found.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(found.fd)


ALONE = """
import os, shutil, signal, sys, time

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.02)

print([os.isatty(fd) for fd in range(3)], tuple(os.get_terminal_size()), os.environ["TERM"])
signal.signal(signal.SIGWINCH, lambda *_: print("now", tuple(shutil.get_terminal_size())))
print("dots", end="", flush=True)
wait("dots")
for number in range(50):
    print(".", number)
    print("!", number, file=sys.stderr)
print("\\033[1mlive\\033[0m\\033[2Aup", flush=True)
wait("resized")
print("\\033[?25l\\033[31mhidden")
os.kill(os.getpid(), 9) if sys.argv[1] == "killed" else 1 / 0
"""


@pytest.mark.parametrize(("launcher", "end"), [("fork", "killed"), ("exec", "raises"), ("torchrun", "raises")])
def test_a_single_rank_on_a_terminal_has_a_terminal(
    muster: Any, script: Script, tmp_path: Path, launcher: str, end: str
) -> None:
    """Its output is shown immediately and unchanged; the log keeps it, and the report has the reason of its failure."""
    muster.env.pop("COLUMNS", None)
    with screen(muster, "run", "--launcher", launcher, "-g", "1", str(script(ALONE)), end) as terminal:
        terminal.shows(b"[True, True, True] (100, 30) xterm\r\ndots")
        (tmp_path / "dots").touch()
        terminal.shows(b"".join(b". %d\r\n! %d\r\n" % (number, number) for number in range(50)))
        terminal.shows(b"\x1b[1mlive\x1b[0m\x1b[2Aup")
        terminal.resize(40, 120)
        terminal.shows(b"now (120, 40)\r\n")
        (tmp_path / "resized").touch()
        status = terminal.end()
    shown = terminal.shown
    assert (137 if end == "killed" else 1) == status, shown.decode()
    assert b"[0]" not in shown
    assert b"\x1b[?25h\x1b[0m" in shown[shown.index(b"hidden") :], "the cursor is shown again"
    kept = log(muster, 0)
    assert b"dots. 0\n! 0\n" in kept and kept.endswith(b"hidden\n" if end == "killed" else b"division by zero\n")
    assert b"" == log(muster, 0, "err")
    if end == "raises":
        assert "ZeroDivisionError: division by zero" == outcome(muster)["root_cause"]["failure"]["summary"]
    assert [] == living(carriers(newest(muster).name))


def test_ranks_that_get_a_terminal(muster: Any, script: Script) -> None:
    """A single rank, unless it is not wanted or its output is not shown; with --tty each rank."""
    path = str(script("import os, sys; print(sys.stdout.isatty(), sys.stderr.isatty())"))
    for words, shown in ((("--no-tty",), b"\x1b[36m[0] \x1b[0mFalse False"), ((), b"True True")):
        with screen(muster, "run", "--launcher", "exec", *words, path) as terminal:
            assert 0 == terminal.end()
        assert shown in terminal.shown.split(b"\r\n"), terminal.shown
    assert "[0] False False\n" == muster("run", "--launcher", "exec", path).stdout
    sizes = "import os; print(tuple(os.get_terminal_size(2)), os.isatty(0)); print('x' * 2)"
    path = str(script(sizes))
    done = muster("run", "--launcher", "exec", "-g", "2", "--tty", path)
    expected = {f"[{rank}] {line}" for rank in range(2) for line in ("(76, 24) False", "xx")}
    assert (0, expected) == (done.returncode, set(done.stdout.splitlines())), done.stderr
    assert b"(76, 24) False\nxx\n" == log(muster, 1)
    done = muster("run", "--tty", "--no-tty", path)
    assert (2, True) == (done.returncode, "--tty cannot be combined with --no-tty" in done.stderr)


BEGUN = """
import os, time
if os.environ["RANK"] == "0":
    print("is it", end="", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    print(" done")
else:
    print("hello")
    while not os.path.exists("go"):
        time.sleep(0.02)
"""


def test_of_several_ranks_a_line_that_has_begun_is_shown_in_place(muster: Any, script: Script, tmp_path: Path) -> None:
    """After a moment without output; it is removed for other lines: they never mix."""
    with screen(muster, "run", "--launcher", "exec", "-g", "2", str(script(BEGUN))) as terminal:
        terminal.shows(b"hello\r\n")
        terminal.shows(b"is it", after=b"hello\r\n")  # it is removed for another line, and shown anew
        (tmp_path / "go").touch()
        assert 0 == terminal.end()
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", terminal.shown)
    assert b"[0] is it\r\x1b[K[0] is it done\r\n" in plain, plain
    assert plain.count(b"[1] hello\r\n") == 1


def test_after_muster_is_killed_nothing_is_left(muster: Any, script: Script) -> None:
    """The shell gets the terminal back, with its previous settings."""
    text = "import time\nprint('begun')\nwhile True:\n    print('.', end='', flush=True)\n    time.sleep(0.01)"
    with screen(muster, "run", "--launcher", "exec", str(script(text))) as terminal:
        before = termios.tcgetattr(terminal.fd)
        terminal.shows(b"begun\r\n....")
        marked = carriers(newest(muster).name)
        assert marked
        os.kill(terminal.pid, signal.SIGKILL)
        until(lambda: not living(marked), "what the run started has ended")
        assert before == termios.tcgetattr(terminal.fd)


def test_ctrl_c_interrupts_a_rank_with_a_terminal(muster: Any, script: Script) -> None:
    text = (
        "import time\ntry:\n    print(1)\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved')\n    raise"
    )
    with screen(muster, "run", "--launcher", "exec", str(script(text))) as terminal:
        terminal.shows(b"\r\n1\r\n")
        os.write(terminal.fd, b"\x03")
        assert 130 == terminal.end(), terminal.shown
        assert b"saved\r\n" in terminal.shown
