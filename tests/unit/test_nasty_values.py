"""Every option of every command with bad values: one clear error, or it works.

Never a traceback, an endless loop, or a plan that fills memory.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import pytest

from muster.cli import call, show_any_text
from muster.config.command_options import CHECK, COMMANDS, LAB
from muster.config.options import OUTPUT, RUN
from muster.config.parse import from_table, parse
from muster.config.record import Option
from muster.errors import InvalidRequest, MusterError

NASTY = (
    "",
    " ",
    "-",
    "--",
    "0",
    "-1",
    "1.5",
    "²",
    "٣",
    "1e9",
    "99999999999",
    "9" * 5000,
    "99999999999d",
    "9" * 400 + "d",
    "0-99999999999",
    "n[1-99999999999]",
    "n[1",
    "n1:99999999999",
    "a,,b",
    "=",
    ":",
    "@",
    "{",
    "{rank.__class__}",
    "{rank!r:>999999999}",
    "%",
    "'",
    "\\",
    "\n",
    "é…",
    "\udcff",
    "x" * 5000,
    "../../../../..",
    "/dev/null",
    "/proc/self/mem",
)
PLANNED = (
    "",
    "0",
    "-1",
    "²",
    "99999999999",
    "n[1-99999999999]",
    "a,,b",
    "{rank!r:>999999999}",
    "'",
    "\udcff",
    "/dev/null",
)
"""The subset of these that differs after parsing; a plan is slower than parsing a value."""
NASTY_IN_FILES = ("a\0b", "\0")
"""No command line can contain these; a muster.toml can."""

LISTS: Mapping[str, tuple[Option[object], ...]] = {
    **{name: record.table for name, record in COMMANDS.items() if name != "plan"},
    **{f"lab {action}": record.table for action, record in LAB.items()},
    "check": CHECK,
}


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """End a test that hangs in a Python loop; correct code needs milliseconds."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def explained(error: MusterError) -> bool:
    """Check for one sentence that does not end in `None` and does not repeat a long value in full."""
    return bool(error.sentence) and not error.sentence.rstrip(")").endswith(": None")


@pytest.mark.parametrize("command", LISTS)
def test_each_value_is_read_or_refused(command: str) -> None:
    for option in LISTS[command]:
        if not option.metavar:
            continue
        for value in NASTY:
            try:
                parse([f"{option.names[-1]}={value}"], LISTS[command], command=command)
            except InvalidRequest as error:
                assert explained(error), (option.key, value)


def test_each_value_of_a_file_is_read_or_refused() -> None:
    for option in RUN:
        for value in (*NASTY, *NASTY_IN_FILES):
            try:
                from_table(RUN, {option.key: value}, "muster.toml [run]")
            except InvalidRequest as error:
                assert explained(error) and "\0" not in error.sentence, (option.key, value)


@pytest.mark.parametrize("more", [(), ("--hosts", "n1,n2", "-g", "1"), ("--slurm",)])
def test_each_value_is_planned_or_refused(
    more: tuple[str, ...],
    tmp_path: Path,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`muster plan` with each option and each value, here, by ssh and for Slurm."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    show_any_text()
    for option in [option for option in RUN if option.group and not (more and option.group == OUTPUT)]:
        for value in PLANNED if option.metavar else ("",):
            words = [f"{option.names[-1]}={value}" if option.metavar else option.names[-1]]
            if option.names[-1] in ("-H", "--host", "--hosts") and "--hosts" in more:
                continue
            try:
                call(["plan", *more, *words, "train.py"], env, 0.0)
            except MusterError as error:
                assert explained(error), (option.key, value)
            except Exception as error:
                raise AssertionError(f"{option.names[-1]}={value[:50]!r}: {error!r}") from error
            capsys.readouterr()


@pytest.mark.parametrize(
    "data", [b"n1\0\n", b"\xff\xfe\n", b"\xef\xbb\xbfn1\n", b"n1 slots=\xc2\xb2\n", b"n1:" + b"9" * 5000, b""]
)
def test_any_host_file_is_read_or_refused(
    data: bytes, tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "hosts").write_bytes(data)
    try:
        call(["plan", "--hostfile", "hosts", "-g", "1", "train.py"], env, 0.0)
    except MusterError as error:
        assert explained(error)
