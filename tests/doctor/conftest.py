"""Fixtures of the doctor's tests."""

from __future__ import annotations

from there import there

__all__ = ["there"]
