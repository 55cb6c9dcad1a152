"""Wrappers of Linux kernel interfaces. Standard library only, Python 3.9 and newer; sent to nodes."""
