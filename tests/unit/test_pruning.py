"""Which old runs exceed the limits of `--keep-runs` and `--keep-size`."""

from __future__ import annotations

import pytest

from muster.client.pruning import beyond


@pytest.mark.parametrize(
    ("sizes", "keep_runs", "keep_size", "expected"),
    [
        ([], 1, 1, 0),
        ([5, 5, 5], 1, None, 3),  # the new one is the only one
        ([5, 5, 5], 2, None, 2),
        ([5, 5, 5], 4, None, 0),
        ([5, 5, 5], 9, None, 0),
        ([5, 5, 5], None, 15, 0),
        ([5, 5, 5], None, 14, 1),
        ([5, 5, 5], None, 4, 3),
        ([1, 9, 1], None, 5, 2),  # a small one that is older than a large one is deleted too
        ([5, 5, 5], 3, 5, 2),  # each limit applies
        ([5, 5, 5], 2, 14, 2),
        ([0, 0, 0], None, 1, 0),
    ],
)
def test_the_oldest_are_deleted(sizes: list[int], keep_runs: int | None, keep_size: int | None, expected: int) -> None:
    assert expected == beyond(sizes, keep_runs, keep_size)
