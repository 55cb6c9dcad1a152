"""What travels between the processes of a run. Standard library only, Python 3.9 and newer; sent to nodes."""
