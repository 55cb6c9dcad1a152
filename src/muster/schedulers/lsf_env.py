"""LSF's environment variables, the job they describe, and the command that starts processes on its hosts.

After the parts of the documentation of IBM Spectrum LSF 10.1 that were at hand; not tried on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.schedulers import SCHEDULERS
from muster.schedulers._shared import counted, fanned_out, over_ssh
from muster.schedulers.scheduler import Allocation

HOST = "MUSTER_LSF_HOST"
"""Variable with the name of the host in processes of a step."""

_OF_HOST = r"HOSTNAME|HOST|HOSTTYPE|TMPDIR|TMP|PWD|OLDPWD|SHLVL|_"
"""Variables that are different on each host."""

_OF_TASK = SCHEDULERS["lsf"].variables


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """Return the job in which a process with this environment runs; None outside of one.

    `LSB_MCPU_HOSTS` is `n1 8 n2 8`; a job with many hosts has the file `LSB_DJOB_HOSTFILE` alone, with a line for each
    slot. The launcher host of some clusters, which has one slot and no others, is not left out.
    """
    job = env.get("LSB_JOBID")
    if not job:
        return None
    words = env.get("LSB_MCPU_HOSTS", "").split()
    slots: dict[str, int] = {}
    for host, count in zip(words[::2], words[1::2]):
        slots[host] = slots.get(host, 0) + (int(count) if re.fullmatch("[0-9]{1,9}", count) else 1)
    if not slots and env.get("LSB_DJOB_HOSTFILE"):
        try:
            with open(env["LSB_DJOB_HOSTFILE"]) as opened:
                slots = counted(opened)
        except OSError:
            return None
    slots = slots or counted(env.get("LSB_HOSTS", "").split())
    return Allocation(job, tuple(slots), 0, tuple(slots.values())) if slots else None


def submit_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a new job, which bsub passes: without variables of the job in which it is submitted."""
    own = rf"(?!LSB_(CONF|DEFAULT|SHAREDIR|ENVDIR).*)(?:{_OF_TASK})|{_OF_HOST}|{HOST}"
    return {name: value for name, value in env.items() if not re.fullmatch(own, name)}


_FIRST = '$(set -- $LSB_MCPU_HOSTS; [ $# -gt 0 ] && echo "$1" || head -n 1 "${LSB_DJOB_HOSTFILE:-/dev/null}")'


def step(hosts: Sequence[str], command: Sequence[str], job: str, gpus: int | None, stdin: bool) -> list[str]:
    """Return the command that starts one process on each of these hosts of a job.

    blaunch works in the job only: a process with `stdin`, which may come from outside, is started by ssh.
    """
    if stdin:
        return over_ssh(HOST, hosts[0], command)
    return fanned_out('blaunch -n "$host" -no-shell', HOST, f"{_OF_TASK}|{_OF_HOST}", _FIRST, hosts, command)
