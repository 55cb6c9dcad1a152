"""From a job to a run: on this machine, on hosts, or with a scheduler. Nothing here prints or exits the process."""
