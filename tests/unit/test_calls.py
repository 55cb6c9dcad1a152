"""Programs sent to a host: their text is a constant, and their arguments follow as data."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.agent.bootstrap import agent_argv, calls_source
from muster.protocol.frames import MAGIC, FrameDecoder, Refused, encode_frame, read_call

NASTY = ["", "x'); open('made', 'w')#", 'x"\n', "'''\n\\", "{0!r}%s", "\udc80", "$(touch made)", "-c", "x\0"]


def call(folder: Path, sent: bytes, home: Path, then: bytes = b"") -> list[tuple[dict[str, Any], bytes]]:
    """Return the answer of a new Python that is sent this program and message, and further messages once it runs."""
    process = subprocess.Popen(
        agent_argv(sys.executable),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"MUSTER_HOME": str(home)},
        bufsize=0,
    )
    assert process.stdin and process.stdout
    assert process.stdin.write(text := calls_source() + sent) == len(text)
    assert MAGIC == process.stdout.read(len(MAGIC))
    out, err = process.communicate(then, timeout=120)
    assert b"" == err
    return FrameDecoder().feed(out)


def test_arguments_are_data(tmp_path: Path) -> None:
    """Arguments are looked up as they are, and nothing in them is executed."""
    (tmp_path / "runs" / "20261127-000000-abcdef").mkdir(parents=True)
    for which in NASTY[1:5]:
        ((fields, _),) = call(tmp_path, encode_frame("call", name="introduce", args={"which": which}), tmp_path)
        assert {"kind": "run_described", "there": "", "files": {}, "fits": []} == fields
    ((fields, _),) = call(
        tmp_path, encode_frame("call", name="visit", args={"run_dir": f"{tmp_path}/{NASTY[1]}"}), tmp_path
    )
    assert {"kind": "no_controller", "there": False} == fields
    assert ["runs"] == [path.name for path in tmp_path.iterdir()]


def test_calls_are_executed(tmp_path: Path) -> None:
    """Only the missing part of a file is sent."""
    run = tmp_path / "runs" / "20261127-000000-abcdef"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("one\ntwo\n")
    (run / "job.json").write_text(json.dumps({"id": run.name}))
    sent = call(tmp_path, encode_frame("call", name="introduce", args={"which": "2026"}), tmp_path)
    assert (str(run), [run.name]) == (sent[0][0]["there"], sent[0][0]["fits"])
    visit = encode_frame("call", name="visit", args={"run_dir": str(run)})
    sent = call(
        tmp_path, visit, run, encode_frame("files", have={"events.jsonl": 4}, last=False) + encode_frame("heartbeat")
    )
    assert {"kind": "no_controller", "there": True} == sent[0][0]
    files = {fields["name"]: (fields["offset"], data) for fields, data in sent if fields["kind"] == "file"}
    assert (4, b"two\n") == files["events.jsonl"] and 0 == files["job.json"][0]
    assert "done" == sent[-1][0]["kind"]


def test_a_call_takes_no_byte_more_than_it_has() -> None:
    """Data that a client sends after the call are for the process that the program relays to."""
    for which in NASTY:
        file = io.BytesIO(encode_frame("call", name="introduce", args={"which": which}) + b"\0more")
        assert ("introduce", {"which": which}) == read_call(file)
        assert b"\0more" == file.read()


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", encode_frame("call", name="x", args={})[:-3], encode_frame("state"), b"\0" * 8]
)
def test_invalid_calls_are_rejected(data: bytes) -> None:
    """For example the end of a killed client."""
    with pytest.raises(Refused):
        read_call(io.BytesIO(data))
