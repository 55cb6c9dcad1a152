"""The edge: everything that touches processes, sockets, signals, clocks and terminals on the control side."""
