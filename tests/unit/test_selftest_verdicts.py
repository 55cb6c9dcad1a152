"""Conclusions from the ranks' reports, one problem at a time; and the text and page for them."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from changing import Change, set_to

from muster.diagnostics.selftest.html import page
from muster.diagnostics.selftest.text import end_in_words, section_in_words
from muster.diagnostics.selftest.verdicts import SECTIONS, Verdict, evaluate


def rank(number: int) -> dict[str, Any]:
    gpu = {"index": number % 2, "name": "H100", "uuid": f"GPU-{number}", "bus": f"00:{number:02x}:00"}
    where = {"rank": number, "local_rank": number % 2, "host": f"n{number // 2 + 1}", "pid": 70 + number, "gpu": gpu}
    versions = {"python": "3.11.7", "torch": "2.13.0", "cuda": "13.0", "nccl": "2.28"}
    return {**where, "gpus_there": 2, "cpus": [0, 1, 2, 3], "all_cpus": 64, "numa": [0], "threads": 4, **versions}


SHARES = [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]
TOLD: dict[str, dict[str, Any]] = {
    "who": {"ranks": [rank(number) for number in range(4)], "backend": "nccl", "asked": ""},
    "sum": {
        "operations": [{"name": name, "wrong": {}, "without": ""} for name in ("all_reduce (sum)", "broadcast")],
        "speed": [{"bytes": 1 << 20, "seconds": 0.001, "algorithm_gb_s": 1.05, "bus_gb_s": 1.57, "times": 9}],
    },
    "data": {
        "samples": 10,
        "epochs": [
            {"what": "epoch", "epoch": 0, "by_rank": SHARES},
            {"what": "epoch", "epoch": 1, "by_rank": SHARES[::-1]},
            {"what": "again", "epoch": 0, "by_rank": SHARES},
            {"what": "other seed", "epoch": 0, "by_rank": [SHARES[1], SHARES[0], *SHARES[2:]]},
            {"what": "without DistributedSampler", "epoch": 0, "by_rank": [list(range(10))] * 4},
        ],
    },
    "convergence": {
        "ways": [
            {"way": "alone", "losses": [1.0, 0.5, 0.25], "off": 0.0, "apart": 0.0},
            {"way": "distributed", "losses": [1.0, 0.5, 0.25], "off": 2e-16, "apart": 0.0},
            {"way": "no averaging", "losses": [1.0, 0.7, 0.6], "off": 0.3, "apart": 0.4},
            {"way": "one shard for all", "losses": [1.0, 0.7, 0.6], "off": 0.3, "apart": 0.0},
            {"way": "sum in place of mean", "losses": [1.0, 9.0, None], "off": None, "apart": None},
        ]
    },
}
"""Of a healthy cluster: two nodes with two GPUs each. The last error has grown to infinity."""


def wrong(told: dict[str, Any], asked: int = 4) -> list[Verdict]:
    return [verdict for verdict in evaluate(told, asked) if not verdict.passed]


def test_all_claims_hold_on_a_healthy_cluster() -> None:
    assert [] == wrong(TOLD)
    assert set(SECTIONS) == {verdict.section for verdict in evaluate(TOLD, 4)}


EQUAL = "distributed training equals training on one rank"


def all_on(key: str, value: Any) -> Change:
    return lambda told: [one.update({key: value}) for one in told["who"]["ranks"]]


@pytest.mark.parametrize(
    ("change", "section", "name", "says"),
    [
        (lambda told: told["who"]["ranks"].pop(), "who", "all ranks joined", "3 of 4"),
        (
            set_to("who", "ranks", 3, "gpu", "uuid", "GPU-2"),
            "who",
            "each rank has its own GPU",
            "ranks 2-3 share a GPU of n2 (GPU-2)",
        ),
        (set_to("who", "ranks", 1, "gpu", None), "who", "each rank has its own GPU", "no GPU for rank 1"),
        (all_on("cpus", [5]), "who", "no ranks bound to the same single core",
         "ranks 0-1 on n1 are all bound to core 5"),
        (set_to("who", "ranks", 2, "torch", "2.12.0"), "who", "same version of torch", "2.12.0 on rank 2"),
        (
            set_to("sum", "operations", 0, "wrong", {"2": "element 0 is 5, expected 6"}),
            "sum",
            "all_reduce (sum)",
            "rank 2: element 0 is 5, expected 6",
        ),
        (
            set_to("data", "epochs", 0, "by_rank", [SHARES[0]] * 4),
            "data",
            "each sample is used once per epoch",
            "epoch 0: 7 samples never used: 1-3,5-7,9",
        ),
        (
            set_to("data", "epochs", 1, "by_rank", SHARES),
            "data",
            "each epoch is shuffled differently",
            "",
        ),
        (
            set_to("data", "epochs", 3, "by_rank", SHARES),
            "data",
            "another seed gives other samples",
            "",
        ),
        (
            set_to("data", "epochs", 2, "by_rank", SHARES[::-1]),
            "data",
            "the same seed gives the same samples",
            "",
        ),
        (set_to("convergence", "ways", 1, "off", 3e-4), "convergence", EQUAL, "differ by 3.0e-04"),
        (set_to("convergence", "ways", 1, "apart", 3e-4), "convergence", EQUAL, ""),
        (set_to("convergence", "ways", 2, {"way": "no averaging", "losses": [1.0], "off": 0.0, "apart": 0.0}),
         "convergence", "detects a training mistake: gradients not averaged", "differ by 0.0e+00"),
        (lambda told: told.pop("convergence"), "convergence", "section completed", "the ranks exited before it"),
    ],
)  # fmt: skip
def test_one_problem_at_a_time(change: Change, section: str, name: str, says: str) -> None:
    told = copy.deepcopy(TOLD)
    change(told)
    found = [verdict for verdict in wrong(told) if verdict.name == name]
    assert [section] == [verdict.section for verdict in found], wrong(told)
    assert says in found[0].found
    text = section_in_words(section, told, evaluate(told, 4))
    assert f"FAIL   {name}" in text
    assert ("fix: " in text) == bool(found[0].remedy)
    assert re.search("[0-9]+ checks? passed, [0-9]+ failed", end_in_words(evaluate(told, 4)))


def test_an_operation_missing_in_a_backend_is_not_an_error() -> None:
    told = copy.deepcopy(TOLD)
    told["sum"]["operations"][1]["without"] = "gloo does not support it"
    assert [] == wrong(told)
    assert "ok     broadcast: not supported: gloo does not support it" in section_in_words(
        "sum", told, evaluate(told, 4)
    )


def test_one_core_is_no_wonder_where_there_is_one() -> None:
    told = copy.deepcopy(TOLD)
    all_on("cpus", [0])(told)
    all_on("all_cpus", 1)(told)
    assert [] == wrong(told)


def test_ranks_without_gpus_are_sound_where_there_are_none() -> None:
    told = copy.deepcopy(TOLD)
    all_on("gpu", None)(told)
    assert ["torch detects the GPUs"] == [verdict.name for verdict in wrong(told)]
    told["who"]["asked"] = "gloo"
    assert [] == wrong(told)
    told["who"]["asked"] = ""
    all_on("gpus_there", 0)(told)
    assert [] == wrong(told)


def test_the_page_is_whole_whatever_was_told() -> None:
    """Well-formed, with all pictures, and without external resources; host names are escaped."""
    told = copy.deepcopy(TOLD)
    told["who"]["ranks"][0]["host"] = "<script>alert(1)</script>"
    text = page(told, evaluate(told, 4), "check & all", "muster check -H 'n[1-2]'")
    body = ElementTree.fromstring(text[text.index("<body>") : text.index("</html>")])
    assert 4 == len(body.findall("section"))
    assert 3 == sum(svg.get("class") == "grid" for svg in body.iter("svg"))
    (curves,) = (svg for svg in body.iter("svg") if svg.get("class") == "curves")
    assert 5 == len(curves.findall("polyline"))
    grid = next(svg for svg in body.iter("svg") if svg.get("class") == "grid")
    assert 12 == len(list(grid.iter("rect")))
    assert "src=" not in text and "http" not in text and "<script" not in text
    half = {name: told[name] for name in ("who", "sum")}
    assert "the ranks exited before it" in page(half, evaluate(half, 4), "half", "")


def test_many_ranks_fit_on_the_page() -> None:
    told = copy.deepcopy(TOLD)
    count = 500
    told["who"]["ranks"] = [rank(number) for number in range(count)]
    shares = [[number, count + number] for number in range(count)]
    looks = [{**look, "by_rank": shares} for look in told["data"]["epochs"]]
    looks[-1]["by_rank"] = [list(range(2 * count))] * 4  # in the ranks' format
    told["data"] = {"samples": 2 * count, "epochs": looks}
    text = page(told, evaluate(told, count), "many", "")
    assert "436 more ranks not shown" in text
    assert len(text) < 1 << 20
    assert "… and 436 more, see the HTML report" in section_in_words("who", told, evaluate(told, count))
