"""Each fault of the rules' list in differently written scripts, and their corrected neighbours without a finding."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from muster.lint.engine import check
from muster.lint.model import Source

TEXT = (Path(__file__).parent / "variants.txt").read_text()
FORM = re.compile(r"=== (\S+) (\S+)\n(.*?)--- corrected\n(.*?)(?====|\Z)", re.DOTALL)
CASES: list[tuple[str, str, str, str]] = FORM.findall(TEXT)


def rules_of(path: str, text: str) -> list[str]:
    return [finding.rule for finding in check(Source(path, text))]


def test_there_are_three_of_each():
    counted = Counter(rule for rule, *_ in CASES)
    assert len(CASES) == TEXT.count("\n=== ") + 1
    assert {rule: count for rule, count in counted.items() if count < 3} == {}
    assert len(counted) >= 43


@pytest.mark.parametrize(("rule", "path", "faulty", "corrected"), CASES, ids=[f"{case[0]}" for case in CASES])
def test_a_fault_is_found_and_its_correction_is_silent(rule: str, path: str, faulty: str, corrected: str):
    assert set(rule.split("|")) & set(rules_of(path, faulty))
    assert rules_of(path, corrected) == []
