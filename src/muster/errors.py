"""What can go wrong, as four classes under one root.

    MusterError
    ├── InvalidRequest   cannot be planned or asked for; nothing was started   exit 2
    ├── Unreachable      a machine or a service did not answer                 exit 3
    ├── ControlError     muster itself could not bring the run to its end      exit 125
    └── Interrupted      the person stopped it before anything was started     exit 130

A job that ran and failed is no exception: it is a `RunResult`, and its exit status is the first failing rank's.
Mistakes of a developer stay `TypeError` and `ValueError`.
"""

from __future__ import annotations


class MusterError(Exception):
    """One sentence that says what happened, with which value; `hint` says what to do."""

    exit_code = 125

    def __init__(self, message: str, hint: str | None = None, host: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.host = host
        """The host of which it is true, where it is of one."""

    @property
    def sentence(self) -> str:
        """What happened, and on which host."""
        return f"{self.host}: {self.message}" if self.host else self.message

    def __str__(self) -> str:
        return self.sentence if self.hint is None else f"{self.sentence}\nhint: {self.hint}"


class InvalidRequest(MusterError):
    """It cannot be done as asked, and nothing was started."""

    exit_code = 2


class NoWorkingDirectory(InvalidRequest):
    """The folder in which muster was started is not there any more, or is out of reach."""

    def __init__(self, reason: str | None):
        super().__init__(
            f"the folder in which muster was started is gone or out of reach: {reason}",
            "change to another one (`cd`), and name files by their whole path",
        )


class Unreachable(MusterError):
    """A machine or a service refused or did not answer."""

    exit_code = 3


class ControlError(MusterError):
    """muster itself failed, not the program that it was given."""

    exit_code = 125


class Interrupted(MusterError):
    """The person stopped muster before there was anything to end."""

    exit_code = 130
