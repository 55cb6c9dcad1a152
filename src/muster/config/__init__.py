"""From options to a job: argv, environment, muster.toml."""
