"""Fixtures of the tests of `muster check`."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
