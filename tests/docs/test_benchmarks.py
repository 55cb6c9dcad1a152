"""docs/benchmarks.md and the figures in other pages come from bench/results.json, and from nowhere else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from blocks_of_pages import BLOCKS  # noqa: E402
from page import PAGE, filled, marked_pages, page  # noqa: E402
from records import MUSTER, NO_TIME, Measurement, Results, Skipped  # noqa: E402
from rows import QUICK, ROWS  # noqa: E402

REPAIR = "run `.venv/bin/python bench/run.py --write`"


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.load(ROOT / "bench" / "results.json")


def test_the_page_is_what_the_results_say(results: Results) -> None:
    assert (ROOT / PAGE).read_text() == page(results), REPAIR


def test_figures_in_other_pages_are_those_of_the_results(results: Results) -> None:
    pages = marked_pages(ROOT)
    assert ROOT / "README.md" in pages
    for path in pages:
        assert path.read_text() == filled(path.read_text(), results), f"{path}: {REPAIR}"


def test_all_marks_are_known_and_all_parts_are_used() -> None:
    names = re.findall(r"<!-- bench: (\S+) -->", "".join(path.read_text() for path in marked_pages(ROOT)))
    assert sorted(names) == sorted(BLOCKS)


def test_a_mark_that_nobody_writes_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled("<!-- bench: unknown -->\n\n<!-- end of bench -->\n", Results())


def test_results_name_rows_that_exist(results: Results) -> None:
    assert {each.row for each in results.measurements} <= set(ROWS)
    assert not any(origin.small for origin in results.origins.values()), "measured at the smallest sizes"


MEASURED = re.compile(r"[\d.]+ ?(ms|s|MB|GB) of CPU|\btakes (about )?[\d.]+ ?(to [\d.]+ )?(ms|s)\b")
"""Sentences that tell how long something takes."""

ALLOWED = {
    "docs/dependencies.md": "why a package was taken or not: measured once, of those packages",
    "docs/design.md": "why a way was taken or not, of ways that no longer exist to be measured",
    "docs/lab.md": "delays that the lab makes on purpose",
}
"""Pages with other figures, and what they are."""


def test_no_page_has_figures_of_its_own() -> None:
    """What muster takes is told where it is measured again."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = {}
    for path in pages:
        name = str(path.relative_to(ROOT))
        if name in (PAGE, "CHANGELOG.md") or name in ALLOWED:
            continue
        text = re.sub(r"<!-- bench: .*?<!-- end of bench -->|```.*?```", "", path.read_text(), flags=re.DOTALL)
        found[name] = [match[0] for match in MEASURED.finditer(text)]
    assert {name: sentences for name, sentences in found.items() if sentences} == {}


def some(value: float, case: str = "8 ranks", program: str = MUSTER, origin: str = "a") -> Measurement:
    return Measurement("launch", case, program, "first", value, 0.5, origin)


def test_a_new_run_replaces_the_cases_that_it_has_measured(tmp_path: Path) -> None:
    """Programs of a case were measured in turn: those of different runs are never compared."""
    kept, new = Results(), Results()
    kept.measurements = [some(1.0), some(9.0, program="torchrun"), some(2.0, "1 rank")]
    kept.skipped = [Skipped("launch", "8 ranks", "Monarch", "not installed", "a")]
    new.measurements = [some(3.0, origin="b")]
    new.skipped = [Skipped("launch", "1 rank", "torchrun", "no time left", "b")]
    kept.merge(new)
    assert kept.measurements == [some(2.0, "1 rank"), some(3.0, origin="b")]
    assert kept.skipped == []
    kept.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").measurements == kept.measurements


def test_a_case_that_was_cut_off_replaces_nothing_that_has_more_programs() -> None:
    kept, new = Results(), Results()
    kept.measurements = [some(1.0), some(9.0, program="torchrun")]
    new.measurements = [some(3.0, origin="b")]
    new.skipped = [Skipped("launch", "8 ranks", "torchrun", NO_TIME, "b")]
    kept.merge(new)
    assert kept.measurements == [some(1.0), some(9.0, program="torchrun")]
    new.skipped = []
    kept.merge(new)
    assert kept.measurements == new.measurements


def test_the_quick_run_measures_cases_that_have_goals() -> None:
    """Names of cases are typed in two places: a misspelled one would silently measure nothing."""
    goals = " ".join(goal.text for row in ROWS.values() for goal in row.goals)
    for part in QUICK:
        assert part.row in ROWS
        assert all(case in goals for case in part.cases), part


def test_a_row_that_is_not_measured_says_so() -> None:
    text = page(Results())
    assert text.count("*not measured yet*") == len(ROWS) + 1
    for row in ROWS.values():
        assert f"## {row.title}\n" in text


def test_a_goal_tells_whether_it_is_reached() -> None:
    results = Results()
    other = "python -c 'import torch'"
    results.measurements = [some(1.0), some(2.0), some(6.0), some(2.0, program=other)]
    assert "| first all-reduce, 8 ranks: at most 0.9 × python -c 'import torch' | 1.00 × | **no** |" in page(results)
    results.measurements.append(some(4.0, program=other))
    assert "| 0.67 × | yes |" in page(results)
    assert "- first all-reduce, 8 ranks: at most 0.9 × python -c 'import torch': reached, 0.67 ×\n" in page(results)
    assert "| muster | 2.00 (1.00–6.00) | 1.00 | 3 |" in page(results)
    assert "| python -c 'import torch' | 3.00 (2.00–4.00) | 1.50 | 2 |" in page(results)
