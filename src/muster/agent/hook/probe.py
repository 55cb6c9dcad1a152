"""Answer of the site hook to the agent's probe: it works, and this is the Python and the torch that it would import."""

from __future__ import annotations

import os
import sys

from .messages import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def prove(conf: Mapping[str, Any]) -> None:
    """Report which Python this is and which torch it would import, without importing it."""
    import re
    from importlib.machinery import PathFinder

    found, text = PathFinder.find_spec("torch", sys.path), ""
    if found and found.origin:
        try:
            with open(os.path.join(os.path.dirname(found.origin), "version.py")) as file:
                text = file.read()
        except OSError:
            pass
    versions = [re.search(rf"^{name}\b.*= '([^']+)'", text, re.MULTILINE) for name in ("__version__", "cuda")]
    torch, cuda = (version and version.group(1) for version in versions)
    python = ".".join(map(str, sys.version_info[:3]))
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    tell(conf["fd"], op="python_probed", torch=torch, cuda=cuda, has_torch=found is not None, python=python, path=path)
    os.close(conf["fd"])
