"""Translation of a run's options to a request for LSF, the batch script, and bsub.

After IBM Spectrum LSF 10.1 (bsub), as far as its documentation was at hand; not tried on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.config.record import Options
from muster.linux.shell import ONE_LINE, join
from muster.schedulers import _shared
from muster.schedulers.lsf_options import RUN
from muster.schedulers.scheduler import Refusal, Request, Wish

OURS = {
    **dict.fromkeys(("e", "eo", "env", "I", "Ip", "Is", "K", "L", "o", "oo", "r", "rn"), ""),
    "J": "--name",
    "n": "-N, -g",
    "q": "--queue",
    "P": "--project",
    "W": "--time",
    "x": "--exclusive",
    "m": "--nodelist",
    "gpu": "--gpus-per-node",
    "cwd": "--cwd",
}
"""The options of bsub that muster sets itself, each with the option of muster to use instead; empty for none."""

OUTPUTS = ("lsf-%j.out",)
"""The batch script's output in the run directory; `%j` is the job id."""


def request(wish: Wish, options: Options) -> Request:
    """Return the request for bsub. Raises `InvalidRequest`.

    A slot is a core in most clusters. So a host gets as many slots as it has cores or ranks, whichever are more.
    """
    size = _shared.size_of(wish, options, "LSF", "--lsf-opt 'R=select[a100]'")
    each = max(size.cores, size.each)
    slots = size.nodes * each if size.nodes is not None else size.ranks
    asked = [("n", str(slots))]
    asked += [("R", f"span[ptile={each}]")] if size.nodes is not None else []
    asked += [("R", f"rusage[mem={size.memory}MB/host]")] if size.memory else []
    asked += [("gpu", f"num={size.gpus}")] if size.gpus else []
    limit = _shared.time_limit(options)
    if limit is not None:
        minutes = max(-(-limit // 60), 1)
        asked += [("W", f"{minutes // 60}:{minutes % 60:02}")]
    asked += _shared.values_under({"queue": "q", "project": "P"}, options)
    hosts = _shared.value_of(options, "nodelist")
    asked += [("m", str(hosts).replace(",", " "))] if hosts else []
    asked += [("x", "")] if _shared.value_of(options, "exclusive") else []
    depends = " && ".join(f"{how}({job})" for how, job in _shared.ended(wish.after, _DEPENDS))
    asked += [("w", depends)] if depends else []
    given = _shared.own_options(options.table_of("lsf"), options.value(RUN.lsf_opt), OURS, "--lsf-opt", "bsub")
    return _shared.request_of(wish, size, (*asked, *given), _output(wish.run_dir))


_DEPENDS = {"ok": "done", "any": "ended", "failed": "exit"}


def _output(folder: str) -> str:
    """Return the path for `-o`, in which bsub replaces `%J` and other letters after a percent sign."""
    return "/dev/null" if not folder or "%" in folder else f"{folder}/lsf-%J.out"


# ---- submission ------------------------------------------------------------------------------------------------------


def options_of(request: Request) -> list[str]:
    """Return all options of bsub. `-rn`: a job whose host crashed is not started again."""
    words = ["-J", request.name, "-o", request.output, "-rn"]
    return words + _shared.dashed(request.options)


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script."""
    return _shared.script_of(
        join(("bsub", *options_of(request)), ONE_LINE), "", setup, command, keep_python, "LSF may signal"
    )


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Return the command that submits a script. As an argument it is a command, in which bsub reads no options."""
    return ("bsub", *options_of(request), "/bin/bash", script)


def submitted(out: str) -> str:
    """Return the job id of `Job <12> is submitted to queue <normal>.`; a site may print its own text.

    Raises `ControlError`.
    """
    found = re.findall(r"Job <(\d+)>", out)
    if not found:
        raise _shared.no_id(" ".join(out.split()))
    return _shared.job_id(found[-1])


_REFUSED = (
    ("No such queue", "list the queues with `bqueues`"),
    ("cannot use the queue", "list the queues that you can use with `bqueues -u $USER`"),
    ("Bad resource requirement", "check the values of `--lsf-opt R=…`"),
    ("project", "list the projects with `bproj`, or ask an administrator"),
    ("RUNLIMIT", "see the limits of the queue with `bqueues -l`"),
    ("LSF is down", "mbatchd does not answer; try again later"),
)


def refused(err: str) -> Refusal:
    """Return why bsub rejected a job: `nosuch: No such queue. Job not submitted.`"""
    return _shared.refusal(err, r"[. ]*(Request aborted by esub|Job not submitted)\.?$", _REFUSED)
