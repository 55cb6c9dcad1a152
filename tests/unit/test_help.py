"""Help: its wording, its width, its colors, and that the examples in it can be typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from muster.cli import call
from muster.cli.commands import ALIASES, COMMANDS, LAB, Command
from muster.cli.help import wrap
from muster.config.command_options import COMMANDS as OPTIONS
from muster.config.command_options import HOLD
from muster.config.command_options import LAB as LAB_OPTIONS
from muster.config.options import RUN
from muster.config.parse import names_in, parse
from muster.config.record import Option

ROOT = Path(__file__).parents[2]

PAGES: dict[str, Command] = {**COMMANDS, **{f"lab {name}": command for name, command in LAB.items()}}
"""Each command with a help page, by the arguments of `muster`."""

GROUPS = [
    "Where to run",
    "Slurm",
    "Several schedulers",
    "Grid Engine",
    "PBS",
    "LSF",
    "Flux",
    "Launcher",
    "Ranks",
    "Failure and shutdown",
    "Sweeps and chains",
    "Output",
]

ESCAPE = "\x1b"

NOT_THE_FIELDS = re.compile(
    r"\b(so (much|many|long)|without (it|these)|the words of|of Slurm: |one a (GPU|core|rank)|for machines|and leave|"
    r"all find|hand(s|ed)? in|made? room|look(s|ed)? after|tells? of|told|ends?|ended|folders?|machines|whole number|"
    r"warmed|in all|asked|see them|all that is|must have|left behind|come again|the ways?)\b"
)
"""Words of the former help that have a usual technical term."""


def texts() -> dict[str, str]:
    """Every hand-written sentence of help, by its place."""
    found = {f"muster {name}": command.summary for name, command in PAGES.items()}
    for name, record in {**OPTIONS, **{f"lab {name}": record for name, record in LAB_OPTIONS.items()}}.items():
        for option in record.table:
            if option.group:
                found[f"muster {name} {option.long_name}"] = option.help
    return found


def shown(words: list[str], capsys: pytest.CaptureFixture[str], **env: str) -> str:
    """What muster prints for these arguments."""
    assert call(words, env, 0.0) == 0
    return capsys.readouterr().out


def on_terminal(words: list[str], env: dict[str, str], columns: int) -> str:
    """What muster prints on a terminal of that width."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns)) if hasattr(termios, "tcsetwinsize") else _resize(theirs, columns)
    with subprocess.Popen([sys.executable, "-m", "muster", *words], stdout=theirs, env=env) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # EIO: everything is read, and no process has the terminal open
                break
            data += more
        assert process.wait(120) == 0
    os.close(ours)
    return data.decode().replace("\r\n", "\n")


def _resize(fd: int, columns: int) -> None:
    import fcntl
    import struct

    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))


def test_every_text_is_a_noun_phrase_or_an_imperative() -> None:
    """It starts in lower case (or with a name), has no full stop at the end, and uses technical terms."""
    for place, text in texts().items():
        assert text, place
        assert re.match(r"[a-z`]|GPUs? |Python ", text), f"{place}: {text}"
        assert not text.endswith("."), f"{place}: {text}"
        assert not re.search(r"\. [A-Z]", text), f"{place}: {text}"
        assert not re.match(r"(the|a|an|it|this|with|of|as|and|for|to|in) ", text), f"{place}: {text}"
        assert "default" not in re.sub(r"by default", "", text), f"{place}: the default is a field of its own"
        assert "  " not in text and text == text.strip(), f"{place}: {text}"
        wrong = NOT_THE_FIELDS.search(text)
        assert wrong is None, f"{place}: {text!r} has {wrong[0]!r}"


def test_placeholders_are_the_fields() -> None:
    for record in (*OPTIONS.values(), *LAB_OPTIONS.values()):
        for option in record.table:
            assert re.fullmatch(r"|MB|[A-Z]+|NAME\[=VALUE\]|NAME=VALUES|\[SIGNAL@\]DURATION", option.metavar), (
                option.names
            )
            assert option.metavar not in ("DIR", "FILE", "TIME", "WORDS", "LINES") or option.key == "time", option.names


def test_the_groups_of_a_run() -> None:
    assert GROUPS == list(dict.fromkeys(option.group for option in RUN if option.group))


