"""Scripts that fail, each in its own way: the report names the right rank and the right cause, in a few lines.

The scripts are in `zoo/`. What a report must not contain would lead away from the cause.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from running import outcome
from zoo_cases import CASES, ZOO, Case, by_launcher, first_rank, lacks, report

FOR_ALL_LAUNCHERS = ("handled_then_segfault", "error_in_cleanup", "logged_to_stdout", "leaves_early", "slow_cleanup")
"""Cases in which the launcher matters; the others run with fork."""


@pytest.mark.parametrize(("case", "launcher"), by_launcher(CASES, FOR_ALL_LAUNCHERS))
def test_the_report_names_rank_and_cause(muster: Any, case: Case, launcher: str) -> None:
    if case.name == "group" and sys.version_info < (3, 11):
        pytest.skip("groups of exceptions are new in Python 3.11")
    done = muster("run", "-g", "4", "--launcher", launcher, str(ZOO / f"{case.name}.py"))
    told = report(done.stderr)
    assert case.rank == first_rank(told), told
    assert [] == lacks(case.words, told), told
    assert [] == [words for words in case.misleads if words in told], told
    assert done.returncode in case.status, told
    assert len(told.splitlines()) < 25
    roles = {end["rank"]: end["role"] for end in outcome(muster)["exits"]}
    assert case.rank is None or ("cause", 1) == (roles[case.rank], list(roles.values()).count("cause"))


def test_a_success_has_notes_about_what_went_wrong(muster: Any) -> None:
    done = muster("run", "-g", "2", str(ZOO / "save_fails_at_exit.py"))
    assert 0 == done.returncode
    told = report(done.stderr)
    assert "note: rank 0: a function registered with atexit failed: OSError: no checkpoint: quota exceeded" in told
    assert "note: ranks 0-1: the last loss in its output is nan" in told
