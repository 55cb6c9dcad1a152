"""Fixtures of the tests on Slurm."""

from __future__ import annotations

from there import there

__all__ = ["there"]
