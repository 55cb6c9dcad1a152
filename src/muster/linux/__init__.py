"""The kernel as muster needs it. Standard library only, Python 3.9 and newer; sent to nodes."""
