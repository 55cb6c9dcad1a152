"""Fixtures of the tests against other users, hostile hosts and unauthenticated network peers."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
