"""Slurm: patterns of file names, such as `%x-%j.%4t.out`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from muster.core.model import Rank

NOT_AN_ARRAY = 4294967294
"""What Slurm writes for `%a` in a job that is no task of an array."""

_WIDEST = 10


def fill_pattern(pattern: str, values: Mapping[str, str | int]) -> str:
    """Slurm's patterns of file names, as srun of 22.05 fills them: `%x-%j.%4t.out`.

    A number after `%` is the width of what is a number, 10 at most. A letter that is not known stays as it is, and
    `%%` is `%`. A backslash anywhere takes the meaning of all patterns; of two in a row one stays.
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
    """What patterns of file names say of the job in which this process runs."""
    job = env.get("SLURM_JOB_ID", "")
    return {
        "j": job,
        "x": env.get("SLURM_JOB_NAME", ""),
        "u": env.get("SLURM_JOB_USER", ""),
        "A": env.get("SLURM_ARRAY_JOB_ID", job),
        "a": env.get("SLURM_ARRAY_TASK_ID", NOT_AN_ARRAY),
    }


def names_of_task(job: Mapping[str, str | int], rank: Rank, host: str, step: str) -> dict[str, str | int]:
    """The same of one rank, as it were a task of that step of the job."""
    own: dict[str, str | int] = {
        "t": rank.rank,
        "n": rank.node,
        "N": host.partition(".")[0],
        "s": step,
        "J": f"{job['j']}.{step}",
    }
    return {**job, **own}
