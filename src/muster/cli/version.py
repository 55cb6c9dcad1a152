"""`muster --version`: the version of muster, its Python, and the Python and torch of ranks."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from muster import __version__
from muster.cli.context import tell_progress
from muster.config.files import current_folder
from muster.config.packages import versions
from muster.config.python import choose_python


def version(words: list[str], env: Mapping[str, str], began: float) -> int:
    """Print muster's version, and the Python and torch with which a run in this directory would start its ranks."""
    print(f"muster {__version__} (Python {sys.version.split()[0]})")
    python, why = choose_python(None, "", current_folder(), env, sys.executable, warn=tell_progress)
    found = versions(python)
    if found is None:
        print(f"ranks: cannot start {python} ({why})")
    else:
        torch = f"torch {found.torch}" if found.torch else "no torch"
        print(f"ranks: Python {found.python}, {torch}, {python} ({why})")
    return 0
