"""The program of the ranks: finding and reading the script, or rejecting it with a reason. Starts no process."""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.util import find_spec

from muster.config.files import current_folder
from muster.config.options import RunOptions
from muster.config.parse import ParsedArgs
from muster.core.model import BUNDLED, Program
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest, NoWorkingDirectory
from muster.linux import processes
from muster.linux.shell import join, quote


def find_program(name: str, env: Mapping[str, str]) -> str | None:
    """Return the path of a program on this PATH; None if there is none."""
    from shutil import which

    return which(name, path=env.get("PATH"))


def script_of_ours(name: str) -> str:
    """Return the source of one of muster's own scripts for ranks; see `payloads/`."""
    from importlib.resources import files

    return files("muster.payloads").joinpath(name).read_text(encoding="utf-8")


_LONGEST_SCRIPT = 4 << 20
"""Maximum bytes of a script that is read for all ranks."""


def is_stream(path: str, cwd: str) -> bool:
    """Return whether a path can be read only once, or only by this process: /dev/stdin, a shell's `<(…)`."""
    full = os.path.join(cwd, path)
    if re.match(r"/dev/(stdin$|fd/)|/proc/(self|thread-self|\d+)/fd/", os.path.normpath(full)):
        return True
    try:
        mode = os.stat(full).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def name_of_stream(path: str) -> str:
    """Return the name that a script read from there gets on all machines."""
    return re.sub(r"[^\w.-]", "-", "stdin" if path in ("-", "/dev/stdin") else f"script-{os.path.basename(path)}")


def _open_stream(path: str, cwd: str, warn: Callable[[str], object]) -> int:
    """Open a stream, and return its descriptor. A FIFO without a writer blocks: if that takes long, `warn` says so."""
    full = os.path.join(cwd, path)
    if not stat.S_ISFIFO(os.stat(full).st_mode):
        return os.open(full, os.O_RDONLY)
    fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(2000):
        warn(f"waiting for the script: nothing was written to FIFO {path} so far")
        poll.poll()
    os.set_blocking(fd, True)
    return fd


def read_stream(path: str, cwd: str, warn: Callable[[str], object]) -> str:
    """Read a script from a stream, `-` for stdin. Raises `InvalidRequest`."""
    hint = "write it to a file, and run that"
    try:
        with open(0 if path == "-" else _open_stream(path, cwd, warn), "rb", closefd=path != "-") as file:
            if file.isatty():
                raise InvalidRequest(f"cannot read script {path}: it is a terminal", hint)
            data = file.read(_LONGEST_SCRIPT + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read script {path}: {processes.reason(error)}", hint) from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"cannot read script {path}: not UTF-8", hint) from None
    if len(data) > _LONGEST_SCRIPT or not text.strip():
        raise InvalidRequest(f"script {path} is {'empty' if len(data) <= _LONGEST_SCRIPT else 'too long'}", hint)
    return text


def check_script(words: Sequence[str], cwd: str, env: Mapping[str, str], verb: str) -> None:
    """Raise `InvalidRequest` if Python cannot run the file that is the first of these words."""
    path = words[0]
    full = os.path.join(cwd, path)
    if os.path.isdir(full):
        if os.path.exists(os.path.join(full, "__main__.py")):
            return
        raise InvalidRequest(f"not a script: {path} is a directory", "name the script in it")
    if not os.path.exists(full):
        where = "" if cwd == _here() else f" in {cwd}"
        hidden = _closed_folder(full)
        if hidden:
            raise InvalidRequest(f"cannot access script {path}{where}: {hidden}", "check it with `ls -ld`")
        if os.path.islink(full):
            to = f"it is a symbolic link to {os.readlink(full)}, which {_why_no_target(full)}"
            raise InvalidRequest(f"script not found: {path}{where}: {to}", f"check it with `ls -l {quote(path)}`")
        raise InvalidRequest(f"script not found: {path}{where}", _program_hint(words, env, verb) or _near(full))
    if not os.access(full, os.R_OK):
        raise InvalidRequest(f"cannot read script {path}", f"check its permissions with `ls -l {quote(path)}`")


def _here() -> str:
    try:
        return current_folder()
    except NoWorkingDirectory:
        return ""


def _program_hint(words: Sequence[str], env: Mapping[str, str], verb: str) -> str | None:
    """Return a hint for a program given in place of a script: `muster run python train.py`."""
    if re.fullmatch(r"(.*/)?python[0-9.]*", words[0]) and len(words) > 1:
        return f"leave out `{words[0]}`: muster {verb} {join(words[1:])}"
    if "/" not in words[0] and find_program(words[0], env) is not None:
        return f"write a program after `--`: muster {verb} -- {join(words)}"
    return None


def _closed_folder(full: str) -> str:
    """Return why this user cannot even see whether the file exists; empty if possible."""
    try:
        os.stat(full)
    except PermissionError:
        folder = os.path.dirname(full)
        while not os.access(os.path.dirname(folder), os.X_OK):
            folder = os.path.dirname(folder)
        return f"no permission to enter directory {folder}"
    except OSError:
        pass
    return ""


def _why_no_target(link: str) -> str:
    """Return what is wrong with the target of a broken symbolic link."""
    try:
        os.stat(link)
    except OSError as error:
        return "leads back to itself" if error.errno == errno.ELOOP else "does not exist"
    return "does not exist"


def _near(full: str) -> str | None:
    folder = os.path.dirname(full)
    if not os.path.isdir(folder):
        return f"directory not found: {folder}"
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".py")]
    except OSError as error:
        return f"cannot read {folder}: {processes.reason(error)}"
    near = nearest(os.path.basename(full), names)
    return f"did you mean `{near}`?" if near else f"list the directory with `ls {folder}`"


