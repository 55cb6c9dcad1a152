"""Findings as text, JSON and SARIF. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from muster.core.plurals import plural
from muster.lint.model import Source
from muster.lint.rule import ERROR, NOTE, WARNING, Finding
from muster.lint.table import RULES

Report = Sequence[tuple[Source, Sequence[Finding]]]
"""The files with their findings."""

_LEVELS = (ERROR, WARNING, NOTE)
_COLORS = {ERROR: "31", WARNING: "33", NOTE: "36"}


def as_text(report: Report, color: bool = False) -> str:
    """The findings for people: place, message, the line with a marker, why, and what to write instead."""
    pieces = [_one(source, finding, color) for source, findings in report for finding in findings]
    return "\n\n".join([*pieces, summary(report)]) + "\n"


def _one(source: Source, finding: Finding, color: bool) -> str:
    rule = RULES[finding.rule]
    number, column = source.place(finding.span.start)
    text = source.line(number).expandtabs(1)
    last, end = source.place(max(finding.span.end - 1, finding.span.start))
    width = max(1, (end if last == number else len(text)) - column + 1)
    margin = " " * len(str(number))
    level = _styled(rule.level, _COLORS[rule.level], color)
    return "\n".join(
        (
            f"{source.path}:{number}:{column}: {level}: {finding.message} [{finding.rule}]",
            f"  {number} | {text}",
            f"  {margin} | {' ' * (column - 1)}{_styled('^' * width, _COLORS[rule.level], color)}",
            f"  why: {rule.why}",
            f"  fix: {rule.fix}",
        )
    )


def _styled(text: str, code: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def summary(report: Report) -> str:
    """How much was found, in one line."""
    found = [finding for _, findings in report for finding in findings]
    files = plural(len(report), "file")
    if not found:
        return f"{files}: no findings"
    counts = [
        plural(sum(RULES[finding.rule].level == level for finding in found), level)
        for level in _LEVELS
        if any(RULES[finding.rule].level == level for finding in found)
    ]
    fixable = sum(bool(finding.edits) for finding in found)
    hint = f"; `muster lint --fix` corrects {fixable}" if fixable else ""
    return f"{files}: {', '.join(counts)}{hint}"


def _place(source: Source, finding: Finding) -> dict[str, int]:
    line, column = source.place(finding.span.start)
    end_line, end_column = source.place(finding.span.end)
    return {"line": line, "column": column, "end_line": end_line, "end_column": end_column}


def as_json(report: Report) -> str:
    """The findings for programs."""
    records = [
        {
            "file": source.path,
            **_place(source, finding),
            "rule": finding.rule,
            "level": RULES[finding.rule].level,
            "message": finding.message,
            "why": RULES[finding.rule].why,
            "fix": RULES[finding.rule].fix,
            "fixable": bool(finding.edits),
        }
        for source, findings in report
        for finding in findings
    ]
    return json.dumps({"files": [source.path for source, _ in report], "findings": records}, indent=1) + "\n"


def as_sarif(report: Report, version: str) -> str:
    """The findings as SARIF 2.1.0, which code scanning services show in reviews."""
    used = sorted({finding.rule for _, findings in report for finding in findings})
    rules = [
        {
            "id": name,
            "shortDescription": {"text": RULES[name].says},
            "fullDescription": {"text": RULES[name].why},
            "help": {"text": RULES[name].fix},
            "defaultConfiguration": {"level": RULES[name].level},
        }
        for name in used
    ]
    results = [_result(source, finding, used) for source, findings in report for finding in findings]
    driver = {"name": "muster lint", "version": version, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _result(source: Source, finding: Finding, used: Sequence[str]) -> Mapping[str, Any]:
    place = {
        "artifactLocation": {"uri": quote(source.path.replace("\\", "/"))},
        "region": _region(source, finding.span),
    }
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": used.index(finding.rule),
        "level": RULES[finding.rule].level,
        "message": {"text": f"{finding.message}. {RULES[finding.rule].fix}"},
        "locations": [{"physicalLocation": place}],
    }
    if finding.edits:
        replacements = [
            {"deletedRegion": _region(source, edit.span), "insertedContent": {"text": edit.text}}
            for edit in finding.edits
        ]
        change = {"artifactLocation": place["artifactLocation"], "replacements": replacements}
        result["fixes"] = [{"description": {"text": RULES[finding.rule].fix}, "artifactChanges": [change]}]
    return result


def _region(source: Source, span: tuple[int, int]) -> dict[str, int]:
    line, column = source.place(span[0])
    end_line, end_column = source.place(span[1])
    return {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}


def explained(name: str) -> str:
    """The documentation of a rule, as Markdown."""
    rule = RULES[name]
    fixed = " `--fix` corrects it." if rule.fixed else ""
    language = {"script": "bash", "python": "python", "hostfile": "text"}.get(
        rule.kind, "json" if rule.bad.lstrip().startswith("{") else "yaml"
    )
    return "\n".join(
        (
            f"### {name}",
            "",
            f"**{rule.level}** · {rule.says}",
            "",
            f"{rule.why}",
            "",
            f"**Fix.** {rule.fix}{fixed}",
            "",
            "Finding:",
            "",
            f"```{language}\n{_clean(rule.bad)}```",
            "",
            "No finding:",
            "",
            f"```{language}\n{_clean(rule.good)}```",
        )
    )


def _clean(text: str) -> str:
    return text.replace("\r", "\u240d")
