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
    RunOptions.standalone: "there is one node, and its port is bound, not chosen",
    RunOptions.rdzv_backend: "muster brings the ranks together by itself",
    RunOptions.rdzv_endpoint: "muster brings the ranks together by itself",
    RunOptions.rdzv_id: "the id of the run is chosen by muster",
    RunOptions.rdzv_conf: "muster brings the ranks together by itself",
    RunOptions.master_addr: "muster finds the address at which the ranks meet",
    RunOptions.master_port: "a free port is bound when the ranks start",
    RunOptions.local_addr: "muster finds the address of each host",
    RunOptions.monitor_interval: "ends are seen at once",
    RunOptions.start_method: "see --launcher",
    RunOptions.event_log_handler: "events are in events.jsonl of the run",
    RunOptions.run_path: "Python itself runs the script",
    RunOptions.redirects: "each rank's output is always kept in files of its own",
    RunOptions.tee: "each rank's output is always both kept and shown",
    RunOptions.duplicate_stdout_filters: "`muster logs` shows what is wanted",
    RunOptions.duplicate_stderr_filters: "`muster logs` shows what is wanted",
    RunOptions.logs_specs: "each rank's output is always kept in files of its own",
}
"""torchrun options without effect in muster, and why."""


def ignored_notes(options: Options) -> list[str]:
    """Return a line for each torchrun option that was given without effect."""
    used = RunOptions.rdzv_id if options.given(RunOptions.log_dir) else None
    silent = [option for option in options.all_given() if option in IGNORED_TORCHRUN_OPTIONS and option is not used]
    return [f"{option.long_name} changes nothing: {IGNORED_TORCHRUN_OPTIONS[option]}" for option in silent]


def reject_nested_launch(options: RunOptions, env: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` if this muster would be one of several that are unaware of each other."""
    nodes = options.nnodes or "1"
    few, _, many = nodes.partition(":")
    if few != (many or few):
        raise InvalidRequest(
            f"--nnodes {nodes}: muster does not change the number of nodes while it runs", f"use `--nnodes {many}`"
        )
    if few != "1" and not options.elsewhere and not options.scheduled:
        raise InvalidRequest(
            f"--nnodes {nodes}: no machines were named",
            f"name them: `--hosts n1,n2 --nnodes {few}`, or `--hostfile FILE`"
            + "".join(f"; `{typed(name)}` asks {row.title} for them" for name, row in SCHEDULERS.items()),
        )
    if options.node_rank not in (None, "0"):
        raise InvalidRequest(
            f"--node-rank {options.node_rank}: muster is started once, not once a node",
            "start it on one machine, without --node-rank",
        )
    if options.virtual_local_rank:
        raise InvalidRequest("--virtual-local-rank is not supported", "let the script use LOCAL_RANK")
    outer = started_by(env, processes.ancestors())
    if outer is not None:
        launcher, count = outer
        raise InvalidRequest(
            f"muster was itself started {count} times by {launcher}: that would make {count} separate worlds",
            f"start muster once, without {launcher}",
        )
