"""The table of all rules."""

from __future__ import annotations

from collections.abc import Mapping

from muster.lint import rules_sbatch
from muster.lint.rule import Rule

RULES: Mapping[str, Rule] = {rule.name: rule for module in (rules_sbatch,) for rule in module.RULES}
"""By name, in the order of the documentation."""
