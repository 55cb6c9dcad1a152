"""What a script sets before it launches ranks: variables, lines for a shell, the directory. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from itertools import takewhile

from muster.adopt.adoption import Remark
from muster.adopt.found import Found, is_before, position, shells
from muster.adopt.launcher import MEETING
from muster.adopt.values import SECRET, Scope, argument, exported, passed_on, resolved, text
from muster.core.env_forwarding import is_secret
from muster.lint.model import Assignment, Command, Script, Word

STARTS_RANKS = re.compile(r"\b(torchrun|torch\.distributed|accelerate launch|deepspeed|srun|mpirun|mpiexec)\b")
SETUP = frozenset({"source", ".", "module", "ml", "conda", "mamba", "micromamba", "spack", "ulimit", "unset", "umask"})
"""Commands that change the shell in which ranks are started."""


def environment(
    script: Script, found: Found, assigned: Sequence[Assignment], scope: Scope
) -> tuple[tuple[tuple[str, str], ...], list[str], list[Remark]]:
    """Return the variables with known values, the lines that a shell must run, and remarks."""
    source = script.source
    env: dict[str, str] = {}
    lines: list[tuple[int, str]] = []
    remarks: list[Remark] = []
    at = position(script, found)
    here = exported([item for item in assigned if is_before(item, found, script, at)])
    temporary = list(found.command.assignments)
    for item in (*here, *temporary):
        number_of = source.place(item.span.start)[0]
        if item.name in MEETING:
            if item.name == "TORCHELASTIC_ERROR_FILE":
                remarks.append(Remark(number_of, item.name, "muster names a file for each rank by itself"))
            continue
        assert item.value is not None or item in temporary
        if item.value is None:
            continue
        value = resolved(item.value, scope)
        if value.text is not None and not is_secret(item.name, value.text):
            env[item.name] = value.text
        elif value.text is not None:
            remarks.append(Remark(number_of, item.name, "a secret: set it where you start muster; --env passes it on"))
            env[item.name] = SECRET
        elif not STARTS_RANKS.search(value.shown):  # otherwise it is a part of the launch, and not for the ranks
            lines.append((item.span.start, f"export {item.name}={argument(value, scope).shell}"))
    for word in _given_env(found):
        name, value_of = passed_on(word, scope)
        if name in MEETING:
            continue
        if value_of is None:
            says = "its value is known only to the shell that starts it: add --env with it"
            remarks.append(Remark(source.place(found.command.span.start)[0], word.shown, says))
        else:
            env[name] = value_of
    inside = directory(found.script, found, scope)
    commands = {command.span: command for inner in shells(script, found) for command in inner.commands}
    lines += [
        (command.span.start, _line(command, scope, inside if command.shell.kind == "remote" else ""))
        for command in commands.values()
        if is_before(command, found, script, at) and command.name in (*SETUP, "eval") and not command.subshell
    ]
    return tuple(env.items()), list(dict.fromkeys(line for _, line in sorted(lines))), remarks


def _line(command: Command, scope: Scope, inside: str) -> str:
    """Return a command as a line for a shell, with what is known in place of variables of the script.

    A shell on a host starts in the home directory; `inside` is the directory that the script has entered there.
    """
    words = [argument(word, scope).shell for word in command.argv]
    if inside and command.name in ("source", ".") and len(words) > 1 and words[1][0] not in "/~$\"'":
        words[1] = f"{inside}/{words[1]}"
    return " ".join(words)


_ASSIGNS = re.compile(r"[A-Za-z_]\w*=")


def _given_env(found: Found) -> list[Word]:
    """Return the variables that `tmux -e`, `env` and `sudo` are given."""
    for program in found.outer:
        if program.name in ("env", "sudo"):
            return list(takewhile(lambda word: _ASSIGNS.match(word.start), program.operands))
        if program.name == "tmux":
            words = program.operands
            return [after for word, after in zip(words, words[1:]) if word.text == "-e"]
    return []


def directory(script: Script, found: Found, scope: Scope) -> str:
    """Return the directory of `cd` before the launch, in the same shell; empty for the one where it starts."""
    at = position(script, found)
    for inner in shells(script, found)[::-1]:
        path = ""
        for command in inner.commands:
            before = is_before(command, found, script, at)
            apart = command.subshell and not found.command.subshell
            if command.name in ("cd", "pushd") and before and not apart:
                path = entered(path, _target(command, script, scope))
        if path:
            return "" if path == "." else path
    return ""


def _target(command: Command, script: Script, scope: Scope) -> str:
    """Return the directory that a `cd` enters, from the one where it is."""
    words = [word for word in command.programs[0].operands if word.text not in ("--", "-P", "-L", "-e", "-n")]
    if not words:
        return "~"
    where = text(words[0], scope)
    if where == "-":
        return "$OLDPWD"
    head = _head(where)
    if re.search(r"BASH_SOURCE|\$\{?0\b|dirname", head) and head:  # where the script is
        return posixpath.join(script.source.path.rpartition("/")[0] or ".", where[len(head) :].lstrip("/"))
    if re.fullmatch(r"\$\{?(SLURM_SUBMIT_DIR|PWD)\}?|\$\(pwd\)|`pwd`", where):
        return "."
    return where


def _head(where: str) -> str:
    """Return the `$(…)`, `${…}` or backquotes with which a path begins."""
    if where.startswith("`"):
        return where[: where.find("`", 1) + 1]
    if where[:2] not in ("$(", "${"):
        return ""
    depth = 0
    for at, letter in enumerate(where):
        depth += (letter in "({") - (letter in ")}")
        if at and not depth:
            return where[: at + 1]
    return ""


def entered(start: str, path: str) -> str:
    """Return where `cd path` leads from a directory; nothing is collapsed that a shell has to expand."""
    apart = path.startswith(("/", "~", "$", "`")) or not start
    whole = path if apart else posixpath.join(start, path)
    return whole if set(whole) & set("$`~") else posixpath.normpath(whole)
