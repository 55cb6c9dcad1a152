"""Sweeps as values: parameters, points, and arguments that are filled in."""

from __future__ import annotations

import json

import pytest

from muster.core.sweep import (
    Array,
    Ids,
    Parameter,
    Point,
    Sweep,
    array,
    array_of,
    counts_in_words,
    fill,
    misspelled,
    parameter,
    points_of,
    possible_ids,
    unused,
    variables,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=0.1,0.01", ("0.1", "0.01")),
        ("x=1-4", ("1", "2", "3", "4")),
        ("x=8-32:8,64", ("8", "16", "24", "32", "64")),
        ("x=gpt-2,-1,1e-3", ("gpt-2", "-1", "1e-3")),
        ("x=a=b", ("a=b",)),
        ('x=["a,b", "1-4", 3, 0.5, ""]', ("a,b", "1-4", "3", "0.5", "")),
    ],
)
def test_the_values_of_a_parameter(text: str, values: tuple[str, ...]) -> None:
    assert Parameter("x", values) == parameter(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", "NAME=VALUES"),
        ("=1", "NAME=VALUES"),
        ("1x=1", "NAME=VALUES"),
        ("x=", "empty"),
        ("x=1,,2", "empty"),
        ("x=1,1", "twice"),
        ("x=4-1", "smaller number"),
        ("x=1-9:0", "smaller number"),
        ("x=0-99999999", "at most"),
        ("x=[1", "JSON list"),
        ("x=[]", "not empty"),
        ("x=[[1]]", "strings and numbers"),
        ("index=1", "another name"),
    ],
)
def test_values_that_are_rejected(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parameter(text)


def test_the_numbers_of_an_array() -> None:
    assert Array((0, 1, 2, 3), 2) == array("0-3%2")
    assert Array((1, 4, 5, 6)) == array("4-6,1")
    assert Array((0, 4, 8)) == array("0-8:4")
    for text in ("", "a", "0-3%", "0-3%0", "3-1", "-1"):
        with pytest.raises(ValueError, match=r"numbers|after|range"):
            array(text)
    assert "1,4-6%2" == array_of((1, 4, 5, 6), 2)
    assert array_of((0,), None) == "0"


def test_points_are_all_combinations_and_the_last_parameter_varies_fastest() -> None:
    found = points_of([Parameter("lr", ("0.1", "0.01")), Parameter("seed", ("1", "2"))])
    assert ["lr=0.1 seed=1", "lr=0.1 seed=2", "lr=0.01 seed=1", "lr=0.01 seed=2"] == [point.label for point in found]
    assert [0, 1, 2, 3] == [point.number for point in found]


POINT = Point(3, (("lr", "0.1"), ("seed", "{lr}")))


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("--lr={lr}", "--lr=0.1"),
        ("{lr}{lr}", "0.10.1"),
        ("out/{index}", "out/3"),
        ("{seed}", "{lr}"),
        ("{other} {} {lr ", "{other} {} {lr "),
        ("{LR} { lr } {lr!r} {lr:.2f}", "{LR} { lr } {lr!r} {lr:.2f}"),
        ("{{lr}}", "{lr}"),
        ("{{other}}", "{{other}}"),
        ('{"opt": {"lr": {lr}}, "x": {}}', '{"opt": {"lr": 0.1}, "x": {}}'),
    ],
)
def test_only_names_of_parameters_are_replaced(text: str, filled: str) -> None:
    assert filled == fill(text, POINT)


def test_what_is_probably_a_mistake() -> None:
    sweep = Sweep(points_of([Parameter("lr", ("1",)), Parameter("seed", ("1",))]))
    texts = ["--lr", "{lr}", "{sed}", "{completely_other}"]
    assert ["seed"] == unused(sweep, texts)
    assert [("sed", "seed")] == misspelled(sweep, texts)
    assert [("SEED", "seed")] == misspelled(sweep, ["{SEED}"])


def test_the_variables_of_ranks() -> None:
    sweep = Sweep((Point(0), POINT))
    found = variables(sweep, POINT)
    assert ("3", "2", {"lr": "0.1", "seed": "{lr}"}) == (
        *(found["MUSTER_POINT"], found["MUSTER_POINTS"], json.loads(found["MUSTER_POINT_VALUES"])),
    )
    assert {"MUSTER_PART": "0", "MUSTER_PARTS": "2"} == variables(sweep._replace(chain=True), Point(0))


def test_progress_in_one_line() -> None:
    assert "5 ok, 1 failed, 2 running" == counts_in_words({"ok": 5, "failed": 1, "running": 2, "pending": 0})


def test_the_ids_of_runs() -> None:
    assert [Ids("20261128-010000-abcd-train", 3)] == possible_ids("20261128-010000-abcd-train.3")
    assert Ids("x", 3, 1) in possible_ids("x.3.1")
    assert [] == possible_ids("x.py")
    assert "x.3" == Ids("x", 3).run and "x.3.1" == Ids("x", 3, 1).run
