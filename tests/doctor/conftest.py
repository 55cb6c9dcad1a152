"""Fixtures of the tests of `muster doctor`."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
