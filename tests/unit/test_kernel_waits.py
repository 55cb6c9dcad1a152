"""What threads wait for is read from /proc, of real processes that wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import until

from muster.linux import procfs
from muster.linux.kernel_waits import Machine, Wait, children_of, peers, threads_of, wait_of, waits_for_locks

READ_PIPE = "import os; r, w = os.pipe(); print('ready', flush=True); os.read(r, 1)"
READ_FIFO = "import sys; print('ready', flush=True); open(sys.argv[1])"
LOCK = "import fcntl, sys; f = open(sys.argv[1]); print('ready', flush=True); fcntl.flock(f, fcntl.LOCK_EX)"
CHILD = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
ACCEPT = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()"
SLEEP = "import time; print('ready', flush=True); time.sleep(600)"


@contextmanager
def blocked(code: str, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Python that runs this code, and the line that it has written."""
    with subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().decode().strip()
        finally:
            for child in children_of(process.pid):
                os.kill(child, 9)
            process.kill()


def waits(pid: int, call: str) -> Wait:
    """Wait until a process is in this call; return what it waits for."""
    found = Wait()

    def look() -> bool:
        nonlocal found
        seen = procfs.stat(pid)
        assert seen is not None
        found = wait_of(pid, pid, seen.state, Machine())
        return found.call == call

    until(look, f"it is in {call}")
    return found


def test_a_pipe() -> None:
    with blocked(READ_PIPE) as (process, _):
        assert "pipe" == waits(process.pid, "read").target


def test_a_fifo_that_nobody_opens(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with blocked(READ_FIFO, str(fifo)) as (process, _):
        assert f"FIFO {fifo}" == waits(process.pid, "openat").target


def test_a_file_lock_and_who_holds_it(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "lock"
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with blocked(LOCK, str(path)) as (process, _):
            assert str(path) == waits(process.pid, "flock").target
            assert os.getpid() == Machine().holder(process.pid)


def test_a_child_process() -> None:
    with blocked(CHILD) as (process, child):
        assert f"child process {child}" == waits(process.pid, "wait4").target
        assert [int(child)] == children_of(process.pid)


def test_a_socket() -> None:
    with blocked(ACCEPT) as (process, port):
        found = waits(process.pid, "accept4")
        assert f"socket listening at 127.0.0.1:{port}" == found.target


def test_sleep_has_no_target() -> None:
    with blocked(SLEEP) as (process, _):
        call = "clock_nanosleep" if sys.version_info >= (3, 11) else "select"
        assert "" == waits(process.pid, call).target


def test_a_process_that_is_gone_has_no_threads() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert [] == threads_of(process.pid) == children_of(process.pid)
    assert Wait() == wait_of(process.pid, process.pid, "S", Machine())


def test_the_main_thread_comes_first() -> None:
    assert os.getpid() == threads_of(os.getpid())[0]


LOCKS = """\
1: FLOCK  ADVISORY  WRITE 700 08:01:123 0 EOF
1: -> FLOCK  ADVISORY  WRITE 701 08:01:123 0 EOF
1: -> FLOCK  ADVISORY  WRITE 702 08:01:123 0 EOF
2: POSIX  ADVISORY  READ 703 08:01:124 0 10
3: OFDLCK ADVISORY  READ -1 08:01:125 0 EOF
3: -> OFDLCK ADVISORY  WRITE 704 08:01:125 0 EOF
"""


def test_locks() -> None:
    """The holder of an open file description lock is unknown."""
    assert {701: 700, 702: 700} == waits_for_locks(LOCKS)


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:733D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 501 1 0
   1: 0100007F:9C40 0200000A:733D 01 00000000:00000000 00:00000000 00000000     0        0 502 1 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F90 000080FE00000000000000000100000A:0050 01 0:0 00:0 0 0 0 503 1
   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:0051 01 0:0 00:0 0 0 0 504 1
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the samples are of a little-endian machine")
def test_sockets() -> None:
    assert {"501": "listening at 127.0.0.1:29501", "502": "10.0.0.2:29501"} == peers(TCP)
    assert {"503": "[fe80::a00:1]:80", "504": "127.0.0.2:81"} == peers(TCP6)
