"""muster itself as one file, which any Python runs: it stays with a run, whatever is upgraded meanwhile."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from muster.agent.boot import text_of
from muster.agent.local import TOKEN

_MAIN = """import signal, sys
if sys.argv[1] != "serve":
    # what a scheduler sends to a process that is only beginning waits until that listens
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
from muster.agent.descriptors import open_standard_descriptors
open_standard_descriptors()
if sys.argv[1] == "serve":
    from muster.world.serve import serve as main
elif sys.argv[1] == "step":
    from muster.agent.step import step as main
else:
    from muster.inside import inside as main
sys.exit(main(sys.argv[2:]))
"""

_NOT_NEEDED = ("lab", "commands", "onranks", "soundness")
"""What a supervisor has no use for."""


def build(compiled: bool = False) -> bytes:
    """The bytes of the archive; `python FILE serve …` is the supervisor of a run.

    `compiled`: with what this Python has compiled, where nodes have the same one as a rule: three times as large, and
    0.1 to 0.2 s less for each start. A Python of another version passes over it.
    """
    root = Path(__file__).parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _MAIN)
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if inside.parts[0] not in _NOT_NEEDED:
                archive.write(path, f"muster/{inside}")
                with suppress(OSError):  # it may not be there, or be somebody else's
                    if compiled:
                        archive.write(cache_from_source(str(path)), f"muster/{inside}c")
    return data.getvalue()


_OF_SHIM = ("descriptors", "dialects", "environment", "local", "paths", "procfs", "protocol", "rank", "system", "warm")
"""The modules of `agent` that it needs."""

_SHIM = """import sys
from muster.agent.rank import main
sys.exit(main(sys.argv[1:]))
"""


@cache
def build_shim(token: str) -> bytes:
    """The bytes of what foreign launchers start in place of the script; see `agent/rank.py`.

    `token` lets it find the agent of its machine (`agent/local.py`).
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _SHIM)
        archive.writestr("muster/__init__.py", "")
        archive.writestr(TOKEN, token)
        for name in ("__init__", *_OF_SHIM):
            archive.writestr(f"muster/agent/{name}.py", text_of(name))
    return data.getvalue()
