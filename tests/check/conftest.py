"""Fixtures of the tests of the check."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
