"""Scripts that fail or hang, each in its own way, and what muster has to say about them.

The scripts are in `real/zoo/`. Their ranks 0 to 3 do what matters, so they run with more ranks as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ZOO = Path(__file__).parent / "real" / "zoo"


class Case(NamedTuple):
    """A script that fails, and what its report says."""

    name: str
    rank: int | None
    """The rank to be named; None if no rank can be."""
    words: tuple[str, ...]
    status: tuple[int, ...] = (1,)
    misleads: tuple[str, ...] = ()
    """What would lead away from the cause."""


CASES = [
    Case("handled_then_segfault", 1, ("SIGSEGV",), (139,), ("flash_attention",)),
    Case("handled_then_exit_3", 2, ("exit status 3",), (3,), ("flash_attention",)),
    Case("all_log_handled", 3, ("ValueError: token 50300", "in check)"), misleads=("flash_attention",)),
    Case("raise_from", 2, ("RuntimeError: cannot build the schedule", "caused by KeyError: 'warmup'", "in look_up)")),
    Case("error_in_cleanup", 3, ("ValueError: bad label -7 in shard 3", "(error_in_cleanup.py:11 in check)")),
    Case("group", 1, ("LookupError: shard 4 is empty",)),
    Case("recursion", 2, ("RecursionError", "in descend)")),
    Case("out_of_memory", 1, ("can't allocate memory", "in allocate)")),
    Case("slow_cleanup", 1, ("OSError: corrupt record in shard 1",)),
    Case("wrapped_by_all", 3, ("IndexError: token id 50300 is out of range", "in tokenize)")),
    Case("own_server_refused", 2, ("ConnectionRefusedError", "in fetch)")),
    Case("own_port_in_use", 1, ("Address already in use", "in serve)"), misleads=("MASTER_PORT",)),
    Case("leaves_early", 2, ("exited with status 0 while other ranks still worked",)),
    Case("barrier_missed", 2, ("did not come", "Rank 2 failed to pass monitoredBarrier")),
    Case("late_to_init", 1, ("did not come",)),
    Case("collective_times_out", 1, ("in evaluate", "collective_times_out.py:12")),
    Case("different_types", 2, ("float64 [1000]",), (1, 134)),
    Case("different_shapes", 1, ("[3000]",), (1, 134)),
    Case("logged_to_stdout", 1, ("LookupError: vocabulary of shard 1 is empty", "in read)")),
    Case("logged_then_exit_1", 1, ("LookupError: vocabulary of shard 1 is empty", "in read)")),
    Case("thread_ends_the_rank", 1, ("OSError: shard 7 is unreadable", "in prefetch)")),
    Case("long_message", 3, ("Error(s) in loading state_dict for Net: Missing key in state_dict", "in load)")),
    Case("deep_library", 2, ("TypeError: an open file cannot be copied", "in duplicate_model", "in __deepcopy__)")),
    Case("stderr_gone", 1, ("ValueError: expected 3 channels, got 4", "raise ValueError(")),
    Case("silent_excepthook", 3, ("ValueError: 5 heads do not divide 64", "(silent_excepthook.py:15 in check)")),
    Case("worker_killed", 3, ("DataLoader worker", "killed")),
    Case("worker_raises", 0, ("ValueError: image 0 is truncated", "in __getitem__)")),
    Case("all_alike", None, ("ranks raised FloatingPointError within ", "loss is nan")),
    Case("truncated_mapping", 0, ("SIGBUS", "truncated"), (135,), ("/dev/shm",)),
    Case("thread_died_before", 3, ("ValueError: head dimension 80 is not supported",), misleads=("tracker",)),
    Case("disk_full", 0, ("is full", "in save)")),
    Case("interrupted", 2, ("KeyboardInterrupt", "in read_key)"), (130,)),
    Case("aborts", 1, ("SIGABRT",), (134,)),
    Case("killed_from_outside", 2, ("SIGKILL",), (137,)),
    Case("own_exit_code", 3, ("exit status 7",), (7,)),
    Case("exits_with_words", 1, ("the learning rate must be positive",)),
]


class Hang(NamedTuple):
    """A script that hangs, and the first line of `muster why`."""

    name: str
    words: tuple[str, ...]
    """Where it has several ranks' hosts, ` on HOST` stands after the ranks."""


HANGS = [
    Hang("asleep", ("rank 3 has not entered all_reduce #11 (float32 [1, 8], loop.py:", "in wait_for_data", "sleeping")),
    Hang("computes_forever", ("rank 2 has not entered all_reduce #11", "in refine", "computing")),
    Hang("reads_fifo", ("rank 2 has not entered", "in read_batches", "of a FIFO /")),
    Hang("waits_for_file_lock", ("rank 1 has not entered", "in lock_index", "waiting for the lock of /tmp/index-")),
    Hang("waits_for_subprocess", ("rank 0 has not entered", "in convert", "(sleep) is sleeping")),
    Hang("worker_waits", ("rank 1 has not entered", "in load", "waiting for a batch of its DataLoader")),
    Hang("dead_lock", ("rank 1 has not entered", "in update_cache", "waiting for a lock")),
    Hang("stopped", ("rank 3 has not entered", "Rank 3 is stopped by a signal (SIGSTOP).")),
    Hang("forgotten_breakpoint", ("rank 2 has not entered", "in inspect", "debugger")),
    Hang("never_joins", ("rank 2 has not called init_process_group (loop.py:", "in wait_for_file", "sleeping")),
    Hang("wrong_port", ("rank 1 cannot complete init_process_group", "Its MASTER_PORT is 9;")),
    Hang("different_calls", ("rank 2 is in broadcast #11 (float32 [4], different_calls.py:", "all_gather #11")),
    Hang("one_call_too_many", ("rank 2 is in barrier #11 (one_call_too_many.py:", "but ranks", "all_reduce #11")),
    Hang("groups_in_circle", ("ranks wait for each other", "of process group")),
    Hang("leaves_the_store_waiting", ("rank 2 exited with status 0", "wait for it in TCPStore.get")),
]


def by_launcher(cases: Iterable[Case | Hang], for_all: Iterable[str]) -> list[Any]:
    """Return parameters of a test: each script with fork, those named in `for_all` with exec and torchrun too."""
    return [
        pytest.param(case, launcher, id=f"{case.name}-{launcher}")
        for case in cases
        for launcher in ("fork", "exec", "torchrun")
        if launcher == "fork" or case.name in for_all
    ]


def report(stderr: str) -> str:
    """Return the report at the end: muster's output from its last message on."""
    return stderr.rpartition("\nmuster: ")[2]


def first_rank(told: str) -> int | None:
    """Return the rank that a report says failed first; None if it names none."""
    named = re.search(r"^(?:muster: )?rank (\d+)(?: on \S+)? failed(?: first)?,", told, re.MULTILINE)
    return int(named[1]) if named else None


def lacks(words: tuple[str, ...], told: str) -> list[str]:
    """Return which of these words a text lacks; hosts in it do not count."""
    plain = re.sub(r"(\branks? [\d,-]+) on n[\w\[\],-]+", r"\1", told)
    return [word for word in words if word not in plain]
