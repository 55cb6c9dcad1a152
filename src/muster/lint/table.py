"""The table of all rules."""

from __future__ import annotations

from collections.abc import Mapping

from muster.lint import (
    rules_config,
    rules_environment,
    rules_hosts,
    rules_mpi,
    rules_options,
    rules_python,
    rules_quoting,
    rules_ranks,
    rules_rendezvous,
    rules_sbatch,
    rules_shell,
    rules_steps,
    rules_syntax,
)
from muster.lint.rule import Rule

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for module in (
        rules_sbatch,
        rules_ranks,
        rules_options,
        rules_rendezvous,
        rules_environment,
        rules_mpi,
        rules_steps,
        rules_quoting,
        rules_shell,
        rules_syntax,
        rules_python,
        rules_config,
        rules_hosts,
    )
    for rule in module.RULES
}
"""By name, in the order of the documentation."""
