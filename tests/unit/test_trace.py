"""Output of `MUSTER_TRACE=1`: one line for each message, without anything that may be secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster.protocol import trace
from muster.protocol.frames import encode_frame
from muster.protocol.messages import MESSAGES, TO_AGENT, TO_CONTROLLER
from muster.protocol.trace import Tracer, in_words


def test_what_may_be_secret_is_never_shown() -> None:
    """Tokens and secrets, arguments, values of variables; contents of runs and files."""
    secret = "hunter2"
    hidden = {"token", "secret", "nonce", "mac", "incarnation", "env", "late", "environment", "configuration"}
    hidden |= {"rank_command", "commands", "brings", "files", "plan", "children", "argv", "words", "texts", "outcome"}
    for message in MESSAGES:
        if (message.sender, message.kind) == ("agent", "launcher_exited"):
            continue  # its words are sentences
        for name, type_ in message.fields.items():
            for value in (secret, [secret], {"A": secret}, [{"A": secret}]):
                if name in hidden and type_.right(value):
                    assert secret not in type_.shown(value), (message.kind, name)


def test_unknown_messages_are_marked_and_not_shown() -> None:
    assert "start_ranks ?attempt late={1} ?more" == in_words(
        TO_AGENT, {"kind": "start_ranks", "late": {"A": "b"}, "more": "hunter2"}
    )
    assert "open_store attempt=? host='n1'" == in_words(TO_AGENT, {"kind": "open_store", "attempt": "0", "host": "n1"})
    assert r"?a\nb" == in_words(TO_AGENT, {"kind": "a\nb"})
    process = {"process": "python train.py", "pid": 17, "state": "S", "gpu": False}
    cleaned = {"kind": "cleaned_up", "t": 1.0, "ended": [process], "left": []}
    assert "cleaned_up ended=[1] left=[0]" == in_words(TO_CONTROLLER, cleaned)
    assert r"note text='a\n\x1b[31mb'" == in_words(TO_CONTROLLER, {"kind": "note", "t": 1.0, "text": "a\n\x1b[31mb"})


def test_lines_go_into_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: False)
    tracer = Tracer(str(tmp_path), "controller", "agent", "n1")
    tracer.sent(encode_frame("stdin", b"hunter2", at=5, end=False) + encode_frame("bye", drain=True))
    tracer.heard({"kind": "scheduler_signal", "t": 1.0})
    lines = (tmp_path / trace.FILE).read_text().splitlines()
    assert 0o600 == (tmp_path / trace.FILE).stat().st_mode & 0o777
    assert [
        "controller > agent n1: stdin at=5 end=no +7 bytes",
        "controller > agent n1: bye drain=yes",
        "agent n1 > controller: scheduler_signal",
    ] == [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in lines]


def test_nothing_is_traced_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, wanted in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("MUSTER_TRACE", value)
        assert wanted == trace.wanted() == (trace.tracer("", "client", "controller") is not None)
