"""mpirun or mpiexec, of Open MPI or MPICH: a script on node 0 detects which one it is.

It reaches other nodes through their agents, so nodes need no ssh between them, nor a job step inside a job step, on
which Open MPI would wait forever with some schedulers.
"""

from __future__ import annotations

import re

from muster.core.model import Job, Late, Node, Plan, Template, Text, TextFile
from muster.launchers._external import on_head_node, own_file, shim_argv
from muster.schedulers import SCHEDULERS

_SCRIPT = """#!/bin/sh
# `{program} --version` tells which MPI it belongs to
case $({program} --version 2>&1) in
*"Open MPI"*|*OpenRTE*|*prte*)
  exec {program} {openmpi} "$@" ;;
*HYDRA*|*Hydra*|*MPICH*|*Intel*MPI*)
  exec {program} {mpich} "$@" </dev/null ;;
*)
  echo "{program} is not from Open MPI or MPICH, or not found: $({program} --version 2>&1 | head -n 1)" >&2
  exit 2 ;;
esac
"""

_REMOTE_EXEC = """#!/bin/sh
{names}exec {python} {shim} remote-exec {run} "$@"
"""


_OF_MPI = ("PMI_.*", "PMIX_.*", "OMPI_.*", "PRTE_.*", "MPI_LOCAL.*")
"""Environment variables set by an outer mpirun."""

_NAME = re.compile(r"[A-Za-z0-9.-]+")
"""Host names that every MPI accepts; with another one, such as `gpu_1`, Open MPI prints an error and waits forever."""


def _names(nodes: tuple[Node, ...]) -> dict[str, str]:
    """Return the name that MPI uses for each host.

    A single host is the one on which mpirun runs: it may not know its own ssh name, and MPI would look for another
    host.
    """
    if len(nodes) == 1:
        return {nodes[0].host.name: "localhost"}
    names = [node.host.name for node in nodes]
    return {name: name if _NAME.fullmatch(name) else f"muster-node-{number}" for number, name in enumerate(names)}


def plan(job: Job, nodes: tuple[Node, ...], run_id: str) -> Plan:
    """Return a plan with one command, on node 0. `--launcher-args 'mpiexec.hydra …'` selects another program."""
    args = list(job.launcher_args)
    program = args.pop(0) if args and not args[0].startswith("-") else "mpirun"
    ranks = sum(len(node.ranks) for node in nodes)
    names = _names(nodes)
    places = ",".join(f"{names[node.host.name]}:{len(node.ranks)}" for node in nodes)
    several = len(nodes) > 1
    openmpi: Text = f"-np {ranks} --host {places} --map-by slot --bind-to none --allow-run-as-root --mca plm rsh"
    # the ranks communicate through torch, and load none of MPI's transports
    # a daemon looks for the first word of the agent on its own host too, and dies silently without it: the file exists
    # only on the host of mpirun, but every host has a shell
    agent = Late.SCRATCH + "/remote-exec"
    mpich: Text = f"-n {ranks} -hosts {places}"
    if several:
        openmpi += " --mca plm_rsh_agent '/bin/sh " + agent + "'"
        openmpi += " --mca plm_rsh_no_tree_spawn 1 --mca orte_keep_fqdn_hostnames 1"
        mpich += " -launcher rsh -launcher-exec " + agent
    start = own_file("start", Template.of(_SCRIPT, program=program, openmpi=openmpi, mpich=mpich))
    other = {name: given for name, given in names.items() if several and given != name}
    back = [f'[ "$1" = {given} ] && shift && set -- {name} "$@"\n' for name, given in other.items()]
    # Open MPI splits that name at spaces, and muster's directory may contain one
    remote_exec = TextFile(
        agent, Template.of(_REMOTE_EXEC, python=Late.PYTHON, shim=Late.SHIM, run=run_id, names="".join(back))
    )
    words = (start.path, *args, Late.PYTHON, *shim_argv(run_id))
    # mpirun would take nodes and ways to reach them from these
    misleading = (*(row.variables for row in SCHEDULERS.values()), *_OF_MPI)
    return on_head_node(job, nodes, run_id, words, [start, remote_exec], unset="|".join(misleading))
