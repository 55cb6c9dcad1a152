"""The wording of differences between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.core.comparison import Difference, RunFacts, Topic
from muster.core.model import as_json
from muster.core.plurals import plural
from muster.core.printable import line as safe
from muster.ui.formatting import seconds, shortened

_WIDTH = 150
"""Maximum length of the line about what changed since the last success."""
_LONGEST = 48
"""Maximum length of a value in that line."""
_TITLES = {Topic.VARIABLES: "environment variables (names only)"}


def value_in_words(item: Difference) -> str:
    """Return a difference without its name: `1.26.4 → 2.0.0`, `added 2.0.0`, `removed`."""
    if not item.before:
        return f"added: {safe(item.after)}" if item.after != "set" else "added"
    if not item.after:
        return f"removed (was {safe(item.before)})" if item.before != "set" else "removed"
    return f"{safe(item.before)} → {safe(item.after)}"


def difference_in_words(item: Difference) -> str:
    """Return a difference for a sentence: `numpy 1.26.4 → 2.0.0`, `NCCL_DEBUG removed`, `train.py +3 −1 lines`."""
    name, before, after = safe(item.name), safe(item.before), safe(item.after)
    if item.topic is Topic.CODE and before == "as committed":
        return f"{name} {after}"
    if not before:
        return f"{name} added" if after == "set" else f"{name} {shortened(after, _LONGEST)} added"
    if not after:
        return f"{name} removed"
    return f"{name} {shortened(before, _LONGEST)} → {shortened(after, _LONGEST)}"


def since_in_words(before: RunFacts, after: RunFacts, found: Sequence[Difference]) -> list[str]:
    """Return what changed since the last successful run of the script, in at most 2 lines."""
    ends = [facts.started + (facts.duration or 0.0) for facts in (before, after)]
    label = f"the last successful run of this script ({before.run_id}, {seconds(max(0.0, ends[1] - ends[0]))} earlier)"
    if not found:
        return [f"no recorded change since {label}"] if before.provenance and after.provenance else []
    words, rest = "", list(found)
    while rest and (not words or len(words) + len(difference_in_words(rest[0])) + 2 <= _WIDTH):
        words += (", " if words else "") + difference_in_words(rest.pop(0))
    if rest:
        words += f", and {plural(len(rest), 'more change')}: muster diff {before.run_id} {after.run_id}"
    return [f"since {label}:", f"    {words}"]


def label_of_success(before: RunFacts) -> str:
    """Return the last successful run with its duration."""
    took = f", which took {seconds(before.duration)}" if before.duration is not None else ""
    return f"{before.run_id}{took}"


def diff_in_words(before: RunFacts, after: RunFacts, found: Sequence[Difference]) -> str:
    """Return all differences as text, by topic."""
    lines = [f"- {_head(before)}", f"+ {_head(after)}"]
    for topic in Topic:
        items = [item for item in found if item.topic is topic]
        if not items:
            continue
        width = min(32, max(len(safe(item.name)) for item in items))
        lines += ["", _TITLES.get(topic, str(topic))]
        lines += [f"  {safe(item.name):{width}}  {value_in_words(item)}" for item in items]
    if not found:
        lines += ["", "no recorded difference"]
    missing = [facts.run_id for facts in (before, after) if not facts.provenance]
    if missing:
        lines += ["", f"not recorded for {' and '.join(missing)}: code, packages, hardware, environment variables"]
    return "\n".join(lines)


def _head(facts: RunFacts) -> str:
    """Return a run with its result and duration."""
    took = f" after {seconds(facts.duration)}" if facts.duration is not None else ""
    return f"{facts.run_id}  {safe(facts.state) or 'no result'}{took}"


def diff_as_json(before: RunFacts, after: RunFacts, found: Sequence[Difference]) -> dict[str, Any]:
    """Return the differences for programs."""
    return {
        "before": _run_as_json(before),
        "after": _run_as_json(after),
        "differences": [as_json(item) for item in found],
    }


def _run_as_json(facts: RunFacts) -> dict[str, Any]:
    return {
        "id": facts.run_id,
        "state": facts.state,
        "seconds": facts.duration,
        "time": facts.started,
        "recorded": bool(facts.provenance),
    }
