"""The corpus: scripts of the forms that people publish. Correct ones have no finding, faulty ones the expected ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.lint.engine import check, fixed
from muster.lint.model import Source
from muster.lint.table import RULES

CORPUS = Path(__file__).parent / "corpus"
GOOD = sorted((CORPUS / "good").iterdir())
FAULTY = sorted((CORPUS / "faulty").iterdir())
EXPECTED = [line.split() for line in (CORPUS / "expected.txt").read_text().splitlines()]
"""`FILE:LINE` and the name of the rule."""


def found_in(path: Path) -> Iterator[tuple[int, str]]:
    """Line and rule of each finding."""
    source = Source(path.name, path.read_text())
    for finding in check(source):
        yield source.place(finding.span.start)[0], finding.rule


def test_the_corpus_is_large_enough_and_every_file_is_expected():
    assert len(GOOD) >= 50 and len(FAULTY) >= 50
    assert {place.partition(":")[0] for place, _ in EXPECTED} == {path.name for path in FAULTY}


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_correct_script_has_no_finding(path: Path):
    assert [] == list(found_in(path))


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.name)
def test_a_faulty_script_has_exactly_the_expected_findings(path: Path):
    wanted = [(int(place.partition(":")[2]), rule) for place, rule in EXPECTED if place.startswith(f"{path.name}:")]
    assert sorted(wanted) == sorted(found_in(path))


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.name)
def test_fixes_leave_only_what_a_person_has_to_decide(path: Path):
    source = Source(path.name, path.read_text())
    before = check(source)
    after = check(Source(path.name, fixed(source, before)))
    assert {finding.rule for finding in after} <= {finding.rule for finding in before}
    assert len(after) == sum(not finding.edits for finding in before)


def test_most_rules_for_scripts_are_in_the_corpus():
    scripts = {name for name, rule in RULES.items() if rule.kind == "script"}
    missing = scripts - {rule for _, rule in EXPECTED}
    assert len(missing) <= 6, missing


def test_names_in_the_corpus_are_rules():
    assert {rule for _, rule in EXPECTED} <= set(RULES)
    assert all(re.fullmatch(r"[\w.-]+:\d+", place) for place, _ in EXPECTED)
