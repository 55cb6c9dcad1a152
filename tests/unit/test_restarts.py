"""Which failures are not worth a restart, and how long the others wait."""

from __future__ import annotations

import pytest

from muster.core.restarts import Attempt, cause_of, delay, repeated
from muster.core.results import Failure, FailureKind, RankExit, Repeated

FRAMES = (
    "Traceback (most recent call last):",
    '  File "/home/ann/train.py", line 21, in <module>',
    '    check("label")',
    '  File "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1751, in _call_impl',
    "ValueError: bad label -7",
)


def raised(line: int = 21, summary: str = "ValueError: bad label -7") -> Failure:
    frames = tuple(text.replace("line 21", f"line {line}") for text in FRAMES)
    return Failure(FailureKind.EXCEPTION, 5.0, summary, frames)


def failed(end: RankExit, began: float = 1.0) -> Attempt:
    return Attempt(end, began, end.when)


RAISED = RankExit(2, 0, 5.0, 1, failure=raised())
KILLED = RankExit(2, 0, 5.0, signal=9)


def absent(place: str) -> Failure:
    return Failure(FailureKind.ABSENT, 5.0, "rank 1 did not come", ("RuntimeError: Timed out",), place)


ABSENT = RankExit(1, 0, 5.5, signal=15, by_muster=True, failure=absent("train.py:30 in tokenize"))
MISMATCH = RankExit(
    0, 0, 5.0, 1, failure=Failure(FailureKind.MISMATCH, 5.0, "RuntimeError: op.preamble.length <= op.nbytes", FRAMES)
)


@pytest.mark.parametrize(
    "before, now, found",
    [
        pytest.param(RAISED, RAISED, Repeated(2, 2, "ValueError", "train.py:21"), id="the same exception"),
        pytest.param(
            RAISED,
            RAISED._replace(rank=0, failure=raised(summary="ValueError: bad label -9")),
            Repeated(0, 2, "ValueError", "train.py:21"),
            id="on another rank, with another value in its message",
        ),
        pytest.param(RAISED, RAISED._replace(failure=raised(line=22)), None, id="at another line"),
        pytest.param(RAISED, RAISED._replace(failure=raised(summary="OSError: no")), None, id="another exception"),
        pytest.param(KILLED, KILLED, Repeated(2, 2), id="the same signal"),
        pytest.param(KILLED, KILLED._replace(signal=11), None, id="another signal"),
        pytest.param(KILLED._replace(signal=None, code=7), KILLED._replace(signal=None, code=8), None, id="codes"),
        pytest.param(
            KILLED._replace(signal=None, code=75),
            KILLED._replace(signal=None, code=75),
            None,
            id="a failure that the program itself calls temporary",
        ),
        pytest.param(
            RankExit(1, 0, 5.0, 1, failure=Failure(FailureKind.PEER_LOST, 5.0, "RuntimeError: Connection closed")),
            RankExit(1, 0, 5.0, 1, failure=Failure(FailureKind.PEER_LOST, 5.0, "RuntimeError: Connection closed")),
            None,
            id="lost peers: the cause is unknown",
        ),
        pytest.param(ABSENT, ABSENT, Repeated(1, 1, "", "train.py:30 in tokenize"), id="a rank that did not come"),
        pytest.param(
            ABSENT,
            ABSENT._replace(code=3, signal=None),
            Repeated(1, 1, "", "train.py:30 in tokenize"),
            id="however it was terminated",
        ),
        pytest.param(ABSENT, ABSENT._replace(failure=absent("")), None, id="or at an unknown place"),
        pytest.param(MISMATCH, MISMATCH, Repeated(0, 0, "RuntimeError", "train.py:21"), id="other collectives"),
        pytest.param(MISMATCH, MISMATCH._replace(failure=raised()), None, id="an exception of its own at that place"),
        pytest.param(RAISED, RAISED._replace(when=61.5), None, id="later than the first minute"),
        pytest.param(RAISED._replace(when=61.5), RAISED, None, id="the first one later than that"),
    ],
)
def test_the_same_cause_twice(before: RankExit, now: RankExit, found: Repeated | None) -> None:
    assert found == repeated(failed(now), failed(before))


def test_a_first_failure_is_not_repeated() -> None:
    assert repeated(failed(RAISED), None) is None
    assert repeated(failed(RAISED), Attempt(None, 1.0, 2.0)) is None  # the store, for example


def test_the_place_is_the_last_line_of_the_script() -> None:
    cause = cause_of(RAISED)
    assert cause is not None
    assert ("ValueError", "/home/ann/train.py:21") == cause[:2]


def test_in_a_library_alone_its_last_line_is_the_place() -> None:
    cause = cause_of(RAISED._replace(failure=raised()._replace(frames=FRAMES[3:])))
    assert cause is not None
    assert cause.place.endswith("/module.py:1751")


def test_delays_double_up_to_a_minute() -> None:
    assert [0.0, 0.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == list(map(delay, range(8)))
    assert 60.0 == delay(100_000)
    assert [0.0, 0.0, 0.0] == [delay(quick, 0.0) for quick in (1, 2, 9)]
    assert [0.0, 300.0, 300.0] == [delay(quick, 300.0) for quick in (1, 2, 9)]
