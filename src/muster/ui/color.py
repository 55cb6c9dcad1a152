"""Whether output is colored."""

from __future__ import annotations

import os
from collections.abc import Mapping


def use_color(fd: int, env: Mapping[str, str]) -> bool:
    """True for a terminal that shows colors, unless NO_COLOR is set and not empty."""
    return os.isatty(fd) and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
