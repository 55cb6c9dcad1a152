"""The report of a run as a self-contained HTML page, without scripts, in light and dark. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from muster.core.comparison import Difference
from muster.core.hostlist import fold_hostlist
from muster.core.layout import fold, named
from muster.core.plurals import plural
from muster.core.printable import lines as visible
from muster.core.provenance import Provenance
from muster.core.results import RunState
from muster.report.charts import resources, startup
from muster.report.data import LogEnd, ReportData
from muster.report.looks import looks, why_in_words
from muster.report.style import STYLE
from muster.report.timeline import timeline
from muster.ui.diff_text import label_of_success, value_in_words
from muster.ui.formatting import progress_in_words, seconds, shortened, size_in_words
from muster.ui.html import page, shown, table
from muster.ui.text import outcome_in_words

_OPEN_TEXTS, _MOST_TEXTS = 2, 12
"""How many different tracebacks are unfolded at first, and shown at all."""
_MOST_CHANGES = 40
_LONGEST_VALUE = 160


def report_page(data: ReportData) -> str:
    """Return the page."""
    title = f"{data.name or data.run_id}: {data.state}"
    parts = [
        _head(data),
        _verdict(data),
        _section("timeline", "Timeline", timeline(data)),
        _section("tracebacks", "What the failed ranks wrote", _texts(data)),
        _section("snapshots", "What the ranks did", looks(data)),
        _section("logs", "Last lines of output", _logs(data)),
        _section("changes", "Since the last successful run of this script", _changes(data)),
        _section("startup", "Start-up", startup(data)),
        _section("resources", "Resources", resources(data)),
        _section("machines", "Hosts and software", _machines(data)),
        _section("run", "Run", _run(data)),
        _foot(data),
    ]
    return page(title, STYLE, filter(None, parts))


def _foot(data: ReportData) -> str:
    """Return when the report was made, and which commands show more."""
    commands = [f"<code>muster {verb} {shown(data.operand)}</code>" for verb in ("show", "logs")]
    return f"<footer><p>report made {shown(data.made)}</p><p>more: {', '.join(commands)}</p></footer>"


def _section(name: str, title: str, body: str) -> str:
    """Return a section; empty without a body."""
    return f'<section id="{name}"><h2>{shown(title)}</h2>{body}</section>' if body else ""


# ---- the result -----------------------------------------------------------------------------------------------------


def _head(data: ReportData) -> str:
    """Return the head of the page: what ran, where, for how long."""
    where = fold_hostlist(data.hosts) if data.hosts else "?"
    took = f"{'ran' if data.outcome is not None else 'running for'} {seconds(data.now)}"
    facts = [data.started, took, f"{plural(data.ranks, 'rank')} on {shortened(where, _LONGEST_VALUE)}"]
    facts += [progress_in_words(data.progress)] if data.progress is not None else []
    facts += [f"launcher {data.launcher}"] if data.launcher else []
    name = f"<p>{shown(data.run_id)}</p>" if data.name else ""
    return (
        f"<header><h1>{shown(data.name or data.run_id)}</h1>{name}"
        f"<p><code>{shown(data.command)}</code></p><p>{shown(' · '.join(facts))}</p></header>"
    )


def _verdict(data: ReportData) -> str:
    """Return the result, with its first line as the headline."""
    kind = _kind(data)
    headline, *rest = _result(data).split("\n")
    words = why_in_words(data)
    why = f"<p>{shown(words)}</p>" if words else ""
    body = "".join(map(_line_of_result, rest))
    text = f'<div class="text">{body}</div>' if body else ""
    return (
        f'<section id="verdict" class="verdict is-{kind}"><p class="all {kind}">{shown(headline)}</p>'
        f"{f'<div class=why>{why}</div>' if why else ''}{text}</section>"
    )


def _result(data: ReportData) -> str:
    """Return the result in words, or the state of a run without one."""
    if data.outcome is None:
        return data.state
    return outcome_in_words(data.outcome, data.operand, data.ranks, data.hosts, data.pace)


def _kind(data: ReportData) -> str:
    if data.outcome is None:
        return "soft"
    if data.outcome.state is RunState.SUCCEEDED:
        return "good"
    return "warn" if data.outcome.state in (RunState.INTERRUPTED, RunState.KILLED) else "bad"


def _line_of_result(line: str) -> str:
    """Return a line of the result: a hint, a line of a rank's output, or a sentence."""
    if line.startswith("hint: "):
        return f'<p class="hint"><b>hint</b> {_with_code(line[6:])}</p>'
    if line.startswith("    "):
        return f'<pre class="line">{shown(line[4:])}</pre>'
    if line.startswith(("log: ", "logs: ")):
        label, _, command = line.partition(": ")
        return f"<p>{label}: <code>{shown(command)}</code></p>"
    return f"<p>{_with_code(line)}</p>"


