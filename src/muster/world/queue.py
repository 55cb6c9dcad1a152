"""What Slurm says of jobs, asked with care: an answer that did not come means nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from muster.errors import Impossible, Unreachable
from muster.schedulers import slurm

_WITHIN = 15.0


def look(jobs: Sequence[str]) -> dict[str, slurm.Seen] | None:
    """The jobs that Slurm knows, by number; None when it does not answer."""
    try:
        done = subprocess.run(slurm.queue(jobs), capture_output=True, text=True, timeout=_WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return slurm.queued(done.stdout)
    return {} if "Invalid job id" in done.stderr else None


def hand_in(script: Path, env: Mapping[str, str]) -> str:
    """Give a script to sbatch, and give the number of the job. Raises `Impossible` with Slurm's own words."""
    try:
        done = subprocess.run(slurm.submit(str(script)), capture_output=True, text=True, env=slurm.clean(env))
    except FileNotFoundError:
        raise Impossible("--slurm: there is no sbatch here", "run this on a login node of the cluster") from None
    if done.returncode != 0:
        said, hint = slurm.refused(done.stderr)
        raise Impossible(f"Slurm refused the job: {said}", hint)
    return slurm.submitted(done.stdout)


def start_step(
    allocation: slurm.Allocation, hosts: Sequence[str], command: Sequence[str], log: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start one task on each of these hosts of an allocation; what they say goes to `log`."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            slurm.step(hosts, command, job=allocation.job),
            env=slurm.clean(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def start_now(job: str) -> None:
    """Have a requeued job start as soon as it can; Slurm would let two minutes pass."""
    subprocess.run(slurm.start_now(job), capture_output=True)


def ask(command: Sequence[str]) -> str:
    """What a command of Slurm says. Raises `Impossible`, `Unreachable`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN)
    except FileNotFoundError:
        raise Impossible(f"there is no {command[0]} here", "run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"{command[0]} did not answer within {_WITHIN:g} s", "is slurmctld up? `scontrol ping`"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Unreachable(f"{command[0]} failed: {said}", "is slurmctld up? `scontrol ping`")
    return done.stdout
