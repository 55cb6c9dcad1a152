"""Checks the text of a file: which kind it is, which rules apply, what is ignored, and what `--fix` changes. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from muster.errors import InvalidRequest
from muster.lint.model import Source, Span
from muster.lint.rule import CONFIG, HOSTFILE, PYTHON, SCRIPT, Edit, Finding
from muster.lint.rules_hosts import Hosts
from muster.lint.rules_python import PythonFile
from muster.lint.scene import Scene
from muster.lint.table import RULES
from muster.lint.values import assemble

_IGNORE = re.compile(r"#\s*muster:\s*ignore(-file)?(?:=([\w,\s-]+))?")
_HOSTS = re.compile(
    r"(.*[._-])?(hosts?|hostfile|machinefile|machines|nodelist|nodefile|nodes)([._-].*)?", re.IGNORECASE
)
_COMMAND = re.compile(r"\b(torchrun|srun|sbatch|python3?|ssh|mpirun|deepspeed|accelerate|export)\b")
_SHELLS = re.compile(r"#!.*\b(ba|z|da|k)?sh\b")


def kind_of(path: str, text: str) -> str:
    """The kind of a file, by its name and its first line."""
    name = path.replace("\\", "/").rpartition("/")[2].lower()
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix == "py" or re.match(r"#!.*python", text):
        return PYTHON
    if suffix in ("json", "yaml", "yml"):
        return CONFIG
    if (
        suffix in ("sh", "bash", "sbatch", "slurm", "zsh")
        or _SHELLS.match(text)
        or re.search(r"^#SBATCH\s", text, re.M)
    ):
        return SCRIPT
    if text.lstrip().startswith("{"):
        return CONFIG
    return HOSTFILE if _HOSTS.fullmatch(name) and not _COMMAND.search(text) else SCRIPT


def check(
    source: Source,
    read: Callable[[str], str | None] = lambda path: None,
    names: Collection[str] = (),
    kind: str = "",
) -> list[Finding]:
    """Return the findings in a file, in the order of their places.

    `read` returns the text of another file, by its path relative to this one; None if there is none. `names` are the
    rules to use, all by default. Raises `InvalidRequest` if an optional package is missing.
    """
    kind = kind or kind_of(source.path, source.text)
    rules = [rule for rule in RULES.values() if rule.kind == kind and (not names or rule.name in names)]
    found: dict[tuple[str, int], Finding] = {}
    for subject in _subjects(source, kind, read):
        for rule in rules:
            for finding in rule.check(subject):
                found.setdefault((rule.name, finding.span.start), finding._replace(rule=rule.name))
        if isinstance(subject, Scene):
            for finding in _in_heredocs(subject, names):
                found.setdefault((finding.rule, finding.span.start), finding)
    kept = [finding for finding in found.values() if not _is_ignored(source, finding)]
    return sorted(kept, key=lambda finding: (finding.span, finding.rule))


def _subjects(source: Source, kind: str, read: Callable[[str], str | None]) -> Iterator[Any]:
    """What the rules of a kind look at."""
    if kind == SCRIPT:
        try:
            from muster.lint.parse import read_script
        except ImportError as error:
            raise missing(error) from None
        yield Scene(read_script(source), read)
    elif kind == CONFIG:
        try:
            from muster.lint.configs import Config
        except ImportError as error:
            raise missing(error) from None
        yield Config(source)
    elif kind == PYTHON:
        yield PythonFile(source)
    elif kind == HOSTFILE:
        yield Hosts(source)


def _in_heredocs(scene: Scene, names: Collection[str]) -> Iterator[Finding]:
    """The findings in configurations that a script writes, with their places in the script."""
    for heredoc in (heredoc for script in scene.script.scripts() for heredoc in script.heredocs):
        target, mapped = heredoc.target or "", assemble([heredoc.body])
        if mapped.outer or not target.endswith((".json", ".yaml", ".yml")) or not mapped.text.strip():
            continue
        for finding in check(Source(target, mapped.text), names=names, kind=CONFIG):
            start, end = finding.span
            last = mapped.at[min(max(end - 1, start), len(mapped.at) - 1)] + 1
            first = mapped.at[min(start, len(mapped.at) - 1)]
            yield finding._replace(span=Span(first, max(last, first + 1)), edits=())


def missing(error: ImportError) -> InvalidRequest:
    """The error for a package that is not installed, where only the source of muster is."""
    return InvalidRequest(
        f"`muster lint` requires a package that is not installed: {(error.name or '?').replace('_', '-')}",
        f"{sys.executable} -m pip install tree-sitter tree-sitter-bash PyYAML",
    )


def _is_ignored(source: Source, finding: Finding) -> bool:
    """`# muster: ignore=RULE` is on the line, on a line of its own above it, or, with `ignore-file`, anywhere."""
    first, last = source.place(finding.span.start)[0], source.place(max(finding.span.end - 1, finding.span.start))[0]
    for number in range(1, source.lines + 1):
        text = source.line(number)
        match = _IGNORE.search(text)
        if match is None or (match[2] and finding.rule not in re.split(r"[,\s]+", match[2].strip())):
            continue
        if match[1] or first <= number <= last or (_stands_alone(text) and _covers(source, number, first)):
            return True
    return False


def _stands_alone(text: str) -> bool:
    return text.lstrip().startswith("#")


def _covers(source: Source, number: int, line: int) -> bool:
    """A comment covers the next line that is not a comment, and lines that continue it."""
    at = number + 1
    while at < line and (_stands_alone(source.line(at)) or source.line(at).rstrip().endswith("\\")):
        at += 1
    return at == line


def fixed(source: Source, findings: Iterable[Finding]) -> str:
    """The text after the changes of all findings; of changes that overlap, the first is made."""
    edits: list[Edit] = []
    for finding in findings:
        if all(_is_free(edit.span, edits) for edit in finding.edits):
            edits += finding.edits
    text = source.text
    for edit in sorted(set(edits), key=lambda edit: edit.span, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


def _is_free(span: Span, edits: Iterable[Edit]) -> bool:
    return all(span.end <= other.span.start or span.start >= other.span.end for other in edits) or not edits
