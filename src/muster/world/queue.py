"""What Slurm says of jobs, asked with care: an answer that did not come means nothing."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from muster.errors import Impossible, Unreachable
from muster.options import near
from muster.runs import Run
from muster.schedulers import slurm

_WITHIN, _SOON = 15.0, 4.0
_FRESH = 2.0
"""Seconds for which an answer of Slurm is good, for all runs and all processes of a person together."""
_SEEN = "slurm-queue-{host}.json"
"""That answer, in the folder of muster, which hosts of several clusters may share."""
_PROVEN = "slurm-sees.json"
"""Where nodes of a partition were seen to write in the folder of muster."""


_SILENT_FOR = 5.0
"""Seconds for which Slurm is not asked again by this process after it gave no answer."""
_silent_since = -_SILENT_FOR


def look(root: Path, since: float = 0.0, within: float = _WITHIN) -> dict[str, slurm.Seen] | None:
    """This person's jobs that Slurm knows, by number, as they were a moment ago; None when it does not answer.

    `root` is the folder of muster. An answer from before `since`, in seconds since 1970, is not good enough.
    """
    kept = root / _SEEN.format(host=socket.gethostname())
    with suppress(OSError, ValueError):
        seen = json.loads(kept.read_text())
        if seen["time"] > since and 0 <= time.time() - seen["time"] < _FRESH:
            return slurm.queued(seen["said"])
    global _silent_since
    if time.monotonic() - _silent_since < _SILENT_FOR:
        return None
    asked = time.time()
    try:
        done = _ask(slurm.queue(), within)
        answered = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        answered = False
    if not answered:
        _silent_since = time.monotonic()
        return None
    with suppress(OSError):  # a full disk must not keep anybody from knowing
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_text(json.dumps({"time": asked, "said": done.stdout}))
        part.replace(kept)
    return slurm.queued(done.stdout)


def allocation(env: Mapping[str, str], root: Path, within: float = _WITHIN) -> slurm.Allocation | None:
    """The allocation in which this process runs; None outside.

    Raises `Impossible` where only the environment says so: a shell, a tmux or a container may outlive the job whose
    environment variables it has.
    """
    found = slurm.allocation(env)
    if found is None:
        return None
    jobs = look(root, within=within)
    if jobs is None or (found.job in jobs and jobs[found.job].state in slurm.LIVING):
        return found  # no answer means nothing
    # that answer may be as old as the job is, or come from another cluster
    state = _state_now(found.job, env.get("SLURM_CLUSTER_NAME", ""), within)
    if state is None or (state and state not in slurm.ENDED):
        return found
    why = f"that job is over ({state})" if state else "Slurm knows no such job of yours"
    raise Impossible(
        f"SLURM_JOB_ID={found.job} in the environment is left over: {why}",
        "`unset SLURM_JOB_ID`; then --slurm submits a job of its own",
    )


def _state_now(job: str, cluster: str, within: float) -> str | None:
    """The state of one job of the named cluster; empty when Slurm knows no such job, None when it does not answer."""
    try:
        own = slurm.name_of_cluster(_ask(slurm.configuration(), within).stdout) if cluster else ""
        if cluster and not own:
            return None  # nobody knows which cluster squeue would ask
        # `--clusters` needs accounting, so it is left out for the default cluster
        question = slurm.queue(job, "" if cluster == own else cluster, everybody=os.getuid() == 0)
        done = _ask(question, within)
    except (OSError, subprocess.TimeoutExpired):
        return None
    seen = slurm.queued(done.stdout).get(job)
    if seen is not None:
        return seen.state
    return "" if done.returncode == 0 or slurm.no_such_job(done.stderr) else None


def _ask(command: Sequence[str], within: float = _WITHIN) -> subprocess.CompletedProcess[str]:
    """Ask Slurm, without the person's variables that would make another question of it."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=within, env=slurm.clean(os.environ), errors="replace"
    )


def state(run: Run, within: float = _WITHIN) -> str | None:
    """The state of the job of a run; empty when Slurm knows it no more, None when it does not answer."""
    found = look(run.path.parents[1], float(run.job["time"]), within)
    if found is None:
        return None
    seen = found.get(str(run.job["slurm"]))
    # numbers begin anew on another cluster
    return seen.state if seen is not None and seen.name == run.job.get("slurm_name", seen.name) else ""


def cancelled_by(run: Run) -> str:
    """Who cancelled the job of a run, as accounting has it; empty where there is none."""
    import pwd

    with suppress(OSError, subprocess.TimeoutExpired, KeyError):
        number = slurm.cancelled_by(_ask(slurm.past(str(run.job["slurm"])), _SOON).stdout)
        return pwd.getpwuid(int(number)).pw_name if number else ""
    return ""


