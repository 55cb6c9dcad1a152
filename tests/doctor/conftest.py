"""Fixtures of the doctor's tests."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
