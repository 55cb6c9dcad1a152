"""Fixtures of the tests of the check."""

from __future__ import annotations

from there import there

__all__ = ["there"]
