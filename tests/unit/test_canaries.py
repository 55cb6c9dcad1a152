"""The search for planted secrets finds them in the bytes and in the names of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from canaries import MARK, RANK, SECRETS, Canaries, files_with
from waiting import until


def test_files_with_a_secret_are_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_bytes(b"\xff\0" + MARK.encode())
    (tmp_path / f"named {MARK}").touch()
    (tmp_path / "clean").write_text("canary")
    assert [str(tmp_path / "deep" / "log"), str(tmp_path / f"named {MARK}")] == sorted(files_with([tmp_path]))


def test_a_secret_on_a_command_line_is_seen_and_ranks_without_secrets_prove_nothing(tmp_path: Path) -> None:
    env: dict[str, str] = {}
    watch = Canaries(env, tmp_path)
    assert set(SECRETS) == set(env)
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen([*wait, MARK], stdin=subprocess.PIPE) as shows:
        until(lambda: watch.on_command_lines, "it is seen")
        assert not watch.reached
        shows.communicate()
    with subprocess.Popen(
        wait,
        stdin=subprocess.PIPE,
        env={**os.environ, **env, "DATASET": env["MUSTER_ENV"][8:], RANK.decode()[1:-1]: "1"},
    ) as rank:
        until(lambda: watch.reached, "a rank has them")
        rank.communicate()
    with pytest.raises(AssertionError, match=MARK):
        watch.check()
