"""The lines of ranks' logs in the order of writing, for a Python program that reads or follows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from muster.client.client import Client
from muster.client.follow import Follower, Mirror
from muster.core.layout import fold
from muster.errors import InvalidRequest
from muster.rundir.log_order import Ordered
from muster.rundir.run import Run

_LOOK = 0.1
"""Seconds between checks of the logs of a running run."""


def read(run: Run, ranks: Sequence[int] | None, follow: bool, stream: str | None) -> Iterator[str]:
    """Yield the lines of these ranks, or of all. Raises `InvalidRequest`."""
    if stream not in (None, "out", "err"):
        raise InvalidRequest(f"unknown stream: {stream}", "use `out` or `err`")
    return _lines(run, ranks, follow, ["out", "err"] if stream is None else [stream])


def _lines(run: Run, ranks: Sequence[int] | None, follow: bool, streams: Sequence[str]) -> Iterator[str]:
    parts: dict[tuple[int, str], bytes] = {}
    with Client(run) as client:
        client.sync_files()
        follower, mirror, shown, attempt = None, None, None, -1
        while True:
            if follow and follower is None:
                # the ranks are known once there is a plan, which is after a scheduler has started the job
                if run.plan is not None and run.attempts():
                    mirror = Mirror(run, tuple(range(int(run.job.get("ranks") or 1))) if ranks is None else ranks)
                follower = Follower(run, client, mirror=mirror)
            elif follow and follower is not None and mirror is None and run.plan is not None:
                mirror = Mirror(run, tuple(range(int(run.job.get("ranks") or 1))) if ranks is None else ranks)
                follower.mirror = mirror
            # before the files are read, so that nothing written later is missed
            found = follower.look() if follower is not None else None
            last = follower is None or found is None or not follower.goes_on(found)
            newer = [number for number in run.attempts() if number > attempt]
            if shown is None and newer:
                attempt = newer[-1] if not follow else newer[0]
                shown, newer = (
                    _ordered(run, attempt, ranks, streams, mirror),
                    [number for number in newer if number > attempt],
                )
            if shown is not None:
                several = len({rank for rank, _ in shown.places}) > 1
                for written in shown.read(bool(last or newer)):
                    key = written.rank, written.stream
                    *whole, parts[key] = (parts.get(key, b"") + written.data).split(b"\n")
                    for line in whole:
                        yield _text(written.rank, line, several)
                if last or newer:
                    for (rank, _), line in sorted(parts.items()):
                        if line:
                            yield _text(rank, line, several)
                    parts.clear()
            if newer and follow:
                if shown is not None:
                    shown.close()
                attempt = newer[0]
                shown = _ordered(run, attempt, ranks, streams, mirror)
            elif last or follower is None:
                break
            else:
                follower.pause(_LOOK)
        if shown is not None:
            shown.close()


def _ordered(
    run: Run, attempt: int, ranks: Sequence[int] | None, streams: Sequence[str], mirror: Mirror | None
) -> Ordered:
    every = range(int(run.job.get("ranks") or 1))
    wrong = [rank for rank in ranks or () if rank not in every]
    if wrong:
        raise InvalidRequest(f"{run.id} has no rank {wrong[0]}", f"its ranks are {fold(every)}")
    keys = [(rank, stream) for rank in (every if ranks is None else ranks) for stream in streams]
    return Ordered(run, attempt, keys) if mirror is None else Ordered(run, attempt, keys, mirror.take)


def _text(rank: int, line: bytes, several: bool) -> str:
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return f"[{rank}] {text}" if several else text
