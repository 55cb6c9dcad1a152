"""A run whose controller is elsewhere, and which ends with this process."""

from __future__ import annotations

import os
from contextlib import ExitStack

from muster.client.attach import AttachedClient
from muster.controller.connections import ProcessConnection
from muster.core.results import SIGTERM, RunResult
from muster.rundir.run import Run
from muster.runner.handle import RunHandle, Views

PATIENCE = 30.0
"""Seconds, in addition to the lease, to look for the controller after the connection to it broke."""


class AttachedRun(RunHandle):
    """A run on hosts or on a session, owned by this process: it ends with this process."""

    def __init__(
        self,
        run: Run,
        views: Views,
        link: ProcessConnection,
        client: AttachedClient,
        resources: ExitStack[None],
    ):
        """`link` leads to the controller."""
        super().__init__(run, views)
        self._link, self._resources = link, resources
        self.client: AttachedClient = client

    def _drive(self) -> RunResult | None:
        with self._resources:
            outcome = self.client.go(self._link)
        if outcome is not None and self.client.keep is not None:  # otherwise the controller writes it
            from muster.report import write_report  # imported late: only after a run whose directory is here

            write_report(self.run, outcome, os.environ)
        return outcome

    def stop(self, number: int = SIGTERM) -> None:
        """Stop the run gracefully."""
        self.client.stop(number)
