"""`muster lint`: mistakes in launch scripts and configurations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from muster import __version__
from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.config.command_options import LintOptions
from muster.config.parse import parse
from muster.core.printable import Styled
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest
from muster.ui.color import use_color

if TYPE_CHECKING:
    from muster.lint.model import Source
    from muster.lint.rule import Finding

_SUFFIXES = frozenset({".sh", ".bash", ".sbatch", ".slurm", ".py", ".json", ".yaml", ".yml"})
_HOST_FILES = frozenset({"hostfile", "hosts", "machinefile"})
_MOST = 2_000_000
"""Bytes of a file: larger ones are no scripts."""


def lint(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print the findings in files; return 1 if there is an error or a warning."""
    from muster.lint.output import as_json, as_sarif, as_text, explained
    from muster.lint.rule import NOTE
    from muster.lint.table import RULES

    parsed = parse(words, LintOptions.table, interleaved=True, command="lint")
    options = LintOptions(("argv", parsed.options))
    if options.help:
        print_command("lint", COMMANDS["lint"], LintOptions.table, env)
        return 0
    for name in (*options.rule, *options.ignore, *filter(None, [options.explain])):
        if name not in RULES:
            near = nearest(name, RULES)
            raise InvalidRequest(
                f"unknown rule: {name}", f"did you mean {near}?" if near else "`muster docs lint` lists the rules"
            )
    if options.explain:
        print(explained(options.explain))
        return 0
    if not parsed.operands:
        raise InvalidRequest("`muster lint` requires a file", "muster lint train.sbatch")
    names = [name for name in options.rule or RULES if name not in options.ignore]
    report = [_checked(path, names, options.fix) for path in _files(parsed.operands)]
    if options.format == "json":
        sys.stdout.write(as_json(report))
    elif options.format == "sarif":
        sys.stdout.write(as_sarif(report, __version__))
    else:
        color = use_color(1, env)
        text = as_text(report, color)
        sys.stdout.write(Styled(text) if color else text)
    return int(any(RULES[finding.rule].level != NOTE for _, findings in report for finding in findings))


def _files(operands: Sequence[str]) -> Iterator[Path]:
    """The files that operands name; of directories, those whose names say that they are of a known kind."""
    for operand in operands:
        path = Path(operand)
        if operand != "-" and path.is_dir():
            for inner in sorted(path.rglob("*")):
                hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
                if not hidden and inner.is_file() and (inner.suffix in _SUFFIXES or inner.name in _HOST_FILES):
                    yield inner
        else:
            yield path


def _checked(path: Path, names: Sequence[str], fix: bool) -> tuple[Source, Sequence[Finding]]:
    """Return the file with its findings, after correcting it if `fix`."""
    from muster.lint.engine import check, fixed
    from muster.lint.model import Source

    source = Source(str(path), _text(path))
    read = _reader(path)
    findings = check(source, read, names)
    for _ in range(5 if fix else 0):
        text = fixed(source, findings)
        if text == source.text:
            break
        source = Source(str(path), text)
        findings = check(source, read, names)
        _write(path, text)
    return source, findings


def _text(path: Path) -> str:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read()
        elif path.stat().st_size > _MOST:
            raise InvalidRequest(f"the file is too large for a script: {path}", "name scripts only")
        else:
            data = path.read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise InvalidRequest(f"the file cannot be read: {path}: {error.strerror}", "check its name") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"the file is not text in UTF-8: {path}", "name scripts only") from None


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        raise InvalidRequest("--fix cannot change stdin", "name a file")
    try:
        path.write_bytes(text.encode())
    except OSError as error:
        raise InvalidRequest(f"the file cannot be written: {path}: {error.strerror}", "leave out --fix") from None


def _reader(path: Path) -> Callable[[str], str | None]:
    """Return what reads files that a script names, relative to it or to the current directory."""

    def read(name: str) -> str | None:
        for folder in (path.parent, Path()):
            try:
                found = folder / name
                if found.is_file() and found.stat().st_size < _MOST:
                    return found.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError, ValueError):
                continue
        return None

    return read
