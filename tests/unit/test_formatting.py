"""Durations, sizes and tables, as they are shown."""

from __future__ import annotations

import pytest

from muster.core.plurals import plural
from muster.ui.formatting import fitted, seconds, size_in_words, table

SECONDS = [
    (0.0, "0.0s"),
    (0.04, "0.0s"),
    (0.84, "0.8s"),
    (9.94, "9.9s"),
    (9.95, "10s"),
    (12.3, "12s"),
    (59.4, "59s"),
    (59.6, "1m"),
    (61.0, "1m 1s"),
    (245.0, "4m 5s"),
    (3599.7, "1h"),
    (12000.0, "3h 20m"),
    (3659.0, "1h"),
    (86399.6, "1d"),
    (187200.0, "2d 4h"),
]


@pytest.mark.parametrize(("value", "words"), SECONDS)
def test_times_are_said_as_people_say_them(value: float, words: str) -> None:
    assert seconds(value) == words


def test_one_is_no_plural() -> None:
    assert [plural(0, "rank"), plural(1, "rank"), plural(2, "rank")] == ["0 ranks", "1 rank", "2 ranks"]
    assert ["1 host was", "2 hosts were"] == [plural(count, "host was", "hosts were") for count in (1, 2)]


def test_a_table_has_columns_and_no_spaces_at_its_right() -> None:
    rows = [("RUN", "NAME", "EXIT"), ("x", "a long name", ""), ("longer", "", "7")]
    assert table(rows) == "RUN     NAME         EXIT\nx       a long name\nlonger               7"


def test_a_table_fits_a_terminal() -> None:
    rows = [("RUN", "AT", "COMMAND"), ("one", "12:30", "train.py --lr 0.1 --momentum 0.9"), ("two", "12:31", "true")]
    whole = table(rows)
    assert whole == fitted(rows, 100, ["AT"])
    assert "RUN  AT     COMMAND\none  12:30  train.py --lr 0…\ntwo  12:31  true" == fitted(rows, 28, ["AT"])
    assert "RUN  COMMAND\none  train.py --lr 0…\ntwo  true" == fitted(rows, 21, ["AT"])
    assert "RUN  COMMAND\none  train.py --…\ntwo  true" == fitted(rows, 5, ["AT"])
    assert "RUN  COMMAND\none  true" == fitted([rows[0], ("one", "12:30", "true")], 12, ["AT"])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (9_999, "9999 bytes"),
        (10_000, "9.8 KiB"),
        (1 << 20, "1.0 MiB"),
        (999 << 20, "999 MiB"),
        (1 << 30, "1.0 GiB"),
        (80 << 30, "80 GiB"),
        (3 << 50, "3072 TiB"),
    ],
)
def test_sizes_in_words(count: int, expected: str) -> None:
    assert expected == size_in_words(count)
