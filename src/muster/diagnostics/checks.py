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
    Check("names resolve, alike and fast", slow_names),
    Check("unknown names are refused", slow_refusals),
    Check("names mean the same everywhere", ambiguous_names),
    Check("own name is no loopback", own_name),
    Check("nodes reach each other", connections),
    Check("gloo and NCCL take the right interface", interfaces),
    Check("MTU agrees", mtu),
    Check("torch can be imported", torch_import),
    Check("versions agree", versions),
    Check("GPUs are there and free", gpus),
    Check("cores and threads", cores, cheap=True),
    Check("shared memory", shared_memory, cheap=True),
    Check("room, and writes that work", free_space),
    Check("temporary files can be written", temporary_files, cheap=True),
    Check("folders are there and shared", directories),
    Check("limits", limits, cheap=True),
    Check("clocks agree", clocks),
    Check("variables that hurt", variables, cheap=True),
    Check(f"{' and '.join(row.title for row in SCHEDULERS.values())}'s own view", scheduler),
)


def run_checks(cluster: ClusterFacts) -> list[tuple[str, list[Finding]]]:
    """Run all checks; return (name, findings) in order."""
    return [(check.name, list(check.run(cluster))) for check in CHECKS]


def passed(results: Sequence[tuple[str, list[Finding]]]) -> bool:
    """Return whether no check found an error."""
    return not any(finding.level == "error" for _, findings in results for finding in findings)
