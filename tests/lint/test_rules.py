"""Each rule: its bad example has the finding, its good neighbour has none of any rule, and `--fix` makes one of it."""

from __future__ import annotations

import re

import pytest

from muster.lint.engine import check, fixed
from muster.lint.model import Source
from muster.lint.rule import ERROR, NOTE, WARNING, Rule
from muster.lint.table import RULES

_NAMES = {"script": "job.sh", "python": "train.py", "config": "ds_config.json", "hostfile": "hostfile"}


def source_of(rule: Rule, text: str) -> Source:
    yaml = rule.kind == "config" and not text.lstrip().startswith("{")
    return Source("accelerate.yaml" if yaml else _NAMES[rule.kind], text)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_bad_example_has_the_finding_and_nothing_else(rule: Rule):
    found = {finding.rule for finding in check(source_of(rule, rule.bad))}
    assert found == {rule.name}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_good_example_has_no_finding(rule: Rule):
    assert [] == check(source_of(rule, rule.good))


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.fixed], ids=lambda rule: rule.name)
def test_a_fix_removes_the_finding_and_adds_none(rule: Rule):
    source = source_of(rule, rule.bad)
    after = fixed(source, check(source))
    assert after != rule.bad
    assert [] == check(source_of(rule, after))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_the_row_is_complete(rule: Rule):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.name)
    assert rule.level in (ERROR, WARNING, NOTE)
    assert rule.why.endswith((".", ".)")) and rule.fix.endswith(".") and not rule.says.endswith(".")
    assert rule.check.__doc__
    edits = any(finding.edits for finding in check(source_of(rule, rule.bad)))
    assert edits == rule.fixed
