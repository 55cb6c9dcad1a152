"""What is said about the other lines of a script: without effect, done in another way, not understood. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.adopt.adoption import Remark
from muster.adopt.environment import SETUP, STARTS_RANKS
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
        *("break", "continue", "mktemp", "getconf", "jq", "hash", "stty", "tput"),
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
    if detached(script, found) and script.is_batch:
        ends.append("the end of the script, which does not wait for it")
    return tuple(ends)


def detached(script: Script, found: Found) -> bool:
    """Return whether a launch goes on in the background when the script has ended."""
    return found.command.background and not any(command.name == "wait" for command in script.everything())


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
            typed = not any(item.option is option for item in script.directives)
            line = 0 if typed else script.source.place(option.span.start)[0]
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


_SILENT = frozenset(
    (
        *("echo", "printf", "[", "[[", "test", "read", ":", "scontrol", "head", "grep", "trap", "wait", "expr", "tail"),
        *("export", "readonly", "declare", "local", "typeset", "true", "false", "time"),
        *("sleep", "date", "pwd", "exit", "return", "seq", "break", "continue"),
    )
)
"""Those of them that are not listed."""
_NAMING = (*NO_EFFECT, *SETUP, "eval", "pip", "alias", "rm", "cp", "rsync", "scp")
"""Commands that may name a launcher without starting it; those with ranks in their text are in `used`."""
_BEFORE = "not a part of the launch; run it before, or as a line of `--setup`"
_AFTER = "not a part of the launch; it comes after it"


def rest_of(script: Script, used: set[int], something: bool) -> tuple[list[Remark], list[Remark]]:
    """Return (lines without effect on the ranks, lines that were not understood)."""
    unused, unknown = [], []
    source = script.source
    for span in script.errors:
        line = source.place(span.start)[0]
        unknown.append(Remark(line, source.line(line).strip()[:80], "not valid shell"))
    values = [item.span for item in script.assignments if not item.temporary]
    last = max(used, default=len(source.text))
    launched = {source.place(at)[0] for at in used}
    piped = False
    for command in script.commands:
        line = source.place(command.span.start)[0]
        shown = source.line(line).strip()[:80]
        names = [program.name for program in command.programs]
        if not names or any(command.span.start <= at < command.span.end for at in used):
            piped = bool(command.piped_to)
            continue  # what starts a launch
        if something and (
            line in launched and (command.piped_from or command.piped_to or names[0] in ("sleep", "clear", "echo"))
        ):
            continue  # its pipe was told
        if piped and command.piped_from:
            piped = bool(command.piped_to)
            continue  # the pipe of a launch over several lines was told
        piped = False
        if names[0] in script.functions:
            continue  # what is in it was read
        if something and names[-1] == "bash" and len(names) > 1:
            continue  # the way to a launch in its text
        text = source.text[command.span.start : command.span.end]
        stops = re.search(r"\b(p?kill|killall)\b", text)
        if (
            STARTS_RANKS.search(text)
            and not stops
            and names[0] not in _NAMING
            and "ray" not in names
            and names[-1] not in NO_EFFECT
        ):
            unknown.append(Remark(line, shown, "it seems to start ranks, and is not in the line"))
            continue
        if something and any(start <= command.span.start < end for start, end in values):
            continue  # it computes a value
        if names[0] in ("cd", "pushd", "popd"):
            continue
        if names[0] in SETUP or names[0] == "eval":
            if command.span.start > last:
                unused.append(Remark(line, shown, "it comes after the launch"))
            elif something and command.function and not any(call.name == command.function for call in script.commands):
                unknown.append(Remark(line, shown, "it is in a function that is not called; `--setup` can have it"))
            elif something and command.blocks:
                unused.append(Remark(line, shown, "only on a condition in the script; the line of `--setup` has none"))
            continue
        if names[0] == "srun" and names[-1] in NO_EFFECT:
            continue
        remark = _without_effect(command, names, script, used)
        if remark is not None:
            if remark:
                unused.append(Remark(line, shown, remark))
            continue
        if names[0] == "python" and something and is_helper(Found(command, script, command.programs[0], ())):
            continue
        called = command.argv[1:2] if names[0] == "bash" else command.argv[:1]
        path = called[0].text if called else None
        if path and path.endswith((".sh", ".bash")):
            unknown.append(Remark(line, shown, f"another script: `muster adopt {path}` reads it"))
            continue
        unknown.append(Remark(line, shown, (_AFTER if command.span.start > last else _BEFORE) if something else _ALONE))
    lines = {remark.line for remark in unknown}
    return [remark for remark in _once(unused) if remark.line not in lines], _once(unknown)


_ALONE = "nothing in it that was understood starts ranks"


def _without_effect(command: Command, names: list[str], script: Script, used: set[int]) -> str | None:
    """Return why a command changes nothing for the ranks; empty if that needs no word, None if it may change them."""
    name = names[0]
    if "ray" in names:
        return "muster starts the ranks without a Ray cluster"
    if name in ("tmux", "screen") and names[-1] == name:
        return "muster needs no tmux" if name == "tmux" else "muster needs no screen"
    if name not in NO_EFFECT:
        return None
    if name == "xargs" and names[-1] not in NO_EFFECT:
        return None
    if command.subshell or command.function:
        return ""
    if name in ("env", "printenv", "set") and len(command.argv) == 1:
        return "it would write secrets into the log; `muster plan --show-env` hides them"
    written = next((item.target.shown for item in command.redirects if ">" in item.operator and item.target), "")
    if used and command.span.start > max(used):
        return "" if name in _SILENT and not written else "it comes after the launch"
    if name in ("cat", "tee", "echo", "printf") and written and not written.startswith(("/dev/", "&")) and used:
        return (
            ""
            if _read_here(script, written) or written.endswith(".deepspeed_env")
            else f"it writes {written}: run it before, if the ranks read that"
        )
    if name == "mkdir":
        return "run it before, if the ranks need the directory"
    return "" if name in _SILENT or command.piped_from or command.piped_to else "no effect on the ranks"


def _read_here(script: Script, path: str) -> bool:
    """Return whether a file is one that `adopt` has read: a host file or a script."""
    for command in script.everything():
        for program in command.programs:
            hostfile = program.value("--hostfile", "--machinefile")
            shown = [word.shown for word in (*program.operands, *([hostfile] if hostfile else []))]
            if path in [re.sub(r"\$\{(\w+)\}", r"$\1", text) for text in shown] and program.name != "cat":
                return True
    return False


def _once(remarks: list[Remark]) -> list[Remark]:
    return list({remark.line: remark for remark in reversed(remarks)}.values())[::-1]


def is_helper(found: Found) -> bool:
    """Return whether a Python only computes something: `python -c`, a pipe, `python --version`."""
    program = found.program
    module = program.value("-m")
    tool = module is not None and module.text in _TOOLS
    return tool or bool(not program.operands and module is None) or program.has("-c", "-V", "--version")


_TOOLS = ("pip", "venv", "virtualenv", "ensurepip", "compileall", "http.server", "json.tool", "site", "platform")
