"""Fixtures of the tests of adopted scripts: the lab."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
