"""Values and decisions: no file, process, socket or clock."""
