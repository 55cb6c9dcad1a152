"""`muster export torchrun`: one line for each node, to be typed or pasted there."""

from __future__ import annotations

from zlib import crc32

from muster.export._node import TORCHRUN, Place, launcher_env
from muster.export._shell import Sh, checker, command, exports, header, joined, quote, require_secrets
from muster.export.wanted import Wanted


def text(wanted: Wanted) -> str:
    """Return the lines. As a script, its argument is the number of the node."""
    job = wanted.job
    lines = ["#!/usr/bin/env bash"]
    lines += header(wanted, "one torchrun for each node")
    several = len(wanted.nodes) > 1
    if several:
        lines += ["# Type the line of each node there; or start this file there with the number of the node."]
    lines += [*checker(wanted), "set -e", "", *require_secrets(wanted)]
    lines += [f"cd -- {quote(job.cwd)}", *job.setup, *exports(wanted)]
    lines += launcher_env(wanted)
    if not wanted.threads_chosen:
        shares = {len(node.ranks) for node in wanted.nodes}
        lines += [
            "# the share of the cores that each rank may use",
            f"export OMP_NUM_THREADS=$(($(nproc) / {max(shares)} > 0 ? $(nproc) / {max(shares)} : 1))",
        ]
    address = wanted.address or wanted.nodes[0].host.name
    # the same number in each line; below the ports that the kernel gives to connections
    port = str(wanted.port) if wanted.port is not None else str(20000 + crc32(wanted.name.encode()) % 12000)
    if several and wanted.port is None:
        lines += [f"# port {port} has to be free on node 0; --master-port chooses another"]
    lines += ["case ${1:-0} in"] if several else []
    for node in wanted.nodes:
        python = node.host.python or job.python
        place = Place(str(node.number), quote(address), port, quote(python))
        words = [word for group in TORCHRUN.words(wanted, place) for word in group]
        gpus = [Sh(f"CUDA_VISIBLE_DEVICES={','.join(node.host.gpus)}")] if node.host.gpus else []
        line = command([*gpus, *words])
        own = [f"    {line}" for line in node.host.setup] if several else [*node.host.setup]
        if several:
            lines += [f"  {node.number})  # {node.host.name}", *own, f"    {line}", "    ;;"]
        else:
            lines += [*own, line]
    return joined([*lines, "esac"] if several else lines)
