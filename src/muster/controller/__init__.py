"""The process that supervises a run."""
