"""The Python stacks of ranks as text, equal stacks folded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from muster.core.fold import by_value
from muster.core.inspection import Inspection, Snapshot
from muster.core.printable import lines as safe
from muster.core.verdict import Activity, Frame, Situation, Verdict
from muster.diagnostics.stack_text import threads_of, visible
from muster.ui.hang_text import Hosts, doing_in_words, who


def stacks_in_words(
    snapshot: Snapshot,
    verdict: Verdict,
    hosts: Hosts,
    ranks: Collection[int] | None = None,
    every: bool = False,
    live: bool = True,
) -> str:
    """Return the stacks of a snapshot, once for all ranks with equal ones, and what is known of ranks without a stack.

    `verdict`: of the snapshot. `ranks`: only of these. `every`: with threads that run only code of libraries. `live`:
    the ranks still run.
    """
    chosen = [found for found in snapshot.inspections if ranks is None or found.rank in ranks]
    situations = {rank: found for found in verdict.situations for rank in found.ranks}
    blocks: list[tuple[list[int], str]] = []
    pairs = [(found.rank, _frames(found, every)) for found in chosen if _frames(found, every)]
    texts = {found.rank: found.stacks for found in chosen}
    for alike in by_value(pairs).values():
        head = f"{who(alike, hosts)}{_doing(alike, situations)}:"
        blocks.append((alike, f"{head}\n{safe(shown(texts[alike[0]], every))}\n"))
    silent = [found for found in chosen if not _frames(found, every)]
    blocks += _without_stacks(silent, situations, hosts) if live else _had_no_stacks(silent, situations, hosts)
    there = {found.rank for found in snapshot.inspections}
    for rank_words, gone in by_value(
        (rank, doing_in_words(found)) for rank, found in situations.items() if rank not in there
    ).items():
        picked = [rank for rank in gone if ranks is None or rank in ranks]
        if picked:
            blocks.append((picked, f"{who(picked, hosts)}: {rank_words}"))
    return "\n".join(text for _, text in sorted(blocks)).rstrip("\n")


def _frames(found: Inspection, every: bool) -> tuple[tuple[Frame, ...], ...] | str:
    """Return the stacks that are compared; the text if it is in another form, and nothing without any frame."""
    threads = threads_of(found.stacks)
    frames = tuple(thread.frames for thread in visible(threads, every))
    return frames if any(frames) else "" if threads else found.stacks


def shown(text: str, every: bool) -> str:
    """Return the stacks of one process as faulthandler wrote them, without the frames of `import` itself.

    Threads that run only code of libraries are left out unless `every`.
    """
    blocks = [block for block in _blocks(text) if block]
    kept = [block for index, block in enumerate(blocks) if _is_shown(block, index == len(blocks) - 1, every)]
    hidden = len(blocks) - len(kept)
    note = [f"  ({hidden} idle {'thread' if hidden == 1 else 'threads'} of libraries: --all-threads)"] if hidden else []
    return "\n".join("\n".join(block) for block in kept) + "".join(f"\n{line}" for line in note)


def _blocks(text: str) -> list[list[str]]:
    found: list[list[str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith('  File "<frozen importlib'):
            continue
        if not line.startswith(" ") or not found:
            found.append([])
        found[-1].append(line)
    return found


def _is_shown(block: list[str], is_main: bool, every: bool) -> bool:
    threads = threads_of("\n".join(block))
    return every or is_main or any(thread.is_of_user for thread in threads)


def _doing(ranks: list[int], situations: dict[int, Situation]) -> str:
    """Return what these ranks do, if all do the same and it is known."""
    told = {doing_in_words(situations[rank]) for rank in ranks if rank in situations}
    words = told.pop() if len(told) == 1 else ""
    return f" ({words})" if words else ""


def _had_no_stacks(
    found: Sequence[Inspection], situations: Mapping[int, Situation], hosts: Hosts
) -> list[tuple[list[int], str]]:
    """Return what is known of ranks that did not write stacks before their end."""
    told = by_value((one.rank, doing_in_words(situations[one.rank])) for one in found if one.rank in situations)
    return [
        (ranks, f"{who(ranks, hosts)}: no stack" + (f": {words}" if words else "")) for words, ranks in told.items()
    ]


_SINGLE = 8
"""Up to this number of ranks without stacks, each has a line."""


def _without_stacks(
    found: Sequence[Inspection], situations: Mapping[int, Situation], hosts: Hosts
) -> list[tuple[list[int], str]]:
    """Return what is known of ranks that did not write stacks."""
    blocks, silent = [], []
    for one in found:
        situation = situations.get(one.rank)
        if situation is not None and situation.activity in (Activity.STOPPED, Activity.KERNEL):
            words = f"no stack: {doing_in_words(situation)} (pid {one.pid})"
            blocks.append(([one.rank], f"{who([one.rank], hosts)}: {words}"))
        else:
            silent.append(one)
    if len(silent) > _SINGLE:
        ranks, example = [one.rank for one in silent], silent[0].pid
        why = "are not Python processes that muster prepared, are still starting, or do not answer"
        return [*blocks, (ranks, f"{who(ranks, hosts)} {why}; try `py-spy dump --pid {example}`")]
    why = "is not a Python process that muster prepared, is still starting, or does not answer"
    for one in silent:
        text = f"{who([one.rank], hosts)} (pid {one.pid}) {why}; try `py-spy dump --pid {one.pid}`"
        blocks.append(([one.rank], text))
    return blocks
