"""Options of muster after the script's name: the script gets them, and the report says so if it rejects them."""

from __future__ import annotations

import pytest

from muster.core.results import Failure, FailureKind, RankExit
from muster.ui.misplaced import misplaced_option


def rejected(line: str) -> str:
    """The hint for a script that ended with this line."""
    return misplaced_option(RankExit(0, 0, 1.0, 2, failure=Failure(FailureKind.EXIT, 1.0, line)))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("train.py: error: unrecognized arguments: -g 2", "-g"),
        ("train.py: error: unrecognized arguments: --max-restarts=3", "--max-restarts"),
        ("Error: No such option: --hosts", "--hosts"),
        ("Error: No such option '--hosts'.", "--hosts"),
    ],
)
def test_an_option_of_muster_is_recognized(line: str, name: str) -> None:
    expected = f"{name} went to the script; options of muster come before the script: `muster run {name} … SCRIPT`"
    assert expected == rejected(line)


@pytest.mark.parametrize(
    "line",
    [
        "train.py: error: unrecognized arguments: --lrr 2",
        "train.py: error: unrecognized arguments: g",
        "ValueError: -g",
    ],
)
def test_other_errors_get_no_hint(line: str) -> None:
    assert "" == rejected(line)


def test_a_rank_without_a_message_gets_no_hint() -> None:
    assert "" == misplaced_option(RankExit(0, 0, 1.0, 2))
