"""Schedulers: when a job runs, and on which machines. One row each; modules are imported on first use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from muster.config.record import Option, Options
from muster.core.plurals import listed

if TYPE_CHECKING:
    from muster.schedulers.scheduler import Scheduler


class Row(NamedTuple):
    """A row of the table."""

    title: str
    """Name for users."""
    module: str
    """The module of this package that defines `SCHEDULER`."""
    job: str
    """Environment variable that only processes of a job have, most often the job id."""
    variables: str
    """Pattern of all environment variables of its jobs."""
    options: str = ""
    """The module of this package that defines `OPTIONS`; empty if the scheduler has no options of its own."""


_OF_SGE = (
    r"SGE_.*|JOB_(ID|NAME|SCRIPT)|PE|PE_HOSTFILE|NSLOTS|NHOSTS|NQUEUES|QUEUE|REQUEST|REQNAME|RESTARTED|ENVIRONMENT|ARC"
)

SCHEDULERS: Mapping[str, Row] = {
    "slurm": Row("Slurm", "slurm_record", "SLURM_JOB_ID", "SLURM_.*", "slurm_options"),
    "sge": Row("Grid Engine", "sge_record", "SGE_TASK_ID", _OF_SGE, "sge_options"),
    "pbs": Row("PBS", "pbs_record", "PBS_JOBID", "PBS_.*", "pbs_options"),
    "lsf": Row("LSF", "lsf_record", "LSB_JOBID", "LSB_.*|LSFUSER|LS_JOBPID|LS_SUBCWD|LS_EXEC_T", "lsf_options"),
    "flux": Row("Flux", "flux_record", "FLUX_ENCLOSING_ID", "FLUX_.*", "flux_options"),
}


class Unlike(NamedTuple):
    """A short option with another meaning in the scheduler's own program, whose users may type it by habit."""

    name: str
    """Long name of that program's option."""
    values: str = ""
    """Pattern of values that only that program accepts; empty if our option takes no value."""


class SchedulerOptions(NamedTuple):
    """The options that concern only one scheduler.

    An option with the scheduler's name and no value, such as `--slurm`, is short for `--scheduler NAME`.
    """

    run: type[Options] = Options
    """Options of `muster run` and `muster plan`."""
    doctor: type[Options] = Options
    """Options of `muster doctor`."""
    program: str = ""
    """The submit program, whose options users know."""
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Aliases of options, by key, that are valid with this scheduler: their names in that program."""
    borrows: tuple[str, ...] = ()
    """Keys of options of other schedulers that are valid with this one, too."""
    unlike: Mapping[str, Unlike] = MappingProxyType({})
    instead: Mapping[str, str] = MappingProxyType({})
    """What to use instead of options, by key, that only another scheduler has; the end of a hint."""
    note: Callable[[Sequence[str], Options], str] = lambda words, options: ""
    """Returns a note about a command line that is most likely a mistake; empty for none."""


@cache
def get_scheduler(name: str) -> Scheduler:
    """Return the record of a scheduler."""
    found: Scheduler = import_module(f"muster.schedulers.{SCHEDULERS[name].module}").SCHEDULER
    return found


@cache
def options_of(name: str) -> SchedulerOptions:
    """Return the options of a scheduler."""
    file = SCHEDULERS[name].options
    if not file:
        return SchedulerOptions()
    found: SchedulerOptions = import_module(f"muster.schedulers.{file}").OPTIONS
    return found


def title(name: str) -> str:
    """Return the name of a scheduler for users; an unknown one's key."""
    return SCHEDULERS[name].title if name in SCHEDULERS else name


def typed(name: str) -> str:
    """Return the option to type for a run with this scheduler."""
    short = f"--{name.replace('_', '-')}"
    known = {option.long_name for option in options_of(name).run.table}
    return short if short in known else f"--scheduler {name}"


def within_jobs(env: Mapping[str, str]) -> list[str]:
    """Return the schedulers in whose jobs a process with this environment runs, or ran."""
    return [name for name, row in SCHEDULERS.items() if env.get(row.job)]


def choosing(options: Options) -> tuple[Option[Any], ...]:
    """Return the options that choose a scheduler: `--scheduler`, and its short forms."""
    return tuple(option for option in options.table if option.key == "scheduler" or option.key in SCHEDULERS)


def chosen(options: Options) -> str:
    """Return the scheduler chosen by the options; empty for none."""
    for option in choosing(options):
        if value := options.value(option):
            return str(value) if option.key == "scheduler" else option.key
    return ""


def takers(option: Option[Any]) -> tuple[str, ...]:
    """Return the schedulers with which an option is valid: the one that it belongs to, and those that borrow it."""
    owner = of_scheduler(option)
    return tuple(name for name in SCHEDULERS if owner and (name == owner or option.key in options_of(name).borrows))


def named(names: Sequence[str], last: str = "and") -> str:
    """Return the options that choose these schedulers, for a sentence: `--pbs`, `--lsf` and `--flux`."""
    return listed((f"`{typed(name)}`" for name in names), last)


def described(option: Option[Any], among: Collection[str] = tuple(SCHEDULERS)) -> str:
    """Return what an option does, with those of some schedulers with which it is valid, and its default."""
    found = tuple(name for name in takers(option) if name in among)
    if len(found) < 2:
        return option.description
    valid = "with any scheduler" if len(found) == len(SCHEDULERS) else f"with {named(found)}"
    return f"{option.help}; {valid}" + option.description[len(option.help) :]


def of_scheduler(option: Option[Any]) -> str:
    """Return the only scheduler that an option concerns; empty for other options and for those choosing a scheduler."""
    for name in SCHEDULERS:
        found = options_of(name)
        if option.key != name and option in (*found.run.table, *found.doctor.table):
            return name
    return ""
