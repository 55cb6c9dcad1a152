"""Errors that can be detected before a run starts its ranks, by the cheap checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from muster.diagnostics.checks import CHECKS
from muster.diagnostics.findings import ClusterFacts, Facts


def preflight(facts: Mapping[str, Facts], env: Mapping[str, str]) -> list[str]:
    """Return the errors of the cheap checks before a run starts its ranks, as messages.

    `facts` are the `hardware.cheap_facts` by host; `env` is set for all ranks.
    """
    known = {host: {**told, "env": {**told["env"], **env}} for host, told in facts.items()}
    cluster = ClusterFacts(known, {}, {}, "", {}, {})
    found = [finding for check in CHECKS if check.cheap for finding in check.run(cluster)]
    return [
        f"warning: {one.host}: {one.summary}: {one.impact}\nhint: {one.remedy}" for one in found if one.level == "error"
    ]
