"""From a job to a run: on this machine, on hosts, or by a scheduler. Nothing here prints, or ends the process."""
