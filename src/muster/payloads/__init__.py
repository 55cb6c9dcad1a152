"""Scripts that ranks run for muster: sent as text, they need only Python and torch, not muster."""
