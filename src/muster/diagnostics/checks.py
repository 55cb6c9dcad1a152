"""The checks of `muster doctor`: each is one function of the facts of the machines, and one row in `CHECKS`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from muster.diagnostics.findings import Check, ClusterFacts, Finding
from muster.diagnostics.machine_checks import (
    clocks,
    cores,
    gpus,
    limits,
    shared_memory,
    torch_import,
    variables,
    versions,
)
from muster.diagnostics.network_checks import (
    ambiguous_names,
    connections,
    interfaces,
    mtu,
    own_name,
    slow_names,
    slow_refusals,
)
from muster.diagnostics.scheduler_checks import scheduler
from muster.diagnostics.storage_checks import directories, free_space, temporary_files


def _alone(cluster: ClusterFacts) -> str:
    return "only one host" if len(cluster.facts) < 2 else ""


def _without_gpus(cluster: ClusterFacts) -> str:
    return "" if any(facts["gpus"] for facts in cluster.facts.values()) else "no GPUs"


def _without_scheduler(cluster: ClusterFacts) -> str:
    return "" if cluster.scheduler else "no scheduler"


CHECKS = (
    Check("host names resolve quickly", slow_names, skip=_alone),
    Check("unknown names fail quickly (NXDOMAIN)", slow_refusals),
    Check("host names resolve to the same addresses", ambiguous_names, skip=_alone),
    Check("hostname is not a loopback address", own_name),
    Check("connectivity between nodes", connections, skip=_alone),
    Check("interfaces of gloo and NCCL", interfaces),
    Check("same MTU", mtu, skip=_alone),
    Check("import of torch", torch_import),
    Check("same versions", versions, skip=_alone),
    Check("GPUs available and free", gpus, skip=_without_gpus),
    Check("cores and threads", cores, cheap=True),
    Check("shared memory", shared_memory, cheap=True),
    Check("free disk space and write test", free_space),
    Check("temporary directory", temporary_files, cheap=True),
    Check("directories exist and are shared", directories),
    Check("resource limits", limits, cheap=True),
    Check("clocks in sync", clocks, skip=_alone),
    Check("conflicting environment variables", variables, cheap=True),
    Check("state in the scheduler", scheduler, skip=_without_scheduler),
)


def run_checks(cluster: ClusterFacts) -> list[tuple[str, list[Finding]]]:
    """Run all checks; return (name, findings) in order."""
    return [(check.name, list(check.run(cluster))) for check in CHECKS]


def skipped(cluster: ClusterFacts) -> dict[str, str]:
    """Return the checks that had nothing to check, by name, with the reason."""
    return {check.name: why for check in CHECKS if (why := check.skip(cluster))}


def passed(results: Sequence[tuple[str, list[Finding]]]) -> bool:
    """Return whether no check found an error."""
    return not any(finding.level == "error" for _, findings in results for finding in findings)
