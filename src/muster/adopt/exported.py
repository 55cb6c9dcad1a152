"""The way back from `muster export`: the command line in the first lines of a file that it wrote. Pure."""

from __future__ import annotations

import re

from muster.adopt.adoption import Adoption, Launch, Remark
from muster.export import EXPORTS
from muster.export._shell import quote

_START = re.compile(r"^# Written by `muster export ", re.MULTILINE)
_END = re.compile(r"` \(muster [^()`]*\); it runs without muster\.$")
_IN_PODS = ("kubernetes", "jobset", "ray")
_DIRECTORY = re.compile(r"^ *cd -- (\S.*)$|^#SBATCH --chdir=(\S.*)$|^DIRECTORY = (['\"].*)$", re.MULTILINE)


def adopt_exported(path: str, source: str) -> Adoption | None:
    """Return the run of which `muster export` made this file; None for another file."""
    command, line = _command(source)
    if not command:
        return None
    kind, _, rest = command.partition(" ")
    title = source[: _START.search(source).start()].rstrip().rpartition("\n")[2]  # type: ignore[union-attr]
    if kind in _IN_PODS:
        says = f"`muster export {kind}` wrote this file; `muster run` starts no pods and no tasks of Ray"
        return Adoption(path, (), unknown=(Remark(line, title, f"{says}: name hosts, or add --slurm"),))
    words = ["muster run"]
    if "hosts" not in EXPORTS[kind].nodes and not re.search(r"(^| )--slurm( |$)", rest):
        words.append("--slurm")
    where = _DIRECTORY.search(source)
    if where is not None and not re.search(r"(^| )--cwd[ =]", rest):
        words.append(f"--cwd {_as_word(where)}")
    launch = Launch(f"`muster export {kind}`, which wrote this file", line, typed=" ".join([*words, rest]))
    says = "the line is the one from which the file was written: what was changed in the file since is not in it"
    return Adoption(path, (launch,), changed=(Remark(line, "", says),))


def _as_word(found: re.Match[str]) -> str:
    if found[1]:
        return found[1].strip()
    return quote((found[2] or found[3]).strip().strip("'\""))


def _command(source: str) -> tuple[str, int]:
    """Return (what follows `muster export`, its line); the comment is wrapped at spaces."""
    start = _START.search(source)
    if start is None:
        return "", 0
    lines = source[start.start() :].splitlines()
    text = lines[0][2:]
    for line in lines[1:]:
        if _END.search(text) or not line.startswith("# "):
            break
        text += f" {line[2:]}"
    found = _END.search(text)
    command = text[len("Written by `muster export ") : found.start()] if found else ""
    known = command.partition(" ")[0] in EXPORTS
    return (command if known else ""), source.count("\n", 0, start.start()) + 1
