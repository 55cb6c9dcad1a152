"""Conclusions from failures, machines and self-tests, and remedies. Pure."""
