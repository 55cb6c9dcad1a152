"""A run seen from another terminal: what became of it, what to ask of it, and how it is watched."""
