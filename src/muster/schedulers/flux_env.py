"""Flux's environment variables, the batch job they describe, and the command that starts processes on its nodes.

From the manual pages of flux-core 0.7x (flux-environment(7), flux-hostlist(1), flux-exec(1)); not tried on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.schedulers._shared import fanned_out
from muster.schedulers.flux_jobs import outside
from muster.schedulers.scheduler import Allocation, Answer, Ask

HOST = "MUSTER_FLUX_HOST"
"""Variable with the name of the node in processes of a step."""

HOSTS = "MUSTER_FLUX_HOSTS"
"""Variable with the nodes of the job, in processes of a step. No variable of Flux tells them, but a command does."""

_OF_HOST = r"FLUX_URI|HOSTNAME|HOST|TMPDIR|TMP|PWD|OLDPWD|SHLVL|_"
"""Variables that are different on each node."""


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """Return the job of a process of a step; None elsewhere."""
    job, hosts = env.get("FLUX_ENCLOSING_ID", ""), env.get(HOSTS, "").split()
    return Allocation(job.replace("ƒ", "f"), tuple(hosts), 0) if job and hosts else None


def ask_allocation(env: Mapping[str, str]) -> Ask[Allocation | None] | None:
    """Return the question for the nodes of the batch job or of the shell of `flux alloc` in which this process runs."""
    job = env.get("FLUX_ENCLOSING_ID", "").replace("ƒ", "f")
    if not job or not env.get("FLUX_URI"):
        return None

    def read(answer: Answer) -> Allocation | None:
        hosts = tuple(answer.out.split()) if answer.code == 0 else ()
        return Allocation(job, hosts, 0) if hosts else None

    return Ask(("flux", "hostlist", "-e", "instance"), read)


def submit_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a new job, which `flux batch` passes. It needs FLUX_URI itself, and the job gets its
    own."""
    own = rf"FLUX_(JOB_.*|TASK_.*|KVS_NAMESPACE)|(?!FLUX_URI)(?:{_OF_HOST})|{HOST}|{HOSTS}"
    return {name: value for name, value in env.items() if not re.fullmatch(own, name)}


_FIRST = f"; {HOSTS}=$(flux hostlist -e instance) || exit 1; export {HOSTS}; first=${{{HOSTS}%% *}}"

_RANK = "$(flux hostlist -F {host} instance)"
"""The rank of the broker on a host."""

_INSIDE = f'rank={_RANK.format(host="$1")} || exit 1; shift; exec flux exec -r "$rank" "$@"'


def step(hosts: Sequence[str], command: Sequence[str], job: str, gpus: int | None, stdin: bool) -> list[str]:
    """Return the command that starts one process on each of these nodes of a job, beside what runs there.

    A process with `stdin`, which may come from outside, is started through `flux proxy`.
    """
    if stdin:
        inside = ("sh", "-c", _INSIDE, "sh", hosts[0], "env", f"{HOST}={hosts[0]}", *command)
        return [*outside("proxy", job), *inside]
    start = f'flux exec -n -r "{_RANK.format(host=chr(34) + "$host" + chr(34))}"'
    return fanned_out(start, HOST, _OF_HOST, _FIRST, hosts, command)
