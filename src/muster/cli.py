"""The command line: words in, exit status out. Each command is a function of its module, imported when it is called."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn

from muster.commands import COMMANDS
from muster.errors import Impossible, MusterError

USAGE = """muster: one unchanged training script, on any machines, by any launcher

    muster run [OPTIONS] SCRIPT [ARGS…]        for example: muster run -g 4 train.py --lr 0.1
    muster run [OPTIONS] -m MODULE [ARGS…]
    muster run [OPTIONS] -- COMMAND [ARGS…]

commands:
{commands}

`muster COMMAND --help` tells more. A RUN is an id, a name, a unique beginning of an id, or `last`; HOST:RUN is
one that was started from another machine, and is looked after on HOST."""


def usage() -> str:
    """What `muster --help` shows."""
    lines = [f"    {name:<11}{says}" for name, (_, _, says) in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def call(words: Sequence[str], env: Mapping[str, str], began: float) -> int:
    """Do what a command line says; give the exit status. Raises `MusterError`."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version", "version"):
        from muster.commands.version import version

        return version(list(words[1:]), env, began)
    if words[0] not in COMMANDS:
        raise Impossible(f"there is no command `{words[0]}`", _meant(words))
    module, function, _ = COMMANDS[words[0]]
    status: int = getattr(import_module(module), function)(list(words[1:]), env, began)
    return status


def _meant(words: Sequence[str]) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(words[0], COMMANDS, n=1)
    if near:
        return f"did you mean `muster {near[0]}`?"
    if words[0].endswith(".py") or words[0].startswith("-"):
        return f"did you mean `muster run {' '.join(words)}`?"
    return "`muster --help` lists them"


def main(words: list[str] | None = None) -> NoReturn:
    """The program `muster`."""
    began = time.monotonic()
    try:
        status = call(sys.argv[1:] if words is None else words, dict(os.environ), began)
        sys.stdout.flush()
    except MusterError as error:
        print(f"muster: {error}", file=sys.stderr)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    sys.exit(status)