def check_command(name: str, cwd: str, env: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` if there is no such program."""
    if "/" in name:
        full = os.path.join(cwd, name)
        if not os.path.exists(full):
            raise InvalidRequest(
                f"program not found: {name}", "paths are relative to the working directory of the ranks; see --cwd"
            )
        if not os.access(full, os.X_OK) or os.path.isdir(full):
            raise InvalidRequest(
                f"not executable: {name}", "make it executable with `chmod +x`; to run a Python script, leave out `--`"
            )
    elif find_program(name, env) is None:
        raise InvalidRequest(
            f"program not found on PATH: {name}",
            "`--` is followed by a program; to run a Python script, leave out `--`",
        )


def choose_program(
    parsed: ParsedArgs,
    options: RunOptions,
    verb: str,
    cwd: str,
    brought: str,
    warn: Callable[[str], object],
) -> Program:
    """Return what to run.

    A script that can be read only once is read now, for all ranks; `brought` is the source of one of muster's own
    scripts. `warn` is called with what the user has to know meanwhile.
    """
    words = tuple(parsed.operands)
    if not words:
        what = "a program after `--`" if parsed.after_dashes else "a module" if options.module else "a script"
        example = "-m package.train" if options.module else "train.py --lr 0.1"
        raise InvalidRequest(f"`muster {verb}` requires {what}", f"for example, `muster {verb} -g 4 {example}`")
    if parsed.after_dashes or options.no_python:
        if options.module:
            other = "a program after `--`" if parsed.after_dashes else "`--no-python`"
            raise InvalidRequest(f"`-m` cannot be combined with {other}", "leave out one of them")
        return Program("command", words)
    if options.module:
        if words[0].endswith(".py") or "/" in words[0]:
            name = words[0].removesuffix(".py").strip("./").replace("/", ".")
            raise InvalidRequest(
                f"-m takes the name of a module, got a file: {words[0]}",
                f"leave out `-m`, or name the module: `-m {name}`",
            )
        return Program("module", words)
    if words[0] == "-" or is_stream(words[0], cwd):
        return Program(
            "script",
            (f"{BUNDLED}{name_of_stream(words[0])}", *words[1:]),
            read_stream(words[0], cwd, warn),
        )
    if options.launcher == "spawn" and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", words[0]):
        module, _, function = words[0].partition(":")
        if module.endswith(".py"):
            name = f"{module[:-3]}:{function}"
            raise InvalidRequest(f"not a module: {module}, in {words[0]}", f"name the module, without `.py`: `{name}`")
        return Program("function", words)
    return Program("script", words, brought)


def check_function(word: str, cwd: str) -> None:
    """Raise `InvalidRequest` if this Python cannot find the module of `MODULE:FUNCTION`, nor is it in `cwd`."""
    top = word.partition(":")[0].partition(".")[0]
    try:
        found = PathFinder.find_spec(top, [cwd]) or find_spec(top)
    except (ImportError, ValueError):  # ValueError: `__main__`, which has none
        found = None
    if found is None:
        near = nearest(f"{top}.py", [name for name in os.listdir(cwd) if name.endswith(".py")])
        meant = f"did you mean `{near[:-3]}:{word.partition(':')[2]}`?" if near else None
        hint = meant or f"list the directory with `ls {quote(cwd)}`"
        raise InvalidRequest(f"module not found: {top}, of {word}", hint)


def split_words(text: str, option: str) -> tuple[str, ...]:
    """Split an option's value into words as a shell would. Raises `InvalidRequest`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidRequest(
            f"invalid value for {option}: `{text}`: {processes.reason(error)}", "quote it as in a shell"
        ) from None
