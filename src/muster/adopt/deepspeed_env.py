"""`.deepspeed_env`: variables that DeepSpeed passes on to other hosts, besides a few by their prefix. Pure."""

from __future__ import annotations

import re

from muster.adopt.found import Found, ReadFile
from muster.adopt.values import Scope, text
from muster.core.env_forwarding import is_secret
from muster.lint.model import Program, Script

NAME = ".deepspeed_env"
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def of_file(found: Found, script: Script, read_file: ReadFile, scope: Scope) -> tuple[dict[str, str], list[str]]:
    """Return the variables of the file for a launch on several hosts, and remarks.

    DeepSpeed reads it in the home directory and then in the current one (`deepspeed/launcher/runner.py` of 0.16).
    """
    program = found.program
    if program.name != "deepspeed" or not _several(program):
        return {}, []
    lines, where = [], ""
    for name in (f"~/{NAME}", NAME):
        content = read_file(name)
        if content is not None:
            lines += content.splitlines()
            where = name
    written = list(_written(script, scope))
    variables, says = {}, []
    for line in (*lines, *written):
        match = _LINE.match(line.strip())
        if match is None:
            continue
        name, value = match[1], match[2].strip("\"'")
        if "$" in value or "`" in value:
            says.append(f"{NAME}: {name}={value}: its value is known only where the script runs; add --env with it")
        elif name in ("PATH", "LD_LIBRARY_PATH"):
            says.append(f"{NAME}: {name}: not taken over; add --env {name} if ranks on other hosts need it")
        else:
            variables[name] = value
    if variables:
        names = ", ".join(name for name in variables if not is_secret(name, variables[name])) or "its variables"
        says.append(f"{where or NAME}: {names} of this file are in the line")
    return variables, says


def _several(program: Program) -> bool:
    return program.has("--hostfile", "--include", "--num-nodes") and not program.has("--no-ssh")


def _written(script: Script, scope: Scope) -> list[str]:
    """Return the lines that the script itself writes to the file."""
    lines: list[str] = []
    for heredoc in script.heredocs:
        if (heredoc.target or "").endswith(NAME):
            lines += heredoc.body.shown.splitlines()
    for command in script.everything():
        to_file = any(
            redirect.operator in (">", ">>") and redirect.target is not None and redirect.target.shown.endswith(NAME)
            for redirect in command.redirects
        )
        if to_file and command.name == "echo":
            lines += [" ".join(text(word, scope) for word in command.argv[1:])]
    return lines
