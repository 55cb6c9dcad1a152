"""Which hosts are left out at the start, and plans with spares in the places of lost hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from muster.core.json_records import plan_from_json
from muster.core.layout import layout
from muster.core.model import Host, Job, Plan, Program, as_json
from muster.core.results import Replaced
from muster.core.spares import Arrangement, arrange, as_planned, unfit_hosts, with_spare
from muster.launchers import make_plan

FIT: Mapping[str, Any] = {"unwritable": "", "cwd": True, "script": "d1", "gpus": ["a", "b"], "python": "3.11.2"}


@pytest.mark.parametrize(
    "unfit, found",
    [
        pytest.param({}, Arrangement((0, 1, 2, 3)), id="all can be used"),
        pytest.param(
            {"n1": "no answer"},
            Arrangement((2, 1, 3), (Replaced(0, "n1", "n3", "no answer"),)),
            id="the first one fails",
        ),
        pytest.param(
            {"n1": "x", "n2": "y"},
            Arrangement((2, 3), (Replaced(0, "n1", "n3", "x"), Replaced(1, "n2", "n4", "y"))),
            id="both fail",
        ),
        pytest.param({"n3": "x"}, Arrangement((0, 1, 3), (), (("n3", "x"),)), id="a spare fails"),
        pytest.param(
            {"n2": "y", "n3": "x"},
            Arrangement((0, 3), (Replaced(1, "n2", "n4", "y"),), (("n3", "x"),)),
            id="a spare fails that would be needed",
        ),
        pytest.param({"n1": "x", "n3": "y", "n4": "z"}, None, id="no spare is left"),
    ],
)
def test_spares_take_the_places_of_unfit_hosts(unfit: dict[str, str], found: Arrangement | None) -> None:
    assert found == arrange(["n1", "n2", "n3", "n4"], 2, unfit)


@pytest.mark.parametrize(
    "change, why",
    [
        ({}, None),
        (
            {"unwritable": "cannot write to /h: No space left on device"},
            "cannot create the run directory: cannot write",
        ),
        ({"cwd": False}, "the working directory does not exist there"),
        ({"script": ""}, "script train.py not found"),
        ({"script": "d2"}, "script train.py differs"),
        ({"gpus": ["a"]}, "1 of 2 GPUs"),
        ({"gpus": []}, "0 of 2 GPUs"),
        ({"gpus": ["a", "b", "c"]}, None),
        ({"python": "3.12.1"}, "Python 3.12 instead of 3.11"),
        ({"python": "3.11.9"}, None),
    ],
)
def test_hosts_that_cannot_run_the_ranks(change: dict[str, Any], why: str | None) -> None:
    told = {"n1": FIT, "n2": {**FIT, **change}, "n3": FIT}
    found = unfit_hosts(told, "train.py", "d1", {}, False)
    assert set(found) == ({"n2"} if why else set())
    assert found.get("n2", "").startswith(why or "")


def test_a_host_needs_as_many_gpus_as_it_has_ranks() -> None:
    told = {name: {**FIT, "gpus": gpus} for name, gpus in (("n1", ["a", "b"]), ("n2", ["a"]), ("n3", []))}
    assert {"n3": "0 of 1 GPUs"} == unfit_hosts(told, "train.py", "d1", dict.fromkeys(told, 1), False)


def test_without_gpus_none_is_needed() -> None:
    told = {name: {**FIT, "gpus": []} for name in ("n1", "n2")}
    assert {} == unfit_hosts(told, "train.py", "d1", dict.fromkeys(told, 4), False)


def test_code_that_will_be_sent_may_be_missing() -> None:
    told = {"n1": FIT, "n2": {**FIT, "cwd": False, "script": ""}}
    assert {} == unfit_hosts(told, "train.py", "d1", {}, True)


def plan() -> Plan:
    job = Job(Program("script", ("train.py",)), "fork", "python3", "--python", "/w", spare_nodes=2)
    planned = make_plan(job, layout([(Host("n1"), 2), (Host("n2"), 2)]), "20261127-000000-abcdef")
    return planned._replace(spares=(Host("n3", gpus=("1",)), Host("n4")))


def test_a_plan_with_a_spare_and_back() -> None:
    one = with_spare(plan(), 1, 0)
    assert (("n1", "n3"), ("1",)) == (one.hosts, one.nodes[1].host.gpus)
    assert [0, 1, 2, 3] == [rank.rank for node in one.nodes for rank in node.ranks]
    two = with_spare(one, 1, 1)
    assert ("n1", "n4") == two.hosts
    assert plan() == as_planned(two, ["n1", "n2", "n3", "n4"])
    assert two == as_planned(two, ["", ""]), "of an older version"
    assert two == plan_from_json(as_json(two))


def test_of_several_hosts_the_one_with_another_python_is_left_out() -> None:
    """Also if it is the first one, which the others do not have to be like."""
    told = dict.fromkeys(("n2", "n3", "n4"), FIT)
    found = unfit_hosts({"n1": {**FIT, "python": "3.9.1"}, **told}, "train.py", "d1", {}, False)
    assert {"n1": "Python 3.9 instead of 3.11"} == found