@pytest.mark.parametrize("name", PAGES)
def test_every_default_in_help_is_that_of_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All defaults, and no other ones."""
    table: tuple[Option[Any], ...] = (
        {**OPTIONS, **{f"lab {key}": record for key, record in LAB_OPTIONS.items()}}[name].table
        if name != "lab"
        else ()
    )
    text = " ".join(shown([*name.split(), "--help"], capsys).split())
    expected = [option for option in table if option.group and option.default_text]
    if name in ("check", "export"):
        expected = [option for option in expected if option not in RUN]
    if name == "hold":
        expected = [option for option in expected if option in HOLD]
    assert sorted(re.findall(r"\(default: (.*?)\)", text)) == sorted(option.default_text for option in expected)


def test_options_of_several_schedulers_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    """But not in a session, which only one of them can have."""
    text = " ".join(shown(["run", "--help"], capsys).split())
    assert "queue to submit to, e.g. `gpu.q`; with `--sge`, `--pbs`, `--lsf` and `--flux` --" in text
    assert "a number is minutes; with any scheduler --" in text
    assert "nodes to request --" in " ".join(shown(["hold", "--help"], capsys).split())


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("words", ["", *PAGES])
def test_help_wraps_to_the_width(words: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No line is longer; the width is used; nothing is lost."""
    text = shown([*words.split(), "--help"], capsys, COLUMNS=str(columns))
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    if words in ("run", "plan"):
        assert max(map(len, lines)) > columns - 4
    widest = shown([*words.split(), "--help"], capsys, COLUMNS="1000")
    assert "".join(text.split()) == "".join(widest.split())
    assert max(map(len, widest.splitlines())) <= 120
    narrowest = shown([*words.split(), "--help"], capsys, COLUMNS="7").splitlines()
    wrapped = [
        line for line in narrowest if not re.match(r"  (\S+ )?(sudo )?(muster|ssh|eval) |  -|Documentation: ", line)
    ]
    assert max(map(len, wrapped)) <= 40


def test_code_is_not_broken_if_it_fits() -> None:
    assert wrap("use `module load cuda` first", 18) == ["use", "`module load cuda`", "first"]
    assert wrap("use `module load cuda` first", 12) == ["use `module", "load cuda`", "first"]
    assert wrap("time to wait (default: 30 s)", 20) == ["time to wait", "(default: 30 s)"]
    assert wrap("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert wrap("", 10) == [""]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_examples_and_a_link(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = PAGES[name]
    assert 1 <= len(command.examples) <= 3 and (len(command.examples) >= 2 or name == "lab install")
    text = shown([*name.split(), "--help"], capsys)
    end = text[text.index("\nExamples:\n") :].splitlines()[1:]
    assert end == [
        "Examples:",
        *(f"  {line}" for line in command.examples),
        "",
        f"Documentation: muster docs {Path(command.page).stem}",
    ]
    assert call(["docs", Path(command.page).stem], {}, 0.0) == 0, "what help names can be read"
    page = (ROOT / command.page).read_text()
    assert capsys.readouterr().out == re.sub(r"^<!-- .* -->\n+", "", page, flags=re.MULTILINE)
    assert (ROOT / command.page).is_file()


@pytest.mark.parametrize("name", PAGES)
def test_every_example_can_be_typed(name: str) -> None:
    """Its options exist, and their values are accepted."""
    for line in PAGES[name].examples:
        words = shlex.split(line.partition(">")[0].partition(" | ")[0])
        if words[0] == "sudo":
            del words[0]
        if words[0] != "muster":
            continue
        assert len(f"  {line}") <= 60
        command, *rest = words[1:]
        assert command in COMMANDS and command not in ALIASES
        table = LAB_OPTIONS[rest.pop(0)].table if command == "lab" else OPTIONS[command].table
        if command in ("run", "plan", "check"):
            operands = parse(rest, table).operands
            assert operands[:1] == ([] if command == "check" else ["train.py"])
        else:
            parse(rest, table, interleaved=True)


def test_slurms_own_names_are_options() -> None:
    assert names_in("slurm", RUN)["-t"].long_name == "--time"


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "--help"], ["lab", "--help"], ["lab", "up", "-h"]])
def test_a_pipe_gets_80_columns_and_no_escape_codes(words: list[str], env: dict[str, str]) -> None:
    env.pop("COLUMNS", None)
    done = subprocess.run(
        [sys.executable, "-m", "muster", *words], env=env, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ESCAPE not in done.stdout
    assert 70 < max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["lab", "--help"]])
def test_a_terminal_gets_its_width_and_colors(words: list[str], env: dict[str, str]) -> None:
    """Without colors the text is the same as in a pipe."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        env.pop(name, None)
    env["TERM"] = "xterm"
    colored = on_terminal(words, env, 70)
    assert f"{ESCAPE}[1mUsage:{ESCAPE}[0m\n" in colored
    assert f"  {ESCAPE}[36m{'-h, --help' if words[0] != 'lab' else 'up'}{ESCAPE}[0m " in colored
    plain = re.sub(r"\x1b\[\d+m", "", colored)
    assert ESCAPE not in plain
    assert 60 < max(map(len, plain.splitlines())) <= 70
    for changed in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        assert on_terminal(words, {**env, **changed}, 70) == plain
    piped = [sys.executable, "-m", "muster", *words]
    forced = {**env, "FORCE_COLOR": "1", "COLUMNS": "70"}
    assert subprocess.run(piped, env=forced, capture_output=True, text=True, timeout=240).stdout == colored


@pytest.mark.parametrize("color", ["", "1"])
def test_help_shows_no_traceback_if_nobody_reads_it(color: str, env: dict[str, str]) -> None:
    """With and without colors: `| head`, a full disk."""
    env = {**env, "FORCE_COLOR": color}
    for line, status in (("muster run --help > /dev/full", 1), ("muster run --help | true; exit ${PIPESTATUS[0]}", 0)):
        script = line.replace("muster", '"$0" -m muster', 1)
        done = subprocess.run(["bash", "-c", script, sys.executable], env=env, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
