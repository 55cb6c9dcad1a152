"""Translation of a run's options to a request for PBS, the batch script, and qsub.

From the manuals of OpenPBS 23.06 (qsub(1B), pbs_resources(7B)); not tried on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.config.record import Options
from muster.config.values import clock_of
from muster.linux.shell import ONE_LINE, join
from muster.schedulers import _shared
from muster.schedulers.pbs_options import RUN
from muster.schedulers.scheduler import Refusal, Request, Wish

OURS = {
    **dict.fromkeys(("C", "e", "h", "I", "j", "k", "o", "r", "S", "V", "z", "f"), ""),
    "N": "--name",
    "J": "--array",
    "q": "--queue",
    "A": "--account",
    "P": "--project",
    "v": "--env",
    "l": "--chunk, --place, --time",
}
"""The options of qsub that muster sets itself, each with the option of muster to use instead; empty for none."""

OUTPUTS = ("pbs.out",)
"""The batch script's output in the run directory."""

_DEPENDS = {"ok": "afterok", "any": "afterany", "failed": "afternotok"}


def request(wish: Wish, options: Options) -> Request:
    """Return the request for qsub. Raises `InvalidRequest`."""
    size = _shared.size_of(wish, options, "PBS", "--chunk gpu_model=a100")
    chunk = [f"ncpus={size.cores}", f"mpiprocs={size.each}", *([f"ngpus={size.gpus}"] if size.gpus else [])]
    chunk += [f"mem={size.memory}mb"] if size.memory else []
    chunk += options.value(RUN.chunk)
    place = options.value(RUN.place) or ("scatter" if size.nodes is not None else "free")
    asked = [("l", f"select={size.nodes or size.ranks}:{':'.join(chunk)}"), ("l", f"place={place}")]
    limit = _shared.time_limit(options)
    asked += [("l", f"walltime={clock_of(limit)}")] if limit else []
    given = _shared.own_options(options.table_of("pbs"), options.value(RUN.pbs_opt), OURS, "--pbs-opt", "qsub")
    asked += _shared.values_under({"queue": "q", "account": "A", "project": "P"}, options)
    depends = ",".join(f"{how}:{job}" for how, job in _shared.ended(wish.after, _DEPENDS))
    asked += [("W", f"depend={depends}")] if depends else []
    return _shared.request_of(wish, size, (*asked, *given), _output(wish.run_dir))


def _output(folder: str) -> str:
    """Return the path for `-o`, in which a colon separates a host, and `^array_index^` is replaced."""
    return "/dev/null" if not folder or re.search(r"[:^,\n]", folder) else f"{folder}/{OUTPUTS[0]}"


# ---- submission ------------------------------------------------------------------------------------------------------


def options_of(request: Request) -> list[str]:
    """Return all options of qsub. `-r n`: a job whose node crashed is not started again."""
    words = ["-N", request.name, "-S", "/bin/bash", "-j", "oe", "-o", request.output, "-r", "n"]
    return words + _shared.dashed(request.options)


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script."""
    said = join(("qsub", *options_of(request)), ONE_LINE)
    return _shared.script_of(said, request.env_file, setup, command, keep_python, "PBS may signal")


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Return the command that submits a script. With an empty prefix for `-C`, qsub reads no options in it."""
    return ("qsub", "-C", "", *options_of(request), script)


_REFUSED = (
    ("nknown queue", "list the queues with `qstat -Q`"),
    ("nauthorized", "check `--queue` and `--project`, and the access lists of the queue with `qstat -Qf`"),
    ("violates queue", "see the limits of the queue with `qstat -Qf`"),
    ("nknown resource", "list the resources of a node with `pbsnodes -av`"),
    ("llegal attribute", "check the values of `--chunk` and `--pbs-opt`"),
    ("annot connect", "the PBS server does not answer; try again later"),
)


def refused(err: str) -> Refusal:
    """Return why qsub rejected a job: `qsub: Unknown queue`."""
    return _shared.refusal(err, "^qsub: ", _REFUSED)
