"""When a job runs, and on which machines. One row each; the files of a scheduler are imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from muster.config.record import Option, Options

if TYPE_CHECKING:
    from muster.schedulers.scheduler import Scheduler


class Row(NamedTuple):
    """A row of the table."""

    title: str
    """What people call it."""
    module: str
    """The file of this folder that has `SCHEDULER`."""
    job: str
    """The variable that each process of a job has, with its number."""
    variables: str
    """A pattern of all variables of its jobs."""
    options: str = ""
    """The file of this folder that has `OPTIONS`; empty where no option says something to it alone."""


SCHEDULERS: Mapping[str, Row] = {
    "slurm": Row("Slurm", "slurm_record", "SLURM_JOB_ID", "SLURM_.*", "slurm_options"),
}


class Unlike(NamedTuple):
    """A short option of ours that means something else to the scheduler's own program, whose users may type it."""

    name: str
    """The long name of the other one."""
    values: str = ""
    """A pattern of what only that one takes; empty where ours takes no value."""


class SchedulerOptions(NamedTuple):
    """The options that say something to one scheduler alone.

    One of its name without a value, such as `--slurm`, is short for `--scheduler NAME`.
    """

    run: type[Options] = Options
    """Of `muster run` and `muster plan`."""
    doctor: type[Options] = Options
    """Of `muster doctor`."""
    program: str = ""
    """The program to which a script is handed in, whose options its users know."""
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """More names of options, by key, that hold in a run by this scheduler: what that program calls them."""
    unlike: Mapping[str, Unlike] = MappingProxyType({})
    note: Callable[[Sequence[str], Options], str] = lambda words, options: ""
    """What to say about a command line that is most likely not meant; empty for nothing."""


@cache
def get_scheduler(name: str) -> Scheduler:
    """The record of a scheduler."""
    found: Scheduler = import_module(f"muster.schedulers.{SCHEDULERS[name].module}").SCHEDULER
    return found


@cache
def options_of(name: str) -> SchedulerOptions:
    """The options of a scheduler."""
    file = SCHEDULERS[name].options
    if not file:
        return SchedulerOptions()
    found: SchedulerOptions = import_module(f"muster.schedulers.{file}").OPTIONS
    return found


def title(name: str) -> str:
    """What people call a scheduler; also one that is not known here, by its name."""
    return SCHEDULERS[name].title if name in SCHEDULERS else name


def typed(name: str) -> str:
    """What to type for a run by this scheduler."""
    short = f"--{name.replace('_', '-')}"
    known = {option.long_name for option in options_of(name).run.table}
    return short if short in known else f"--scheduler {name}"


def within_jobs(env: Mapping[str, str]) -> list[str]:
    """The schedulers in whose jobs a process with this environment runs, or ran."""
    return [name for name, row in SCHEDULERS.items() if env.get(row.job)]


def choosing(options: Options) -> tuple[Option[Any], ...]:
    """The options that choose a scheduler: `--scheduler`, and those that are short for it."""
    return tuple(option for option in options.table if option.key == "scheduler" or option.key in SCHEDULERS)


def chosen(options: Options) -> str:
    """The scheduler that the options choose; empty for none."""
    for option in choosing(options):
        if value := options.value(option):
            return str(value) if option.key == "scheduler" else option.key
    return ""


def of_scheduler(option: Option[Any]) -> str:
    """The scheduler to which alone an option says something; empty for others, and for the one that chooses it."""
    for name in SCHEDULERS:
        found = options_of(name)
        if option.key != name and option in (*found.run.table, *found.doctor.table):
            return name
    return ""
