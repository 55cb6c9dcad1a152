"""From command-line arguments, environment and muster.toml to a job."""
