"""Values and decisions, without files, processes, sockets or clocks."""
