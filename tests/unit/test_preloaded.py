"""Which changes make a new preloaded interpreter necessary, and messages that are sealed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.agent.preloaded import changed_variables, packages_in, stamp_of
from muster.protocol.frames import Refused
from muster.protocol.sealing import sealed, unsealed


def test_variables_that_matter_to_an_interpreter() -> None:
    before = {"PATH": "/a", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "LANG": "C", "EDITOR": "vi", "READ": "1"}
    same = {**before, "PATH": "/b", "EDITOR": "nano", "RANDOM_NAME": "1", "OLDPWD": "/"}
    assert [] == changed_variables(before, same, ["READ", "PATH"])
    now = {"PYTHONHASHSEED": "1", "TORCH_CPP_LOG_LEVEL": "INFO", "LANG": "C.UTF-8", "LD_PRELOAD": "x.so"}
    changed = ["LANG", "LD_PRELOAD", "OMP_NUM_THREADS", "PYTHONHASHSEED", "READ", "TORCH_CPP_LOG_LEVEL"]
    assert changed == changed_variables(before, now, ["READ"]), "also those that are unset"


def test_an_installation_changes_the_stamp(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    path = packages_in([str(tmp_path), str(packages), "/nowhere/dist-packages"])
    assert path == [str(packages), "/nowhere/dist-packages"]
    before = stamp_of(path)
    assert list(before) == [str(packages)]
    assert stamp_of(path) == before
    os.utime(packages, ns=(1, 1))
    assert stamp_of(path) != before


def test_a_sealed_message_is_only_for_who_knows_the_secret() -> None:
    text = b'{"TOKEN": "hunter2"}' * 1000
    message = sealed("secret", text)
    assert unsealed("secret", message) == text
    assert b"hunter2" not in message
    assert sealed("secret", text) != message, "the same text is never the same message"
    for changed in (message[:-1] + bytes([message[-1] ^ 1]), bytes([message[0] ^ 1]) + message[1:], message[:40], b""):
        with pytest.raises(Refused):
            unsealed("secret", changed)
    with pytest.raises(Refused):
        unsealed("another", message)
    assert unsealed("secret", sealed("secret", b"")) == b""
