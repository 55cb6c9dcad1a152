"""muster itself as one file that any Python can run: it stays with a run, whatever is upgraded meanwhile."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

from muster.agent.bootstrap import sources
from muster.protocol.local_sockets import TOKEN

_MAIN = """import signal, sys
if sys.argv[1] not in ("serve", "standby"):
    # what a scheduler sends to a process that is only beginning waits until that listens
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
from muster.linux.descriptors import open_standard_descriptors
open_standard_descriptors()
if sys.argv[1] == "serve":
    from muster.controller.detached import serve as main
elif sys.argv[1] == "standby":
    from muster.controller.detached import standby as main
elif sys.argv[1] == "step":
    from muster.agent.join import step as main
else:
    from muster.controller.batch import run_batch as main
sys.exit(main(sys.argv[2:]))
"""

_NOT_NEEDED = ("lab/", "cli/", "payloads/", "diagnostics/selftest/")
"""Parts that a controller does not need."""


def build(compiled: bool = False) -> bytes:
    """Return the bytes of the archive; `python FILE serve …` is the controller of a run.

    `compiled`: include this Python's bytecode, for nodes that usually have the same version: three times as large, but
    each start takes 0.1 to 0.2 s less. Other Python versions ignore it.
    """
    root = Path(__file__).parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _MAIN)
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if not inside.as_posix().startswith(_NOT_NEEDED):
                archive.write(path, f"muster/{inside}")
                with suppress(OSError):  # it may not exist, or belong to another user
                    if compiled:
                        archive.write(cache_from_source(str(path)), f"muster/{inside}c")
    return data.getvalue()


_SHIM = """import sys
from muster.agent.rank_shim import main
sys.exit(main(sys.argv[1:]))
"""


@cache
def build_shim(token: str) -> bytes:
    """Return the bytes of the archive that external launchers start in place of the script; see `agent/rank_shim.py`.

    `token` lets it find the agent of its machine (`protocol/local_sockets.py`).
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("__main__.py", _SHIM)
        archive.writestr(TOKEN, token)
        for module, text in sources(_SHIM).items():
            path = module.replace(".", "/")
            archive.writestr(f"{path}.py" if text else f"{path}/__init__.py", text)
    return data.getvalue()