def _with_code(text: str) -> str:
    """Return a sentence in which what stands between backticks is shown as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", shown(text))


# ---- texts of ranks -------------------------------------------------------------------------------------------------


def _texts(data: ReportData) -> str:
    """Return the tracebacks, each with the ranks that have it; folded where the result has all of it."""
    found = data.tracebacks
    known = _result(data)
    parts = []
    for number, each in enumerate(found[:_MOST_TEXTS]):
        lines = [line.strip() for line in each.text.split("\n") if line.strip()]
        opened = " open" if number < _OPEN_TEXTS and not all(visible(line) in known for line in lines) else ""
        head = f"{shown(ranks_in_words(each.ranks))}{_last_line(each.text)}"
        parts.append(f"<details{opened}><summary>{head}</summary><pre>{shown(each.text)}</pre></details>")
    hidden = [rank for each in found[_MOST_TEXTS:] for rank in each.ranks]
    if hidden:
        other = plural(len(found) - _MOST_TEXTS, "other text")
        parts.append(f"<p>{shown(other)} of {shown(ranks_in_words(hidden))} not shown</p>")
    return "".join(parts)


def _last_line(text: str) -> str:
    """Return the last line of a traceback, which names the exception, for its summary."""
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    return f": <span>{shown(shortened(last.strip(), _LONGEST_VALUE))}</span>" if last else ""


def ranks_in_words(ranks: Iterable[int]) -> str:
    """Return ranks for a heading, with their number if there are many: `ranks 0-7,9 (9 ranks)`."""
    several = sorted(set(ranks))
    words = named(several)
    return f"{shortened(words, 60)} ({plural(len(several), 'rank')})" if len(several) > 2 else words


def _logs(data: ReportData) -> str:
    """Return the last lines of the ranks that matter; folded where they are a traceback that is shown already."""
    known = [each.text.strip() for each in data.tracebacks]
    parts = []
    for end in data.logs:
        text = "\n".join(end.lines).strip()
        parts.append(_log(end, not any(text in other or (other and other in text) for other in known)))
    return "".join(parts)


def _log(end: LogEnd, unfolded: bool) -> str:
    """Return the last lines of a log."""
    title = f"rank {end.rank}, {'stdout' if end.stream == 'out' else 'stderr'}{', last lines' if end.more else ''}"
    text = shown("\n".join(end.lines))
    return f"<details{' open' if unfolded else ''}><summary>{title}</summary><pre>{text}</pre></details>"


# ---- differences and machines ---------------------------------------------------------------------------------------


def _changes(data: ReportData) -> str:
    """Return what changed since the last success, as a table."""
    if data.before is None:
        return ""
    head = f"<p>{shown(label_of_success(data.before))}</p>"
    if not data.provenance or not data.before.provenance:
        head += "<p>Code, packages and machines were not recorded for both runs.</p>"
    if not data.changes:
        return head + "<p>No recorded change.</p>"
    rows = [_row(item) for item in data.changes[:_MOST_CHANGES]]
    hidden = len(data.changes) - _MOST_CHANGES
    command = f"muster diff {data.before.run_id} {data.run_id}"
    rest = f"<p>{plural(hidden, 'more change')}: <code>{shown(command)}</code></p>" if hidden > 0 else ""
    return head + table(("", "what", "change"), rows) + rest


def _row(item: Difference) -> tuple[str, str, str]:
    return str(item.topic), item.name, shortened(value_in_words(item), _LONGEST_VALUE)


def _machines(data: ReportData) -> str:
    """Return what the nodes have; equal nodes in one row."""
    if not data.provenance:
        return ""
    names = dict(enumerate(data.hosts))
    alike: dict[tuple[str, ...], list[str]] = {}
    for node in data.provenance:
        alike.setdefault(_node_row(node), []).append(names.get(node.node, f"node {node.node}"))
    rows = [(shortened(fold_hostlist(hosts), 60), *row) for row, hosts in alike.items()]
    heads = ("hosts", "cores", "memory", "GPUs", "driver", "kernel", "Python", "torch")
    used = [index for index, _ in enumerate(heads) if any(row[index] for row in rows)]
    found = table([heads[index] for index in used], [[row[index] for index in used] for row in rows])
    return found + _software(data.provenance[0])


def _node_row(node: Provenance) -> tuple[str, ...]:
    kinds = dict.fromkeys(node.gpus)
    gpus = ", ".join(f"{node.gpus.count(kind)} × {kind}" for kind in kinds)
    torch = f"{node.torch} (CUDA {node.cuda})" if node.cuda else node.torch
    memory = size_in_words(node.memory) if node.memory else ""
    return f"{node.cores} ({_model(node.cpu)})", memory, gpus, node.driver, node.kernel, node.python, torch


def _model(cpu: str) -> str:
    """Return the model of a processor without words that tell nothing."""
    return " ".join(re.sub(r"\((?:R|TM)\)|\d+-Core|\b(?:Processor|CPU)\b|@.*", "", cpu).split())


def _software(node: Provenance) -> str:
    """Return the code and the packages of node 0."""
    parts = []
    if node.git is not None:
        git = node.git
        branch = f" on {git.branch}" if git.branch else ""
        dirty = f", {plural(len(git.dirty) + git.more, 'changed file')}" if git.dirty else ""
        parts.append(
            f"<p>code: <code>{shown(git.root)}</code> at commit <code>{shown(git.commit[:12])}</code>"
            f"{shown(branch + dirty)}</p>"
        )
        if git.dirty:
            rows = [(file.path, file.change, f"+{file.added} −{file.removed}") for file in git.dirty]
            parts.append(_fold_table("changed files", ("file", "", "lines"), rows))
    if node.packages:
        parts.append(_fold_table(plural(len(node.packages), "package"), ("package", "version"), node.packages.items()))
    if node.variables:
        words = ", ".join(node.variables)
        parts.append(
            f"<details><summary>{plural(len(node.variables), 'environment variable')}, names only</summary>"
            f"<p>{shown(words)}</p></details>"
        )
    return "".join(parts)


def _fold_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"<details><summary>{shown(title)}</summary>{table(heads, rows)}</details>"


def _run(data: ReportData) -> str:
    """Return the request: command, directory, options."""
    rows = [("command", data.command), ("directory", data.cwd), ("muster", data.muster)]
    rows += [(name, value) for name, value in data.options]
    placed: dict[tuple[str, ...], None] = {}
    if data.attempts and len(data.hosts) > 1:
        for node, host in enumerate(data.hosts[:64]):
            ranks = fold(span.rank for span in data.attempts[-1].ranks if span.node == node)
            placed[(host, ranks)] = None
    body = "".join(f"<dt>{shown(name)}</dt><dd>{shown(value)}</dd>" for name, value in rows)
    where = _fold_table("ranks by host", ("host", "ranks"), list(placed)) if placed else ""
    return f"<dl>{body}</dl>{where}"
