"""The record of the options of a command: defaults and sources, all from one table."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from muster.cli import run_line as command
from muster.config.command_options import COMMANDS, LAB, CheckOptions, LabOptions, LabUpOptions
from muster.config.options import RunOptions
from muster.config.parse import parse
from muster.config.record import Option, Options
from muster.core.model import Job
from muster.errors import InvalidRequest
from muster.lab.lab import USUAL, Lab
from muster.schedulers import SCHEDULERS

RECORDS: dict[str, type[Options]] = {**COMMANDS, **{f"lab {action}": record for action, record in LAB.items()}}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_each_option_is_an_attribute_by_its_key(record: type[Options]) -> None:
    """So that mypy knows it, and messages, muster.toml and variables use the same name."""
    assert [option for option in record.table if getattr(record, option.key) is not option] == []
    named = {name for parent in record.__mro__ for name, value in vars(parent).items() if isinstance(value, Option)}
    assert named == {option.key for option in record.table}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_help_shows_the_default_that_applies(record: type[Options]) -> None:
    """The text after `default:` is parsed to the value in a record in which nothing is set."""
    nothing = record()
    for option in record.table:
        value = nothing.value(option)
        assert value == option.default == getattr(nothing, option.key)
        if value not in (None, False, ()):
            assert option.read(option.default_text.split(", ")[0]) == value
        if option.group and option.default_text:
            assert option.description.endswith(f"(default: {option.default_text})")


def test_defaults_are_those_of_the_nouns() -> None:
    """A job or a lab created without options has the same values."""
    nothing, job, lab = RunOptions(), Job._field_defaults, signature(Lab).parameters
    for name in ("grace", "timeout", "stdin", "max_restarts", "role"):
        assert getattr(nothing, name) == job[name]
    assert (nothing.ssh,) == job["ssh"]
    assert ",".join(nothing.signals_to_handle) == job["signals_to_handle"]
    up = LabUpOptions()
    assert (up.nodes, up.gpus, up.cpus) == tuple(lab[name].default for name in ("nodes", "gpus", "cpus"))
    assert LabOptions().lab_dir == USUAL
    assert (RunOptions().timeout, CheckOptions().timeout) == (None, 600.0)


def test_a_value_knows_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line, before variables, before muster.toml, before the defaults."""
    (tmp_path / "muster.toml").write_text('[run]\ngrace = 5\nlease = "1m"\nrole = "file"\npreload = ["json"]\n')
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path), "MUSTER_GRACE": "6", "MUSTER_LEASE": "2m"}
    _, options = command.read_line(["--grace", "7", "train.py"], env, RunOptions, "run")
    assert (options.grace, options.lease, options.role, options.requeue) == (7.0, 120.0, "file", 0)
    rows = (RunOptions.grace, RunOptions.lease, RunOptions.role, RunOptions.requeue)
    assert [options.source(row) for row in rows] == ["argv", "environment", "muster.toml", "default"]
    assert options.preload == ("json",)
    assert options.all_given("argv") == (RunOptions.grace,)
    assert set(options.all_given()) == {RunOptions.grace, RunOptions.lease, RunOptions.role, RunOptions.preload}
    less = options.without(RunOptions.grace, RunOptions.role)
    assert (less.grace, less.source(RunOptions.grace), less.role, less.lease) == (30.0, "default", "default", 120.0)
    assert options.grace == 7.0


def test_a_record_does_not_change() -> None:
    options: Any = RunOptions()
    for name in ("grace", "nosuch"):
        with pytest.raises(AttributeError):
            setattr(options, name, 1.0)


@pytest.mark.parametrize(
    ("words", "toml"),
    [
        (["--help"], ""),
        (["-t", "3", "train.py"], ""),
        (["--slurm", "-t", "3", "train.py"], ""),
        (["-t", "3", "train.py"], "slurm = true"),
    ],
)
def test_a_command_line_is_cut_once_for_each_scheduler(
    words: list[str], toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it requests help, and whether sbatch's names apply, is determined at the same time."""
    (tmp_path / "muster.toml").write_text(f"[run]\n{toml}\n")
    monkeypatch.chdir(tmp_path)
    cut, calls = command.cut, []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return cut(*args)

    monkeypatch.setattr(command, "cut", counted)
    _, options = command.read_line(words, {"HOME": str(tmp_path)}, RunOptions, "run")
    assert len(calls) == (1 if options.slurm or "--help" in words else len(SCHEDULERS)), "with the names of each"
    assert (options.time, options.tee) == (("3", None) if options.slurm else (None, "3" if "3" in words else None))


def test_the_first_mistake_of_a_line_is_told() -> None:
    """Whatever kind of mistake follows it."""
    for line, told in (
        ("-g x --nosuch", "invalid value for -g: 'x'"),
        ("--nosuch -g x", "unknown option: --nosuch"),
        ("-g x --grace", "invalid value for -g: 'x'"),
        ("--grace 1s --max-restarts", "--max-restarts requires a value"),
        ("-g x --quiet=1", "invalid value for -g: 'x'"),
        ("-g x --master 1", "invalid value for -g: 'x'"),
        ("--master 1 -g x", "ambiguous option: --master matches --master-addr, --master-port"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            parse(line.split(), RunOptions.table)
