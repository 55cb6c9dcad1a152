"""Scripts that fail, each in its own way: the report names the right rank and the right cause, in a few lines.

The scripts are in `zoo/`. What a report must not contain would lead away from the cause.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from running import outcome

ZOO = Path(__file__).parent / "zoo"


class Case(NamedTuple):
    """A script that fails, and what its report says."""

    name: str
    rank: int | None
    """The rank to be named; None if no rank can be."""
    words: tuple[str, ...]
    status: tuple[int, ...] = (1,)
    misleads: tuple[str, ...] = ()
    takes_long: bool = False
    """True if it waits for seconds, so that it runs with one launcher only."""


CASES = [
    Case("handled_then_segfault", 1, ("SIGSEGV",), (139,), ("flash_attention",)),
    Case("handled_then_exit_3", 2, ("exit status 3",), (3,), ("flash_attention",)),
    Case("raise_from", 2, ("RuntimeError: cannot build the schedule", "caused by KeyError: 'warmup'", "in look_up)")),
    Case("error_in_cleanup", 3, ("ValueError: bad label -7 in shard 3", "(error_in_cleanup.py:11 in check)")),
    Case("group", 1, ("LookupError: shard 4 is empty",)),
    Case("slow_cleanup", 1, ("OSError: corrupt record in shard 1",), takes_long=True),
    Case("wrapped_by_all", 3, ("IndexError: token id 50300 is out of range", "in tokenize)")),
    Case("own_server_refused", 2, ("ConnectionRefusedError", "in fetch)")),
    Case("own_port_in_use", 1, ("Address already in use", "in serve)"), misleads=("MASTER_PORT",)),
    Case("leaves_early", 2, ("exited with status 0 while other ranks still worked",)),
    Case("barrier_missed", 2, ("did not come", "Rank 2 failed to pass monitoredBarrier"), takes_long=True),
    Case("late_to_init", 1, ("did not come",), takes_long=True),
    Case("logged_to_stdout", 1, ("LookupError: vocabulary of shard 1 is empty", "in read)")),
    Case("long_message", 3, ("Error(s) in loading state_dict for Net: Missing key in state_dict", "in load)")),
    Case("deep_library", 2, ("TypeError: an open file cannot be copied", "in duplicate_model", "in __deepcopy__)")),
    Case("stderr_gone", 1, ("ValueError: expected 3 channels, got 4", "raise ValueError(")),
    Case("silent_excepthook", 3, ("ValueError: 5 heads do not divide 64", "(silent_excepthook.py:15 in check)")),
    Case("worker_killed", 3, ("DataLoader worker", "killed"), takes_long=True),
    Case("worker_raises", 0, ("ValueError: image 0 is truncated", "in __getitem__)"), takes_long=True),
    Case("all_alike", None, ("all 4 ranks raised FloatingPointError within 0.", "loss is nan")),
    Case("truncated_mapping", 0, ("SIGBUS", "truncated"), (135,), ("/dev/shm",)),
    Case("thread_died_before", 3, ("ValueError: head dimension 80 is not supported",), misleads=("tracker",)),
    Case("disk_full", 0, ("is full", "in save)")),
    Case("interrupted", 2, ("KeyboardInterrupt", "in read_key)"), (130,)),
    Case("aborts", 1, ("SIGABRT",), (134,)),
    Case("exits_with_words", 1, ("the learning rate must be positive",)),
]

FOR_ALL_LAUNCHERS = ("handled_then_segfault", "error_in_cleanup", "logged_to_stdout", "leaves_early", "slow_cleanup")
"""Cases in which the launcher matters; the others run with fork."""

RUNS = [
    pytest.param(case, launcher, id=f"{case.name}-{launcher}")
    for case in CASES
    for launcher in ("fork", "exec", "torchrun")
    if launcher == "fork" or case.name in FOR_ALL_LAUNCHERS
]


def report(stderr: str) -> str:
    """Return the report at the end: muster's output from its last message on."""
    return stderr.rpartition("\nmuster: ")[2]


@pytest.mark.parametrize(("case", "launcher"), RUNS)
def test_the_report_names_rank_and_cause(muster: Any, case: Case, launcher: str) -> None:
    if case.name == "group" and sys.version_info < (3, 11):
        pytest.skip("groups of exceptions are new in Python 3.11")
    done = muster("run", "-g", "4", "--launcher", launcher, str(ZOO / f"{case.name}.py"))
    told = report(done.stderr)
    named = re.search(r"^(?:muster: )?rank (\d+)(?: on \S+)? failed first", told, re.MULTILINE)
    assert case.rank == (int(named[1]) if named else None), told
    assert [] == [words for words in case.words if words not in told], told
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
