"""Slurm's file name patterns, such as `%x-%j.%4t.out`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from muster.core.model import Rank

NOT_AN_ARRAY = 4294967294
"""The value that Slurm writes for `%a` in a job that is not an array task."""

_WIDEST = 10


def fill_pattern(pattern: str, values: Mapping[str, str | int]) -> str:
    """Fill in a file name pattern such as `%x-%j.%4t.out`, as srun of Slurm 22.05 does.

    A number after `%` is the minimum width of a number, at most 10. An unknown letter stays as it is, and `%%` is `%`.
    A backslash anywhere disables all patterns; of two in a row one stays.
    """
    if "\\" in pattern:
        return re.sub(r"\\(\\?)", r"\1", pattern)

    def one(found: re.Match[str]) -> str:
        width, letter = found.groups()
        if letter == "%":
            return "%"
        if letter not in values:
            return found[0]
        value = str(values[letter])
        number, dot, rest = value.partition(".")  # of `%J`, 128.0, the first is padded
        return number.zfill(min(int(width or 0), _WIDEST)) + dot + rest if number.isdigit() else value

    return re.sub(r"%(\d{0,9})([A-Za-z%])", one, pattern)


def names_of_job(env: Mapping[str, str]) -> dict[str, str | int]:
    """Return the values of file name patterns for the job in which this process runs."""
    job = env.get("SLURM_JOB_ID", "")
    return {
        "j": job,
        "x": env.get("SLURM_JOB_NAME", ""),
        "u": env.get("SLURM_JOB_USER", ""),
        "A": env.get("SLURM_ARRAY_JOB_ID", job),
        "a": env.get("SLURM_ARRAY_TASK_ID", NOT_AN_ARRAY),
    }


def names_of_task(job: Mapping[str, str | int], rank: Rank, host: str, step: str) -> dict[str, str | int]:
    """Return the values of file name patterns for one rank, as if it were a task of that step of the job."""
    own: dict[str, str | int] = {
        "t": rank.rank,
        "n": rank.node,
        "N": host.partition(".")[0],
        "s": step,
        "J": f"{job['j']}.{step}",
    }
    return {**job, **own}
