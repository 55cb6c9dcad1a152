"""The exceptions of muster: four classes under one root.

    MusterError
    ├── InvalidRequest   invalid options or input; nothing was started         exit 2
    ├── Unreachable      a host or a service did not answer                    exit 3
    ├── ControlError     muster itself failed to run the job to its end        exit 125
    ├── RemoteError      a rank failed; only the public Python API raises it   exit 1
    └── Interrupted      the user stopped it before anything was started       exit 130

For the command line and `muster.api`, a job that ran and failed is not an exception: it is a `RunResult`, whose exit
code is that of the first rank to fail.
Programming errors are `TypeError` and `ValueError`.
"""

from __future__ import annotations


class MusterError(Exception):
    """Base class: `message` says what happened, with the value; `hint`, if any, says what to do."""

    exit_code = 125

    def __init__(self, message: str, hint: str | None = None, host: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.host = host
        """The host where it happened; empty if it concerns no particular host."""

    @property
    def sentence(self) -> str:
        """The message, prefixed with the host if there is one."""
        return f"{self.host}: {self.message}" if self.host else self.message

    def __str__(self) -> str:
        return self.sentence if self.hint is None else f"{self.sentence}\nhint: {self.hint}"


class InvalidRequest(MusterError):
    """Invalid options or input; nothing was started (exit code 2)."""

    exit_code = 2


class NoWorkingDirectory(InvalidRequest):
    """The current directory was deleted, or is not accessible."""

    def __init__(self, reason: str | None):
        super().__init__(
            f"the current directory was deleted or is not accessible: {reason}",
            "change to another directory, and use absolute paths",
        )


class Unreachable(MusterError):
    """A host or a service refused the connection or did not answer (exit code 3)."""

    exit_code = 3


class ControlError(MusterError):
    """muster itself failed, not the program it runs (exit code 125)."""

    exit_code = 125


class Interrupted(MusterError):
    """The user interrupted muster before anything was started (exit code 130)."""

    exit_code = 130


class RemoteError(MusterError):
    """A rank of a run failed, or returned no result."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, host: str = ""):
        super().__init__(message, hint, host)
        self.rank: int | None = None
        """The rank that failed; None if no single rank did."""
        self.run = ""
        """The id of the run."""
        self.log = ""
        """The path of the log with the stderr of that rank."""
        self.traceback = ""
        """The traceback of the rank as text; empty if it raised no exception."""
        self.exception: BaseException | None = None
        """The exception that the rank raised, if it could be sent."""

    @property
    def sentence(self) -> str:
        """The message, which names rank and host."""
        return self.message

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.run and f"run: {self.run}", self.log and f"log: {self.log}")))
        return "\n".join(filter(None, (super().__str__(), place, self.traceback and f"\n{self.traceback.rstrip()}")))
