"""PBS's environment variables, the job they describe, and the command that starts processes on its nodes.

From the manuals of OpenPBS 23.06 (qsub(1B), pbs_tmrsh(8B)); not tried on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.schedulers import SCHEDULERS
from muster.schedulers._shared import counted, fanned_out, over_ssh
from muster.schedulers.scheduler import Allocation

HOST = "MUSTER_PBS_HOST"
"""Variable with the name of the node in processes of a step, as `PBS_NODEFILE` has it."""

_OF_HOST = r"NCPUS|HOSTNAME|HOST|TMPDIR|TMP|PWD|OLDPWD|SHLVL|_"
"""Variables that are different on each node."""

_OF_TASK = SCHEDULERS["pbs"].variables


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """Return the job of a process that its batch script started; None elsewhere, also in a task on another node.

    The nodes are in a file that exists as long as the job runs, each once for each of its `mpiprocs`.
    """
    job, file = env.get("PBS_JOBID"), env.get("PBS_NODEFILE")
    if not job or not file:
        return None
    try:
        with open(file) as opened:
            slots = counted(opened)
    except OSError:
        return None
    return Allocation(job, tuple(slots), 0, tuple(slots.values())) if slots else None


def submit_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a new job: without variables of the job or the host in which it is submitted."""
    own = rf"(?!PBS_(CONF_FILE|EXEC|HOME|SERVER|DEFAULT)$)(?:{_OF_TASK}|{_OF_HOST}|{HOST})"
    return {name: value for name, value in env.items() if not re.fullmatch(own, name)}


_FIRST = '$(head -n 1 "${PBS_NODEFILE:-/dev/null}" 2>/dev/null)'


def step(hosts: Sequence[str], command: Sequence[str], job: str, gpus: int | None, stdin: bool) -> list[str]:
    """Return the command that starts one process on each of these hosts of a job.

    pbs_tmrsh works in the job only, and has no stdin: a process with `stdin`, which may come from outside, is started
    by ssh. The output of a task on another node goes to the output of the job.
    """
    if stdin:
        return over_ssh(HOST, hosts[0], command)
    return fanned_out('pbs_tmrsh "$host"', HOST, f"{_OF_TASK}|{_OF_HOST}", _FIRST, hosts, command)
