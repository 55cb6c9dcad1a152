"""When a job runs: what is asked of a scheduler, and what its words mean. Pairs of command line and parser; pure."""
