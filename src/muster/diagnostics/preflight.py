"""What keeps a run from starting, as far as that can be known for free: the errors of the cheap checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from muster.diagnostics.checks import CHECKS
from muster.diagnostics.findings import ClusterFacts, Facts


def preflight(facts: Mapping[str, Facts], env: Mapping[str, str]) -> list[str]:
    """What a run can know before it starts ranks, and what would end it: the errors of the checks that are free.

    `facts` are what `hardware.cheap_facts` tells, by host; `env` is set for all ranks.
    """
    known = {host: {**told, "env": {**told["env"], **env}} for host, told in facts.items()}
    cluster = ClusterFacts(known, {}, {}, "", {}, {})
    found = [finding for check in CHECKS if check.cheap for finding in check.run(cluster)]
    return [f"{one.host}: {one.summary}: {one.impact}; {one.remedy}" for one in found if one.level == "error"]
