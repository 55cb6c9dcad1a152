"""Untrusted text (names, messages of hosts, stderr, events) is shown, but never interpreted by a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from muster.core import printable
from muster.protocol.frames import MAGIC, encode_frame

EVIL = "\x1b[2Jx\x9b31m\u202egpj.\u2066\x07\x7f\r"
FORGED = "\nmuster: all 4 ranks succeeded"

HOSTILE = """#!{python}
import os, sys
sys.stdin.buffer.readline()
os.write(2, {stderr!r})
os.write(1, {stdout!r})
sys.exit({code})
"""
"""A replacement for ssh, with all that a hostile host can answer."""


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., str]:
    """Create a host that answers these bytes; return the value of `--ssh`."""

    def make(stdout: bytes = b"", stderr: bytes = b"", code: int = 255) -> str:
        path = tmp_path / "ssh"
        path.write_text(HOSTILE.format(python=sys.executable, stdout=stdout, stderr=stderr, code=code))
        path.chmod(0o755)
        return str(path)

    return make


def is_safe(text: str) -> bool:
    """Check that a terminal interprets none of it, and that no line of it is forged."""
    return all(char in "\n\t" or char.isprintable() for char in text) and FORGED not in text


def test_characters() -> None:
    assert "\\x1b[2Jx\\x9b31m\\u202egpj.\\u2066\\x07\\x7f\\r" == printable.line(EVIL)
    assert "a\\nb\tc" == printable.line("a\nb\tc")
    assert "a\nb\tc" == printable.lines("a\nb\tc")
    others = "\u00e9\u4e2d\U0001f600 \udcff \ud800 \u2028"
    assert "\u00e9\u4e2d\U0001f600 \\xff \\ud800 \\u2028" == printable.lines(others)


def test_words_of_ssh(muster: Any, host: Callable[..., str]) -> None:
    ssh = host(stderr=(EVIL + FORGED).encode())
    for words in (("run", "-H", "n1", "-g", "1", "--", "true"), ("doctor", "-H", "n1"), ("clean", "-H", "n1")):
        done = muster(words[0], "--ssh", ssh, *words[1:])
        assert 0 != done.returncode
        assert "\\x1b[2J" in done.stdout + done.stderr
        assert is_safe(done.stdout + done.stderr), done.stdout + done.stderr


def test_frames_of_a_host(muster: Any, host: Callable[..., str]) -> None:
    found = {"process": f"sleep{EVIL}{FORGED}", "pid": 17, "state": "S", "gpu": False}
    evil = f"run{EVIL}{FORGED}"
    told = {"runs": {evil: [found]}, "folders": {evil: [f"/tmp/{EVIL}{FORGED}"]}, "left": [found]}
    done = muster("clean", "-H", "n1", "--ssh", host(stdout=MAGIC + encode_frame("cleaned", **told), code=0))
    assert 1 == done.returncode and "orphaned process, still running: sleep\\x1b[2J" in done.stderr, done.stderr
    assert "; /tmp/\\x1b[2J" in done.stdout and is_safe(done.stdout + done.stderr), done.stdout + done.stderr
    del told["folders"]
    for wrong in (told, {**told, "folders": {evil: [17]}}, {**told, "folders": {}, "left": [EVIL]}):
        done = muster("clean", "-H", "n1", "--ssh", host(stdout=MAGIC + encode_frame("cleaned", **wrong), code=0))
        assert (3, True) == (done.returncode, "n1: invalid answer: " in done.stderr), done.stderr
        assert is_safe(done.stdout + done.stderr), done.stdout + done.stderr


def test_a_rank_that_fails(muster: Any, script: Callable[..., Path]) -> None:
    """The rank's own output is shown unchanged; muster's text about it is sanitized."""
    script(f"import sys\nprint({EVIL!r})\nraise ValueError({EVIL + FORGED!r})\n")
    done = muster("run", "-g", "1", "--launcher", "exec", "script.py", encoding="utf-8", errors="surrogateescape")
    assert 1 == done.returncode
    assert "\x1b[2Jx" in done.stdout
    report = done.stderr[done.stderr.rindex("muster: rank 0: ") :]
    assert "ValueError: x\\x9b31m" in report, "colours and what moves the cursor are left out, the rest is made visible"
    assert is_safe(report), report
    shown = muster("show", "last")
    assert "ValueError: x\\x9b31m" in shown.stdout and is_safe(shown.stdout), shown.stdout


def test_the_files_of_a_run(muster: Any) -> None:
    assert 0 == muster("run", "-g", "1", "--", "true").returncode
    run = muster.newest()
    job = json.loads((run / "job.json").read_text())
    job.update(name=f"x{EVIL}{FORGED}", started=EVIL, host=EVIL, cwd=FORGED, argv=["muster", f"a{EVIL}{FORGED}"])
    (run / "job.json").write_text(json.dumps(job))
    for words in (("ps",), ("show", run.name), ("kill", run.name), ("logs", run.name), ("kill", EVIL), (EVIL,)):
        done = muster(*words)
        assert "Traceback" not in done.stderr
        assert is_safe(done.stdout + done.stderr), done.stdout + done.stderr


def test_characters_that_the_terminal_has_not(muster: Any) -> None:
    done = muster("--help", env={**muster.env, "PYTHONIOENCODING": "ascii"})
    assert 0 == done.returncode and "SCRIPT [ARGS\\u2026]" in done.stdout, done.stderr
