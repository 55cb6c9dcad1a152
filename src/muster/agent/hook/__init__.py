"""The site hook: modules that run in the Python of the ranks, where muster is not installed."""
