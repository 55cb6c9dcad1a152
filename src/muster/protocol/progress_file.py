"""The step that a rank reported by `muster.progress`, read from its file in the directory of the attempt."""

from __future__ import annotations

from muster.protocol.paths import rank_file


def reported_step(folder: str, rank: int) -> dict[str, int]:
    """Return the `step`, and the number of `steps` if it is known, that a rank reported; empty if it reported none.

    `folder`: the directory of the attempt.
    """
    try:
        with open(rank_file(folder, rank, "progress"), "rb") as file:
            words = file.read(64).split()
    except OSError:
        return {}
    named = zip(("step", "steps"), words)
    found = {name: int(word) for name, word in named if word.isdigit() and int(word) < 1 << 31}
    return found if "step" in found else {}
