"""`muster lint`: mistakes in launch scripts and configurations."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from muster import __version__
from muster.cli.commands import COMMANDS
from muster.cli.help import print_command
from muster.config.command_options import LintOptions
from muster.config.files import LARGEST_SCRIPT, script_text
from muster.config.parse import parse
from muster.core.printable import Styled
from muster.core.suggestions import nearest
from muster.errors import InvalidRequest
from muster.linux.files import replace_file
from muster.ui.color import use_color

if TYPE_CHECKING:
    from muster.lint.model import Source
    from muster.lint.rule import Finding

_SUFFIXES = frozenset({".sh", ".bash", ".sbatch", ".slurm", ".py", ".json", ".yaml", ".yml"})
_HOST_FILES = frozenset({"hostfile", "hosts", "machinefile"})


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
    texts = [(path, text) for path, text in _files(parsed.operands) if text is not None]
    report = [_checked(path, text, names, options.fix) for path, text in texts]
    if options.format == "json":
        sys.stdout.write(as_json(report))
    elif options.format == "sarif":
        sys.stdout.write(as_sarif(report, __version__))
    else:
        color = use_color(1, env)
        text = as_text(report, color)
        sys.stdout.write(Styled(text) if color else text)
    return int(any(RULES[finding.rule].level != NOTE for _, findings in report for finding in findings))


def _files(operands: Sequence[str]) -> Iterator[tuple[Path, str | None]]:
    """The files that operands name, with their text; of directories, those with names of a known kind.

    What is found in a directory may be no script after all, such as data in JSON: then there is no text.
    """
    for operand in operands:
        path = Path(operand)
        if operand != "-" and path.is_dir():
            for inner in sorted(path.rglob("*")):
                hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
                if not hidden and inner.is_file() and (inner.suffix in _SUFFIXES or inner.name in _HOST_FILES):
                    yield inner, _text_if_script(inner)
        else:
            yield path, _text(path)


def _text_if_script(path: Path) -> str | None:
    try:
        return _text(path)
    except InvalidRequest as error:
        print(f"warning: skipped: {error.sentence}", file=sys.stderr)
        return None


def _checked(path: Path, text: str, names: Sequence[str], fix: bool) -> tuple[Source, Sequence[Finding]]:
    """Return the file with its findings, after correcting it if `fix`."""
    from muster.lint.engine import check, fixed
    from muster.lint.model import Source

    source = Source(str(path), text)
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
        elif path.stat().st_size > LARGEST_SCRIPT:
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
    target = os.path.realpath(path)
    try:
        before = os.stat(target)
        replace_file(target, text.encode(), stat.S_IMODE(before.st_mode))
        if before.st_uid != os.geteuid():
            os.chown(target, before.st_uid, before.st_gid)
    except OSError as error:
        raise InvalidRequest(f"the file cannot be written: {path}: {error.strerror}", "leave out --fix") from None


def _reader(path: Path) -> Callable[[str], str | None]:
    """Return what reads files that a script names, relative to it or to the current directory."""

    def read(name: str) -> str | None:
        places = path.parent / name, Path(name)
        return next((text for place in places if (text := script_text(place)) is not None), None)

    return read
