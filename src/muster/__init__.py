"""muster: one unchanged training script, on any machines, by any launcher."""

__version__ = "0.1.0"