def past(run: Run) -> str:
    """The same for one that squeue has forgotten; empty where there is no accounting."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return slurm.past_state(_ask(slurm.past(str(run.job["slurm"]))).stdout)
    return ""


def _refuse_option(name: str) -> NoReturn:
    """Raise `Impossible` for an option that sbatch has refused.

    sbatch itself decides: its `--help` does not list all options (22.05 leaves out `--hint`, `--prefer` and more).
    """
    known: set[str] = set()
    with suppress(OSError, subprocess.TimeoutExpired):
        known = slurm.options_of_sbatch(_ask(slurm.help_of_sbatch()).stdout)
    raise Impossible(f"sbatch has no option `--{name}`", near(name, known) or "`man sbatch` lists them")


def try_folder(root: Path, request: slurm.Request, env: Mapping[str, str]) -> None:
    """See, by a step of a second on a node that is free now, that nodes can write in the folder of muster.

    It is done once for each partition; where no node is free, the job itself finds out. Raises `Impossible`.
    """
    partition = dict(request.options).get("partition", "")
    proven = root / _PROVEN
    known: list[str] = []
    with suppress(OSError, ValueError):
        known = json.loads(proven.read_text())
    if partition in known:
        return
    flag = root / f"seen-by-a-node-{os.getpid()}"
    script = f"echo reached; echo >{shlex.quote(str(flag))}"
    try:
        done = subprocess.run(
            slurm.trial(request, ("sh", "-c", script)),
            capture_output=True,
            text=True,
            env=slurm.clean(env),
            timeout=_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    arrived = flag.exists()
    flag.unlink(missing_ok=True)
    if arrived:
        with suppress(OSError):
            proven.write_text(json.dumps([*known, partition]))
    elif "reached" in done.stdout:
        said = done.stderr.strip().splitlines()[:1]
        raise Impossible(
            f"nodes of Slurm cannot write in {root}, where runs are kept, or it is another folder there"
            + (f": {said[0]}" if said else ""),
            "choose a folder that all nodes share: --run-dir, or MUSTER_HOME",
        )


def hand_in(request: slurm.Request, script: Path, env: Mapping[str, str]) -> str:
    """Give a script to sbatch, and give the number of the job. Raises `Impossible` with Slurm's own words."""
    kept = slurm.for_sbatch(env)
    try:
        done = subprocess.run(slurm.submit(request, str(script)), capture_output=True, text=True, env=kept)
    except FileNotFoundError:
        raise Impossible("--slurm: there is no sbatch here", "run this on a login node of the cluster") from None
    if done.returncode != 0:
        unknown = slurm.unknown_option(done.stderr)
        if unknown:
            _refuse_option(unknown)
        said, hint = slurm.refused(done.stderr)
        raise Impossible(f"Slurm refused the job: {said}", hint)
    return slurm.submitted(done.stdout)


def gpus_by_host(allocation: slurm.Allocation) -> dict[str, int | None]:
    """How many GPUs the job has on each of its nodes, in their order; None where Slurm does not say."""
    try:
        done = _ask(slurm.details(allocation.job))
        found = slurm.gpus_there(done.stdout, dict(zip(allocation.hosts, allocation.tasks)))
    except (OSError, subprocess.TimeoutExpired):
        found = {}
    return {host: found.get(host) for host in allocation.hosts}


def record(job: str) -> slurm.Record | None:
    """What slurmctld knows of a job, None where it does not answer soon."""
    try:
        done = _ask(slurm.record(job), _SOON)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return slurm.record_of(done.stdout) if done.returncode == 0 else None


def replace_with(command: Sequence[str]) -> int:
    """Become this program, which ends as it does. Raises `Impossible` where it is not there."""
    try:
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        raise Impossible(f"there is no {command[0]} here", "--slurm needs a machine that submits to Slurm") from None


def restarts(job: str) -> int:
    """How often Slurm has requeued a job; 0 where it does not say."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return slurm.restarts(_ask(slurm.details(job)).stdout)
    return 0


def kill_wait() -> float:
    """Seconds that Slurm leaves between SIGTERM and SIGKILL; its default where it does not say."""
    try:
        done = _ask(slurm.configuration())
    except (OSError, subprocess.TimeoutExpired):
        return slurm.KILL_WAIT
    return slurm.kill_wait(done.stdout)


def start_step(
    job: str,
    hosts: Sequence[str],
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str],
    gpus: int | None = 0,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start one task on each of these hosts of a job, with so many GPUs; what they say goes to `log`.

    Its srun has the descriptors `keep` as long as it lives.
    """
    with open(log, "ab") as file:
        return subprocess.Popen(
            slurm.step(hosts, command, job=job, gpus=gpus),
            env=slurm.clean(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            pass_fds=keep,
        )


def start_now(job: str) -> None:
    """Have a requeued job start as soon as it can; Slurm would let two minutes pass."""
    subprocess.run(slurm.start_now(job), capture_output=True, env=slurm.clean(os.environ))


def ask(command: Sequence[str]) -> str:
    """What a command of Slurm says. Raises `Impossible`, `Unreachable`."""
    try:
        done = _ask(command)
    except FileNotFoundError:
        raise Impossible(f"there is no {command[0]} here", "run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"{command[0]} did not answer within {_WITHIN:g} s", "is slurmctld up? `scontrol ping`"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "configuration source" in said:
            raise Impossible(
                "Slurm's programs are here, and this machine belongs to no cluster", "run this on a login node of one"
            )
        raise Unreachable(f"{command[0]} failed: {said}", "is slurmctld up? `scontrol ping`")
    return done.stdout
