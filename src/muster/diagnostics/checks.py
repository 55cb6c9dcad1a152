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
from muster.schedulers import SCHEDULERS

CHECKS = (
    Check("host names resolve quickly", slow_names),
    Check("unknown names fail quickly (NXDOMAIN)", slow_refusals),
    Check("host names resolve to the same addresses", ambiguous_names),
    Check("hostname is not a loopback address", own_name),
    Check("connectivity between nodes", connections),
    Check("interfaces of gloo and NCCL", interfaces),
    Check("same MTU", mtu),
    Check("import of torch", torch_import),
    Check("same versions", versions),
    Check("GPUs available and free", gpus),
    Check("cores and threads", cores, cheap=True),
    Check("shared memory", shared_memory, cheap=True),
    Check("free disk space and write test", free_space),
    Check("temporary directory", temporary_files, cheap=True),
    Check("directories exist and are shared", directories),
    Check("resource limits", limits, cheap=True),
    Check("clocks in sync", clocks),
    Check("conflicting environment variables", variables, cheap=True),
    Check(f"state in {' and '.join(row.title for row in SCHEDULERS.values())}", scheduler),
)


def run_checks(cluster: ClusterFacts) -> list[tuple[str, list[Finding]]]:
    """Run all checks; return (name, findings) in order."""
    return [(check.name, list(check.run(cluster))) for check in CHECKS]


def passed(results: Sequence[tuple[str, list[Finding]]]) -> bool:
    """Return whether no check found an error."""
    return not any(finding.level == "error" for _, findings in results for finding in findings)
