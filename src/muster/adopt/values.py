"""Values of words in a launch script: with the job's own numbers in place of Slurm's variables. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from muster.adopt.adoption import Argument
from muster.export._shell import quote
from muster.lint.model import Assignment, Expansion, Literal, Script, Span, Word
from muster.lint.values import Values, computed, expand_whole

_JOB = re.compile(r"SLURM|OMPI_|PMI|RANK$|WORLD_SIZE$|HOSTNAME$")
"""Variables that exist only in a job, or in its tasks."""


class Scope(NamedTuple):
    """What is known where a launch is made."""

    values: Values
    hosts: tuple[str, ...] = ()
    """The hosts of a file that the script reads, if it is there."""


def word_of(text: str) -> Word:
    """Return a word with a known value."""
    return Word((Literal(text, 0, True),), Span(0, 0))


def scope_of(
    numbers: Mapping[str, str], assigned: Sequence[Assignment], args: Sequence[Word] = (), hosts: tuple[str, ...] = ()
) -> Scope:
    """Return what is known after these assignments, in a script with arguments `args`."""
    values: Values = {name: word_of(value) for name, value in numbers.items()}
    values.update({str(number): word for number, word in enumerate(args, 1)})
    scope = Scope(values, hosts)
    choices: dict[str, set[str]] = {}
    for item in assigned:
        if item.conditional and item.value is not None:
            choices.setdefault(item.name, set()).add(item.value.shown)
    for item in assigned:
        if item.value is not None and not item.temporary and item.name not in numbers:
            value = resolved(item.value, scope)
            # `PATH=/opt/bin:$PATH`: what was there before is not known
            unsure = item.name in value.names or (item.conditional and len(choices[item.name]) > 1)
            values[item.name] = None if unsure else value
    return scope


def resolved(word: Word, scope: Scope) -> Word:
    """Return the word with everything replaced that is known."""
    word = expand_whole(word, scope.values)
    parts = []
    for part in word.parts:
        text = _known(part, scope) if isinstance(part, Expansion) else None
        parts.append(part if text is None else Literal(text, word.span.start, True))
    return Word(tuple(parts), word.span)


def _known(part: Expansion, scope: Scope) -> str | None:
    if part.kind == "default":
        return part.fallback
    if part.kind != "command" or not part.commands:
        return None
    names = [command.name for command in part.commands]
    text = part.source
    if "nvidia-smi" in names or re.search(r"CUDA_VISIBLE_DEVICES|\bdevice_count\(", text):
        return "gpu"
    if scope.hosts and re.search(r"\bgrep -c|\bwc -l|\bwc --lines", text) and "scontrol" not in names:
        return str(len(scope.hosts))
    if scope.hosts and "head" in names and "scontrol" not in names:
        return scope.hosts[0]
    if names == ["expr"]:
        words = [inner.text or "" for inner in part.commands[0].argv[1:]]
        values = [resolved(inner, scope).text or "" for inner in part.commands[0].argv[1:]] if not all(words) else words
        return computed(" ".join(values))
    if "nproc" in names:
        return "cpu"
    return None


def number(word: Word | None, scope: Scope) -> int | None:
    """Return the number that a word stands for, if it is known."""
    text = resolved(word, scope).text if word is not None else None
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None


def text(word: Word | None, scope: Scope) -> str:
    """Return the known value of a word, or the word as it is written."""
    found = "" if word is None else resolved(word, scope).shown
    return re.sub(r"\$\{?SLURM_SUBMIT_DIR\}?", ".", found)


def argument(word: Word, scope: Scope) -> Argument:
    """Return a word for a program, as it is typed in a shell."""
    found = resolved(word, scope)
    if found.text is not None:
        first = found.parts[0] if found.parts else None
        if found.text.startswith("~/") and isinstance(first, Literal) and not first.quoted:
            return Argument(f"~/{quote(found.text[2:])}")  # the shell expands it
        return Argument(quote(found.text))
    shell, in_job = "", False
    for part in found.parts:
        if isinstance(part, Literal):
            shell += quote(part.text) if part.text else ""
            continue
        if part.name == "SLURM_SUBMIT_DIR":
            shell += '"$PWD"'  # where muster is started, as sbatch is
            continue
        in_job = in_job or any(_JOB.search(name) for name in (part.name, *part.names))
        shell += f'"{part.source}"' if part.quoted and not part.source.startswith('"') else part.source
    return Argument(shell, in_job)


_ASSIGNS = re.compile(r"\$\{(\w+):?=(.*)\}", re.DOTALL)


def defaulted(script: Script) -> list[Assignment]:
    """Return what `: "${NAME:=value}"` assigns, if the variable is not set where the script is started."""
    found: dict[str, Assignment] = {}
    values = {item.name: item.value.text for item in script.assignments if item.value is not None}
    for command in script.commands:
        for part in (part for word in command.words for part in word.expansions):
            match = _ASSIGNS.fullmatch(part.source.strip('"')) if part.kind == "default" else None
            if not match:
                continue
            value = _with_values(match[2].strip("\"'"), values)
            word = None if set(value) & set("$`") else Word((Literal(value, part.span.start, True),), part.span)
            other = found.get(match[1])
            if other is not None and (other.value is None or other.value.text != value):
                word = None  # another one in another branch
            found[match[1]] = Assignment(match[1], word, (), part.span, command.shell)
            values[match[1]] = None if word is None else value
    return list(found.values())


def _with_values(text: str, values: Mapping[str, str | None]) -> str:
    def known(name: re.Match[str]) -> str:
        value = values.get(name[1])
        return name[0] if value is None else value

    return re.sub(r"\$\{?(\w+)\}?", known, text)


def exported(assigned: Sequence[Assignment]) -> list[Assignment]:
    """Return the last assignment of each variable that is exported."""
    found: dict[str, Assignment] = {}
    values: dict[str, Assignment] = {}
    names: set[str] = set()
    for item in assigned:
        if item.temporary:
            continue
        if item.value is not None:
            values[item.name] = item
        if item.exported:
            names.add(item.name)
    for name in names:
        if name in values:
            found[name] = values[name]
    return sorted(found.values(), key=lambda item: item.span.start)


SECRET = "\0"
"""In place of a value that muster takes from its own environment."""


def passed_on(word: Word, scope: Scope) -> tuple[str, str | None]:
    """Return (name, value) of `NAME=VALUE`, as after `-x` of mpirun and `-e` of tmux.

    The value is `SECRET` for `NAME` and `NAME=$NAME`, and None if it is not known.
    """
    found = resolved(word, scope)
    name, equals, value = found.shown.partition("=")
    if not equals and len(word.parts) > 1 and isinstance(word.parts[0], Literal):  # `-genv NAME VALUE`
        name, equals = word.parts[0].text, "="
        value = found.shown[len(name) :]
    if not equals or value in (f"${name}", f"${{{name}}}"):
        return name, SECRET
    return name, value if found.text is not None else None
