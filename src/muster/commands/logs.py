"""`muster logs`: what the ranks of a run wrote, from their files."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from muster import runs
from muster.commands.common import one, read
from muster.errors import Impossible
from muster.ranks import fold
from muster.stored import Malformed, checked, number, table, whole
from muster.world import contact
from muster.world.pen import forsaken, write
from muster.world.terminal import Lines, colourful, prefixes

Key = tuple[int, str]

_REFRESH = 2.0
"""Seconds between two looks at a run whose files are on another machine."""


def logs(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the logs; with `-f` go on until the run ends."""
    asked = read("logs", words, env, "what the ranks of a run wrote")
    if asked is None:
        return 0
    given, rest, store = asked
    run = one(store, rest, "logs")
    if not contact.refresh(run):
        print(f"{run.job['served']['name']} does not answer: this is what has come before", file=sys.stderr)
    following = given.get("follow", False)
    attempts = run.attempts()
    attempt = given.get("attempt", attempts[-1] if attempts else 0)
    if attempts and attempt not in attempts:
        raise Impossible(f"{run.id} has no attempt {attempt}", f"it has {fold(attempts)}")
    streams = [name for name, option in (("out", "stdout"), ("err", "stderr")) if given.get(option)] or ["out", "err"]
    if following:
        _await_start(run)
    every = range(int(run.job.get("ranks") or 1))
    chosen = given.get("rank") or tuple(every)
    wrong = [rank for rank in chosen if rank not in every]
    if wrong:
        raise Impossible(f"{run.id} has no rank {wrong[0]}", f"its ranks are {fold(every)}")
    at = _offsets(run, attempt, time.time() - given["since"]) if "since" in given else {}
    places = {(rank, stream): at.get((rank, stream), 0) for rank in chosen for stream in streams}
    host = str(run.job.get("host", ""))
    lines = Lines(prefixes({rank: (host, rank, 0) for rank in every}, given.get("prefix"), colourful(1, env)), False)
    looked = time.monotonic()
    while not forsaken(1):
        if following and time.monotonic() - looked > _REFRESH:
            contact.refresh(run)
            looked = time.monotonic()
        # both before the files are read: what is written after that is not missed
        last = not following or not contact.goes_on(run, contact.state(run))
        newer = [number for number in run.attempts() if number > attempt] if "attempt" not in given else []
        grown = [_print(run, attempt, key, places, lines) for key in places]
        if any(grown):
            continue
        if newer:
            write(1, lines.rest())
            attempt, places = newer[0], dict.fromkeys(places, 0)
        elif last:
            break
        else:
            time.sleep(0.1)
    write(1, lines.rest())
    if not run.attempts():
        starts = contact.goes_on(run, contact.state(run))
        why = "its ranks are about to start; `-f` waits for them" if starts else "its ranks were never started"
        print(f"{run.id} has no logs: {why}", file=sys.stderr)
    return 0


def _await_start(run: runs.Run) -> None:
    """Until the job of a run has started nobody knows how many ranks there are."""
    while contact.state(run) == "pending" or (not run.job.get("ranks") and contact.state(run) == "running"):
        time.sleep(0.2)


def _print(run: runs.Run, attempt: int, key: Key, places: dict[Key, int], lines: Lines) -> bool:
    """Print what is new in one file; True if there was something."""
    rank, stream = key
    found = False
    try:
        with run.open_log(attempt, rank, stream) as file:
            file.seek(places[key])
            while True:
                data = file.read(1 << 16)
                if not data:
                    return found
                found = True
                places[key] += len(data)
                write(1, lines.feed(rank, stream, data))
    except FileNotFoundError:
        return found


def _offsets(run: runs.Run, attempt: int, since: float) -> dict[Key, int]:
    """Where each file ended at a time: the last mark before it. Marks are a second apart."""
    found: dict[Key, int] = {}
    for path in run.path.glob("node_*/times.jsonl"):
        for line in run.lines_of(str(path.relative_to(run.path))):
            try:
                mark = checked(line, _MARK, tuple(_MARK))
            except Malformed:
                continue
            if mark["attempt"] == attempt and mark["time"] <= since:
                found.update(mark["at"])
    return found


def _sizes(value: Any) -> dict[Key, int]:
    """`{"3.out": 1024}`: how long each file was."""
    found = {}
    for name, size in table(value).items():
        rank, _, stream = name.partition(".")
        if rank.isascii() and rank.isdigit():
            found[int(rank), stream] = whole(size)
    return found


_MARK = {"attempt": whole, "time": number, "at": _sizes}
"""A line of times.jsonl."""
