"""Scripts that hang, each in its own way: `muster why` names the right rank and the right cause."""

from __future__ import annotations

from typing import Any

import pytest
from running import RunProcesses
from waiting import until
from zoo_cases import HANGS, ZOO, Hang, by_launcher, lacks

FOR_ALL_LAUNCHERS = ("worker_waits", "never_joins", "one_call_too_many", "leaves_the_store_waiting")
"""Hangs in which the launcher matters; the others run with fork."""


@pytest.mark.parametrize(("hang", "launcher"), by_launcher(HANGS, FOR_ALL_LAUNCHERS))
def test_why_names_rank_and_cause(muster: Any, hang: Hang, launcher: str) -> None:
    path = str(ZOO / f"{hang.name}.py")
    with RunProcesses(muster, "run", "-g", "4", "--grace", "5", "--launcher", launcher, path) as run:
        seen = [""]

        def verdict() -> bool:
            done = muster("why", "last")
            if done.returncode:
                assert "no running ranks" in done.stderr, done.stderr  # not yet
                return False
            seen.append(done.stdout.partition("\n")[0])
            return lacks(hang.words, seen[-1]) == []

        try:
            until(verdict, "the verdict", 150)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen[-1]}") from None
        assert 0 == muster("kill", "last").returncode
        run.end()
