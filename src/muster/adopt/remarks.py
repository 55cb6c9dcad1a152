"""What is said about the other lines of a script: without effect, done in another way, not understood. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.adopt.adoption import Remark
from muster.adopt.environment import SETUP
from muster.adopt.found import Found
from muster.adopt.slurm import Request
from muster.lint.model import Command, Program, Script

NO_EFFECT = frozenset(
    (
        *("echo", "printf", "date", "hostname", "env", "printenv", "set", "shopt", "sleep", "wait", "nvidia-smi", "ls"),
        *("pwd", "which", "command", "type", "trap", "true", "false", ":", "[", "[[", "test", "exit", "return", "tee"),
        *("scontrol", "squeue", "sinfo", "sacct", "sstat", "head", "tail", "grep", "cat", "wc", "cut", "sed", "awk"),
        *(
            "tr",
            "sort",
            "expr",
            "python3 --version",
            "read",
            "mapfile",
            "readarray",
            "shuf",
            "seq",
            "lscpu",
            "free",
            "df",
        ),
        *("readonly", "export", "declare", "local", "typeset", "mkdir", "whoami", "id", "uname", "time", "nproc", "ss"),
        *("basename", "dirname", "realpath", "readlink", "paste", "xargs", "kill", "getent", "ip", "host", "clear"),
        "shift",
        "find",
    )
)
"""Commands that change nothing for the ranks, where they stand alone."""


def ends_of(script: Script, found: Found, step: Program | None) -> tuple[str, ...]:
    """Return what ends the run."""
    ends = []
    if step is not None and step.name == "srun":
        kill = step.has("--kill-on-bad-exit")
        ends.append(
            "a task that fails ends the step" if kill else "Slurm ends the step by its own rules (--kill-on-bad-exit)"
        )
    if script.directive("--time"):
        ends.append("the time limit of the job")
    if any(command.name == "trap" for command in script.commands):
        ends.append("a trap in the script")
    if found.command.background and not any(command.name == "wait" for command in script.commands):
        ends.append("the end of the script, which does not wait for it")
    return tuple(ends)


def expanded_here(found: Found, script: Script, line: int) -> list[Remark]:
    """Return remarks on variables of tasks that the batch script expands."""
    if not found.command.shell.is_batch:
        return []
    names = sorted(
        {
            name
            for word in (*found.command.words, *found.command.argv)
            for name in word.names
            if name in ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID")
        }
    )
    return [
        Remark(
            line, f"${name}", f"the batch script expands ${name}, where it is always 0; muster numbers the nodes itself"
        )
        for name in names
    ]


def of_directives(script: Script, request: Request | None, given: Sequence[str]) -> list[Remark]:
    """Return remarks on lines for sbatch."""
    remarks = []
    for item in script.directives:
        line = script.source.place(item.span.start)[0]
        if not item.effective:
            remarks.append(Remark(line, script.source.line(line), "sbatch ignores it: a command stands before it"))
    for comment in script.comments:
        if re.match(r"#\s+SBATCH\s+-", comment.text):
            line = script.source.place(comment.span.start)[0]
            remarks.append(Remark(line, comment.text, "sbatch ignores it: there is a space after #"))
    if request:
        for option, why in request.left:
            line = script.source.place(option.span.start)[0]
            remarks.append(Remark(line, option.name, why))
        requeues = any(command.name == "scontrol" and "requeue" in _texts(command) for command in script.everything())
        if requeues:
            remarks.append(
                Remark(
                    0,
                    "scontrol requeue",
                    "`--requeue N` requeues the job at its time limit; the ranks get the signal first",
                )
            )
    return remarks


def _texts(command: Command) -> list[str]:
    return [word.text or "" for word in command.argv]


def rest_of(script: Script, used: set[int], something: bool) -> tuple[list[Remark], list[Remark]]:
    """Return (lines without effect on the ranks, lines that were not understood)."""
    unused, unknown = [], []
    source = script.source
    for span in script.errors:
        line = source.place(span.start)[0]
        unknown.append(Remark(line, source.line(line).strip()[:80], "not valid shell"))
    for command in script.commands:
        line = source.place(command.span.start)[0]
        shown = source.line(line).strip()[:80]
        names = [program.name for program in command.programs]
        if command.span.start in used or not names or (command.function and names[0] in (*NO_EFFECT, *SETUP)):
            continue
        if command.subshell and names[0] in NO_EFFECT:
            continue
        if names[0] in script.functions:
            continue  # what is in it was read
        if names[0] in SETUP or (
            names[0] in ("cd", "eval", "export", "readonly", "declare", "xargs", "ssh", "tmux", "screen") and something
        ):
            continue
        if names[0] == "srun" and names[-1] in NO_EFFECT:
            continue
        if something and len(names) > 1 and names[-1] == "bash":
            continue  # the way to a launch in its text
        if names[0] in NO_EFFECT:
            if names[0] in ("env", "printenv", "set") and len(command.argv) == 1:
                unused.append(
                    Remark(line, shown, "it would write secrets into the log; `muster plan --show-env` hides them")
                )
            elif names[0] != "echo" and names[0] not in (
                "[",
                "[[",
                "test",
                "read",
                ":",
                "scontrol",
                "head",
                "grep",
                "trap",
                "wait",
                "expr",
                "tail",
            ):
                unused.append(Remark(line, shown, "no effect on the ranks"))
            continue
        if names[0] == "python" and something and is_helper(Found(command, script, command.programs[0], ())):
            continue
        if "ray" in names:
            unused.append(Remark(line, shown, "muster starts the ranks without a Ray cluster"))
            continue
        unknown.append(Remark(line, shown, "not a part of the launch; run it before, or as a line of `--setup`"))
    lines = {remark.line for remark in unknown}
    return [remark for remark in _once(unused) if remark.line not in lines], _once(unknown)


def _once(remarks: list[Remark]) -> list[Remark]:
    return list({remark.line: remark for remark in reversed(remarks)}.values())[::-1]


def is_helper(found: Found) -> bool:
    """Return whether a Python only computes something: `python -c`, a pipe, `python --version`."""
    program = found.program
    return bool(not program.operands and not program.has("-m")) or program.has("-c", "-V", "--version")
