"""Grid Engine's environment variables, the job they describe, and the command that starts processes on its nodes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

from muster.schedulers import SCHEDULERS
from muster.schedulers.scheduler import Allocation

HOST = "MUSTER_SGE_HOST"
"""Variable with the name of the node in processes of a step: `HOSTNAME` may have a domain that Grid Engine omits."""

VARIABLES = SCHEDULERS["sge"].variables
"""Pattern of the variables of a job."""

_OF_CLUSTER = r"SGE_(ROOT|CELL|CLUSTER_NAME|QMASTER_PORT|EXECD_PORT|ARCH)"

_OF_HOST = r"HOSTNAME|HOST|TMPDIR|TMP|PWD|OLDPWD|SHLVL|QRSH_.*|_"
"""Variables that are different on each node."""


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """Return the job of a process that its batch script started; None elsewhere, also in a task on another node.

    The nodes are in a file that exists as long as the job runs.
    """
    job, file = env.get("JOB_ID"), env.get("PE_HOSTFILE")
    if not job or not file or "SGE_TASK_ID" not in env:
        return None
    try:
        with open(file) as opened:
            slots = hosts_in(opened.read())
    except OSError:
        return None
    return Allocation(job, tuple(slots), int(env.get("RESTARTED") == "1"), tuple(slots.values())) if slots else None


def hosts_in(text: str) -> dict[str, int]:
    """Return the slots by host in the file `PE_HOSTFILE`: `n1 2 all.q@n1 UNDEFINED`; a host may have several."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and re.fullmatch("[0-9]{1,9}", words[1]):
            found[words[0]] = found.get(words[0], 0) + int(words[1])
    return found


def submit_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a new job: without variables of the job or the host in which it is submitted."""
    own = rf"(?!(?:{_OF_CLUSTER})$)(?:{VARIABLES}|{_OF_HOST}|{HOST})"
    return {name: value for name, value in env.items() if not re.fullmatch(own, name)}


_PACED = """
import fcntl, os, subprocess, sys, threading, time
qrsh = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, bufsize=0)
fcntl.fcntl(qrsh.stdin, 1031, 4096)  # F_SETPIPE_SZ
def feed():
    try:
        while data := os.read(0, 4096):
            qrsh.stdin.write(data)
            if len(data) == 4096:
                time.sleep(0.01)
        qrsh.stdin.close()
    except OSError:
        pass
threading.Thread(target=feed, daemon=True).start()
code = qrsh.wait()
os._exit(code if code >= 0 else 128 - code)
"""
"""Passes stdin on to qrsh slowly: that of 8.1.9 hangs for ever if it has more data than the pipe to the process on the
node takes, which may still be starting."""

_DRAINED = 'cat | "$@"'
"""Reads stdin at once on the node, until the process there is ready for it."""

_STEP = r"""
job=$1 hosts=$2 python=$3 paced=$4; shift 4
trap '' USR1 USR2
trap 'trap "" TERM; kill -TERM 0' TERM
first=
[ "$JOB_ID" = "$job" ] && [ -n "$PE_HOSTFILE" ] && read -r first _ <"$PE_HOSTFILE"
start() {
  if [ "$1" = "$first" ]; then
    shift; exec "$@" </dev/null
  fi
  host=$1; shift
  for name in $(compgen -e); do
    case $name in
      SGE_*|JOB_*|PE|PE_HOSTFILE|NSLOTS|NHOSTS|NQUEUES|QUEUE|REQUEST|REQNAME|RESTARTED|ENVIRONMENT|ARC) ;;
      HOSTNAME|HOST|TMPDIR|TMP|PWD|OLDPWD|SHLVL|QRSH_*|_) ;;
      *) declare -p "$name" ;;
    esac
  done | "$python" -I -S -c "$paced" qrsh -inherit -noshell "$host" \
    /bin/bash -c 'trap "" USR1 USR2; eval "$(cat)"; exec setsid "$@" </dev/null' bash "$@"
}
for host in $hosts; do
  (
    export @HOST@=$host
    (start "$host" "$@")
    code=$?
    [ $code = 0 ] || echo "qrsh: $host: exit status $code" >&2
    exit $code
  ) &
done
code=0
for host in $hosts; do wait -n || code=$?; done
exit $code
""".replace("@HOST@", HOST)
"""Starts a command on each host, with the environment of this process, which travels over qrsh's connection: Grid
Engine would write the one that `qrsh -V` passes into a file that every user of the node can read.

Agents and ranks ignore SIGUSR1 and SIGUSR2 unless they handle them: Grid Engine sends them to all processes of a job
(but not to those of root), and only the controller knows what to do. They end qrsh_starter, the parent of an agent,
and Grid Engine kills its process group. The agent has a session of its own and outlives that, so that its ranks get
SIGTERM and a grace period from the controller; if that is killed, the lease ends them. On the job's first node, where
it is run from its batch script, no task is started, because the script may occupy its only slot."""


def step(hosts: Sequence[str], command: Sequence[str], job: str, gpus: int | None, stdin: bool) -> list[str]:
    """Return the command that starts one process on each of these hosts of a job, from anywhere in the cluster.

    `-inherit` needs the variables of a job alone. `-noshell` passes the words of the command as they are. A process
    with `stdin` gets the environment that Grid Engine gives a task.
    """
    of_job, pace = ["env", f"JOB_ID={job}", "SGE_TASK_ID=undefined"], [sys.executable, "-I", "-S", "-c", _PACED]
    if stdin:
        qrsh = [
            "qrsh",
            "-inherit",
            "-noshell",
            hosts[0],
            "/usr/bin/env",
            f"{HOST}={hosts[0]}",
            "sh",
            "-c",
            _DRAINED,
            "sh",
        ]
        return [*of_job, *pace, *qrsh, *command]
    return [*of_job, "bash", "-c", _STEP, "bash", job, " ".join(hosts), sys.executable, _PACED, *command]


def failed_steps(said: str) -> dict[str, str]:
    """Return the hosts on which a step has failed, and how, from what the step and qrsh print."""
    return dict(re.findall(r"^qrsh: (\S+): (exit status \d+)$", said, re.MULTILINE))
