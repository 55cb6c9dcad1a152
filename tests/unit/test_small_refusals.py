"""Refusals that need no run: programs that are no Python, directories that others cannot enter, unknown states."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from muster.agent.bootstrap import agent_argv, is_no_python
from muster.client import pruning
from muster.client.status import RunStatus
from muster.core.events import Escalating
from muster.core.results import Problem, ProblemKind, RunState, StopKind, StopReason
from muster.core.verdict import Activity, Situation
from muster.errors import InvalidRequest, Unreachable
from muster.lab.requirements import check_reachable
from muster.rundir.run import Run
from muster.ui.hang_text import doing_in_words
from muster.ui.reason_text import notice_in_words


@pytest.mark.parametrize(("program", "expected"), [("/bin/ls", True), ("/bin/true", True), ("/bin/false", False)])
def test_a_program_that_is_no_python_is_recognized(program: str, expected: bool) -> None:
    """/bin/false ends as a Python would that cannot start."""
    done = subprocess.run(agent_argv(program), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert expected is is_no_python(done.stderr, done.returncode)


def test_a_lab_below_a_closed_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 1:
            path.chmod(path.stat().st_mode | 1)
    check_reachable(str(tmp_path / "new" / "lab"))
    (tmp_path / "closed").mkdir(mode=0o700)
    check_reachable(str(tmp_path / "closed"))  # `up` opens it
    with pytest.raises(InvalidRequest, match=f"other users cannot enter {tmp_path}/closed"):
        check_reachable(str(tmp_path / "closed" / "new" / "lab"))


def test_only_force_deletes_a_run_whose_state_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "20261121-120000-abcdef")
    monkeypatch.setattr(pruning, "statuses", lambda runs, within: [RunStatus(RunState.UNKNOWN, why="n1: no answer")])
    with pytest.raises(Unreachable, match="is unknown: n1: no answer") as caught:
        pruning.refuse_living([run], 1.0)
    assert "muster rm --force" in (caught.value.hint or "")
    pruning.refuse_living([run], 1.0, force=True)


def test_no_signal_is_reported_for_a_rank_that_cannot_be_started() -> None:
    problem = Problem(ProblemKind.RANK, ("a",), text="No such file or directory: nosuchwrap")
    reason = StopReason(StopKind.PROBLEM, problems=(problem,))
    assert (
        "cannot start rank 0: No such file or directory: nosuchwrap; "
        "sending SIGTERM to the ranks that have started, grace period 30s"
    ) == notice_in_words(Escalating(15, (0, 1), 30.0, reason))


def test_a_rank_that_ended_with_the_recording_has_no_age() -> None:
    ended = Situation((1,), Activity.EXITED, seconds=0.0, signal=9)
    assert "killed by SIGKILL" == doing_in_words(ended)
    assert "killed by SIGKILL 2m ago" == doing_in_words(ended._replace(seconds=120.0))
