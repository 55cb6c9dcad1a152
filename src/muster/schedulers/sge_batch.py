"""Grid Engine batch jobs: the script, and the command lines to submit and delete jobs. Tested with 8.1.9."""

from __future__ import annotations

from collections.abc import Sequence

from muster.linux.shell import ONE_LINE, join
from muster.schedulers import _shared
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


_END = """code=$?
# 99 and 100 have a meaning of their own to Grid Engine: start the job again, and keep it in an error state
case $code in 99|100) code=1 ;; esac
exit $code"""


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script; see `script_of`. `#$` lines of a user's setup must not be read as options."""
    said = join(options(request), ONE_LINE)
    if "pe" not in dict(request.options):
        said += f"  (and a parallel environment that gives {request.tasks} slots)"
    return _shared.script_of(
        f"qsub {said}",
        request.env_file,
        setup,
        command,
        keep_python,
        "Grid Engine signals",
        caught="USR1 USR2 XCPU TERM",
        end=_END,
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
    reasons = "\n".join(line for line in err.splitlines() if line.strip() != "Exiting.")
    return _shared.refusal(reasons, r"^Unable to run job: (?:job rejected: |error: )?", _REFUSED)


def cancel(job: str) -> tuple[str, ...]:
    """Return the command that deletes a job."""
    return ("qdel", job)
