"""Grid Engine batch jobs: the script, and the command lines to submit and delete jobs. Tested with 8.1.9."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.agent.bootstrap import shell_script
from muster.linux.shell import ONE_LINE, join, quote
from muster.schedulers.scheduler import Refusal, Request


def options(request: Request) -> list[str]:
    """Return all options of qsub.

    `-notify`: SIGUSR2 comes some time before SIGKILL. `-r n`: a job whose node crashed is not started again.
    """
    words = ["-N", request.name, "-S", "/bin/bash", "-j", "y", "-o", request.output, "-notify", "-r", "n"]
    if request.output != "/dev/null":
        words += ["-wd", request.output.rpartition("/")[0]]
    for name, value in request.options:
        words += ["-pe", value, str(request.tasks)] if name == "pe" else [f"-{name}", *([value] if value else [])]
    return words


_HEAD = """#!/bin/bash{login}
# submitted with: qsub {options}
{environment}# Grid Engine signals all processes of the job; muster decides what to do
trap : USR1 USR2 XCPU TERM
(
{start}
)
code=$?
# 99 and 100 have a meaning of their own to Grid Engine: start the job again, and keep it in an error state
case $code in 99|100) code=1 ;; esac
exit $code
"""


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script: the job's environment, the user's setup lines, and muster.

    The first word of `command` is a Python; see `shell_script` for `keep_python`. The options are on the command line
    of qsub alone, since `#$` lines of a user's setup must not be read as options.
    """
    file = quote(request.env_file)
    start = shell_script(command, setup, keep_python, "error: ").rstrip() if setup else f"exec {join(command)}"
    said = join(options(request), ONE_LINE)
    if "pe" not in dict(request.options):
        said += f"  (and a parallel environment that gives {request.tasks} slots)"
    return _HEAD.format(
        login=" -l" if setup else "",
        options=said,
        environment=f". {file} && rm -f {file}\n" if request.env_file else "",
        start=start,
    )


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Return the command that submits a script; `job_id` parses its output."""
    return ("qsub", "-terse", "-C", "", *options(request), script)


_REFUSED = (
    ("parallel environment", "list the parallel environments with `qconf -spl`"),
    ("unknown queue", "list the queues with `qconf -sql`"),
    ("unknown resource", "list the resources with `qconf -sc`"),
    (
        "no suitable queues",
        "no nodes have such slots and resources in a queue of that parallel environment; `--sge-opt w=n` waits",
    ),
    ("project", "list the projects with `qconf -sprjl`"),
    ("send message to qmaster", "sge_qmaster does not answer; try again later"),
)


def refused(err: str) -> Refusal:
    """Return why qsub rejected a job: `Unable to run job: REASON.` and `Exiting.`"""
    lines = [line.strip() for line in err.splitlines() if line.strip() not in ("", "Exiting.")]
    words = re.sub(r"^Unable to run job: (?:job rejected: |error: )?", "", lines[-1]) if lines else "no error message"
    return Refusal(words, next((hint for said, hint in _REFUSED if said in err), None))


def cancel(job: str) -> tuple[str, ...]:
    """Return the command that deletes a job."""
    return ("qdel", job)
