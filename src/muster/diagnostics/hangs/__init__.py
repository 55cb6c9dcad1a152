"""Why the ranks of a run stand still: from what they are doing to a verdict. Pure.

`verdict` compares the ranks: which collectives each has entered, where its code is, and what it waits for in the
kernel. Ranks that wait point to those that they wait for; who is at the end of that, and waits for nobody, is the
cause. Where that cannot be told, the verdict has no odd rank.
"""

from __future__ import annotations

from muster.diagnostics.hangs.by_role import verdict

__all__ = ["verdict"]
