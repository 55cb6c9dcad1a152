"""Which ranks failed by themselves, in the same way."""

from __future__ import annotations

import pytest

from muster.core.results import Failure, FailureKind, RankExit, RunResult, RunState
from muster.core.root_cause import alike
from muster.ui.text import outcome_in_words

USAGE = "train.py: error: the following arguments are required: --x"


def exited(
    rank: int, code: int | None = 2, summary: str = USAGE, when: float = 1.0, signal: int | None = None
) -> RankExit:
    """Return the exit of a rank; all but the first one had been asked to exit by then."""
    failure = Failure(FailureKind.EXIT, when, summary, (summary,))
    return RankExit(rank, 0, when, code, signal=signal, by_muster=rank > 0, failure=failure)


@pytest.mark.parametrize(
    ("other", "ranks"),
    [
        (exited(1), [0, 1]),
        (exited(1, None, signal=15), [0]),  # it was killed before it could exit
        (exited(1, 1), [0]),
        (exited(1, 2, "saved a checkpoint"), [0]),
        (exited(1, when=9.0), [0]),
    ],
)
def test_ranks_that_exit_with_the_same_last_words_failed_alike(other: RankExit, ranks: list[int]) -> None:
    ends = exited(0), other
    assert ranks == [end.rank for end in alike(ends[0], ends)]


def test_without_words_nothing_tells_that_a_rank_was_not_terminated() -> None:
    ends = exited(0, summary=""), exited(1, summary="")
    assert [0] == [end.rank for end in alike(ends[0], ends)]


def test_a_wrong_argument_is_told_once_for_all_ranks() -> None:
    ends = tuple(map(exited, range(4)))
    told = outcome_in_words(RunResult(RunState.FAILED, 2, 1.5, root_cause=ends[0], exits=ends), "last", 4)
    assert "terminated by muster" not in told
    assert f"all 4 ranks exited with status 2 within 0.1s: {USAGE}" == told.splitlines()[0]


def test_ranks_that_handle_a_request_to_exit_have_not_failed_alike() -> None:
    """Their handlers exit with the same status after a warning that all ranks have printed."""
    warned = Failure(FailureKind.EXIT, 5.0, "UserWarning: the loader is slow")
    first = RankExit(1, 0, 5.0, 1, failure=warned)
    asked = RankExit(0, 0, 5.2, 1, by_muster=True, failure=warned)
    assert (first,) == alike(first, (asked, first))
