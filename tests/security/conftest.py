"""Fixtures of the tests against other users, hostile hosts and strangers on the network."""

from __future__ import annotations

from lab_cluster import there

__all__ = ["there"]
