"""The command line: arguments in, exit code out. Each command is a function of its module, imported on use."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

from muster.cli.commands import ALIASES, COMMANDS
from muster.core.printable import guard
from muster.errors import InvalidRequest, MusterError
from muster.linux.descriptors import open_standard_descriptors, outlive_readers, output_is_lost


def call(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Run a command line and return the exit code. Raises `MusterError`."""
    if words[:1] == ["help"] and len(words) > 1:
        of_command = words[1].startswith("-") or ALIASES.get(words[1], words[1]) in COMMANDS
        # `muster help run`, `muster help hangs`
        words = [*words[1:], "--help"] if of_command or not _is_page(words[1]) else ["docs", *words[1:]]
    if not words or words[0] in ("-h", "--help", "help"):
        _refuse_operands(words)
        from muster.cli.help import print_overview

        print_overview(env)
        return 0
    if words[0] in ("-V", "--version", "version"):
        from muster.cli.version import version

        _refuse_operands(words)
        return version(list(words[1:]), env, began)
    words = [ALIASES.get(words[0], words[0]), *words[1:]]
    if words[0] not in COMMANDS:
        raise InvalidRequest(f"unknown command: `{words[0]}`", _meant(words))
    status: int = getattr(import_module(COMMANDS[words[0]].module), words[0])(list(words[1:]), env, began)
    return status


def _is_page(name: str) -> bool:
    from muster.cli.docs import pages

    return name in pages()


def _refuse_operands(words: Sequence[str]) -> None:
    if len(words) > 1:
        raise InvalidRequest(f"`muster {words[0]}` takes no arguments, got: {' '.join(words[1:])}", "leave them out")


def _meant(words: Sequence[str]) -> str | None:
    from muster.core.suggestions import nearest

    near = nearest(words[0], COMMANDS)
    if near:
        return f"did you mean `muster {near}`?"
    if words[0].endswith(".py") or words[0].startswith("-"):
        return f"did you mean `muster run {' '.join(words)}`?"
    return "`muster --help` lists the commands"


def show_any_text() -> None:
    """Let stdout and stderr accept any text: ASCII or Latin-1 streams get `\\u2026` for what they lack."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _told_full(error: OSError) -> int:
    """Tell of a full disk, which any command may meet that writes, and return the exit code. Raises other errors."""
    from muster.errors import ControlError
    from muster.linux import processes

    if error.errno not in processes.NO_ROOM:
        raise error
    print(f"error: {processes.reason_at(error)}\nhint: see `df`, `quota` and `ulimit -f`", file=sys.stderr)
    return ControlError.exit_code


def main(words: list[str] | None = None) -> NoReturn:
    """Run the program `muster`."""
    began = time.monotonic()
    open_standard_descriptors()
    show_any_text()
    guard()
    outlive_readers()
    try:
        status = call(sys.argv[1:] if words is None else words, dict(os.environ), began)
    except MusterError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    except OSError as error:
        status = _told_full(error)
    sys.stdout.flush()
    sys.exit(status or int(output_is_lost()))
