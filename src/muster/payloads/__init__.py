"""What muster has ranks run: scripts that are sent as text, for Python and torch alone. They import nothing of ours."""
