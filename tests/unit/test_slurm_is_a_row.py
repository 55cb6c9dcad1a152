"""Slurm is named in its own files, in its row and in its options, and almost nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster.schedulers import SCHEDULERS, get_scheduler, options_of

SRC = Path(__file__).parents[2] / "src" / "muster"

ITS_OWN = (
    *("schedulers/slurm*.py", "launchers/srun.py", "launchers/submitit.py"),
    *("runtimes/pyxis.py", "export/*.py", "cli/export.py", "adopt/*.py", "lint/**/*.py", "cli/lint.py"),
)
"""Slurm itself, launchers that are programs of Slurm or made for it, and scripts for it."""

FROM_THE_TABLE = ("python/signatures.py",)
"""Written from the option table, which has Slurm's options."""

THE_LAB = ("lab/*.py", "cli/lab.py")
"""The lab sets up and starts the real one."""

ELSEWHERE = {
    "__init__.py": (1, "an example of a job, in the first lines that a user of the Python API reads"),
    "python/executor.py": (1, "an example of jobs"),
    "python/rank.py": (4, "ranks of a plain srun, which does not tell them where to meet; its option for a warning"),
    "schedulers/__init__.py": (2, "its row, and an example of an option that is short for another"),
    "launchers/__init__.py": (
        4,
        "the rows of srun and submitit, which work in its jobs alone; its name, typed for srun",
    ),
    "config/options.py": (1, "help of an option that means something else with --slurm"),
    "config/command_options.py": (4, "options that describe the lab's, and those of a job that a session has"),
    "config/resolve.py": (1, "the hint of an option that requires hosts or a job"),
    "config/values.py": (1, "the hint for `-t 4:00:00`, which sbatch would take"),
    "cli/commands.py": (
        9,
        "help of `muster lab`, examples with --slurm, jobs of sessions, a link to docs/slurm.md",
    ),
    "runtimes/container.py": (1, "help of the container runtime that is a plugin of it"),
    "runtimes/_engine.py": (1, "the pattern of variables that tell a task in a container who it is"),
    "core/layout.py": (1, "the row of srun among the programs that start muster several times"),
    "agent/found_imports.py": (1, "variables by which a module that reads them while it is imported is recognized"),
    "agent/rank_info.py": (10, "the row of srun among the launchers that tell a rank who it is"),
    "agent/hook/fitness.py": (1, "the variables by which srun tells ranks apart"),
    "core/env_forwarding.py": (1, "a row among prefixes of variables that hold no secret"),
    "rundir/job_record.py": (4, "the keys of job.json of the version before this one"),
    "diagnostics/machine_checks.py": (1, "advice: slurmd may have limits of its own"),
    "diagnostics/selftest/verdicts.py": (1, "advice: an option of Slurm that binds ranks"),
}
"""How many lines of a file may name it, and why."""


def lines_that_name_it(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if re.search("slurm", line, re.IGNORECASE)]


def test_slurm_is_named_where_it_has_to_be() -> None:
    own = {path for pattern in (*ITS_OWN, *FROM_THE_TABLE, *THE_LAB) for path in SRC.glob(pattern)}
    found = {
        str(path.relative_to(SRC)): lines_that_name_it(path) for path in sorted(SRC.rglob("*.py")) if path not in own
    }
    found = {name: lines for name, lines in found.items() if lines}
    too_many = {name: lines for name, lines in found.items() if len(lines) > ELSEWHERE.get(name, (0, ""))[0]}
    assert not too_many, "name the scheduler by its record: `get_scheduler(job.scheduler)`"
    assert {name: len(lines) for name, lines in found.items()} == {name: most for name, (most, _) in ELSEWHERE.items()}


ELSEWHERE_OTHERS = {
    *("schedulers/__init__.py", "python/signatures.py", "config/command_options.py", "cli/lab.py"),
    "agent/rank_info.py",  # launchers that tell a rank who it is
}
WORDS = {
    "sge": r"\bSGE_|grid ?engine|\bsge\b|\bqrsh\b|\bqconf\b",
    "flux": r"\bflux\b|\bFLUX_",
    "lsf": r"\bLSF\b|\bLSB_|\bbsub\b|\bbjobs\b|\bblaunch\b",
    "pbs": r"\bPBS|\bpbs|\bqselect\b|\bpbsnodes\b",
}
"""What names a scheduler."""


@pytest.mark.parametrize("name", WORDS)
def test_other_schedulers_are_named_in_their_own_files(name: str) -> None:
    """What belongs to one is in its files, its row, and what is written from the option table."""
    named = {
        str(path.relative_to(SRC))
        for path in SRC.rglob("*.py")
        if re.search(WORDS[name], path.read_text(), re.IGNORECASE) and path.relative_to(SRC).parts[0] not in READERS
    }
    own = {str(path.relative_to(SRC)) for where in (f"schedulers/{name}_*.py", "lab/*.py") for path in SRC.glob(where)}
    assert named - own <= ELSEWHERE_OTHERS


READERS = ("lint", "adopt")
"""Parts that read scripts for all schedulers."""


def test_schedulers_are_whole() -> None:
    """Each has its record and its options, whose keys are unique."""
    keys = [option.key for name in SCHEDULERS for option in options_of(name).run.table]
    assert len(keys) == len(set(keys))
    for name, row in SCHEDULERS.items():
        record = get_scheduler(name)
        assert row.title == record.title
        assert not record.states.keys() & record.ends.keys()
        assert {end.state.ended for end in record.ends.values()} == {True}
        assert re.fullmatch(row.variables, row.job)
