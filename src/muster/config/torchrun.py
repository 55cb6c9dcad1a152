"""Compatibility with torchrun: its options without effect here, and detection of a muster started by torchrun."""

from __future__ import annotations

from collections.abc import Mapping

from muster.config.options import RunOptions
from muster.config.record import Option, Options
from muster.core.layout import started_by
from muster.errors import InvalidRequest
from muster.linux import processes
from muster.schedulers import SCHEDULERS, typed

IGNORED_TORCHRUN_OPTIONS: Mapping[Option[object], str] = {
    RunOptions.standalone: "there is one node, and muster binds a free port",
    RunOptions.rdzv_backend: "muster provides the rendezvous",
    RunOptions.rdzv_endpoint: "muster provides the rendezvous",
    RunOptions.rdzv_id: "muster chooses the run id",
    RunOptions.rdzv_conf: "muster provides the rendezvous",
    RunOptions.master_addr: "muster finds the rendezvous address",
    RunOptions.master_port: "muster binds a free port",
    RunOptions.local_addr: "muster finds the address of each host",
    RunOptions.monitor_interval: "muster notices the exit of a rank at once",
    RunOptions.start_method: "use --launcher",
    RunOptions.event_log_handler: "events are written to events.jsonl in the run directory",
    RunOptions.run_path: "muster runs the script like `python script.py`",
    RunOptions.redirects: "the output of each rank is always written to its own files",
    RunOptions.tee: "the output of each rank is always both written to files and shown",
    RunOptions.duplicate_stdout_filters: "select output with `muster logs`",
    RunOptions.duplicate_stderr_filters: "select output with `muster logs`",
    RunOptions.logs_specs: "the output of each rank is always written to its own files",
}
"""torchrun options without effect in muster, and why."""


def ignored_notes(options: Options) -> list[str]:
    """Return a line for each torchrun option that was given without effect."""
    used = RunOptions.rdzv_id if options.given(RunOptions.log_dir) else None
    silent = [option for option in options.all_given() if option in IGNORED_TORCHRUN_OPTIONS and option is not used]
    return [f"warning: {option.long_name} has no effect: {IGNORED_TORCHRUN_OPTIONS[option]}" for option in silent]


def reject_nested_launch(options: RunOptions, env: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` if this muster would be one of several that are unaware of each other."""
    nodes = options.nnodes or "1"
    few, _, many = nodes.partition(":")
    if few != (many or few):
        raise InvalidRequest(f"--nnodes {nodes}: the number of nodes of a run is fixed", f"use `--nnodes {many}`")
    if few != "1" and not options.elsewhere and not options.scheduled:
        others = ", ".join(f"{row.title} with `{typed(name)}`" for name, row in SCHEDULERS.items())
        raise InvalidRequest(
            f"--nnodes {nodes}: no hosts given",
            f"name hosts with `--hosts n1,n2 --nnodes {few}` or `--hostfile FILE`; or allocate nodes from {others}",
        )
    if options.node_rank not in (None, "0"):
        raise InvalidRequest(
            f"--node-rank {options.node_rank}: start muster once, not once per node",
            "start it on one host, without --node-rank",
        )
    if options.virtual_local_rank:
        raise InvalidRequest("--virtual-local-rank is not supported", "use LOCAL_RANK in the script")
    outer = started_by(env, processes.ancestors())
    if outer is not None:
        launcher, count = outer
        if launcher == "muster":
            raise InvalidRequest(
                f"this is one of {count} ranks of a run, and each would start a run of its own",
                "start the second run from outside the first one",
            )
        raise InvalidRequest(
            f"{launcher} started muster {count} times, which would create {count} separate process groups",
            f"start muster once, without {launcher}",
        )
