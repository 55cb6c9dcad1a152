"""No runtime: agents and ranks are plain processes of their machine."""

from __future__ import annotations

from muster.runtimes import Runtime

RUNTIME = Runtime("processes of their machine", lambda inside: "")
