"""What runs on a node. Standard library only, Python 3.9 and newer, sent over the connection that starts it."""
