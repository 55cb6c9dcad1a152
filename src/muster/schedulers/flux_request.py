"""Translation of a run's options to a request for Flux, the batch script, and `flux batch`.

From the manual page flux-batch(1) of flux-core 0.7x and later; not tried on a real one.
"""

from __future__ import annotations

from collections.abc import Sequence

from muster.config.record import Options
from muster.errors import InvalidRequest
from muster.linux.shell import ONE_LINE, join
from muster.schedulers import _shared
from muster.schedulers.flux_options import RUN
from muster.schedulers.scheduler import Refusal, Request, Wish

OURS = {
    **dict.fromkeys(("n", "nslots"), "-N, -g"),
    **dict.fromkeys(("N", "nodes"), "-N"),
    **dict.fromkeys(("c", "cores-per-slot"), "--cpus-per-task"),
    **dict.fromkeys(("g", "gpus-per-slot"), "--gpus-per-node"),
    **dict.fromkeys(("output", "error", "input", "wrap", "dry-run", "quiet"), ""),
    "bank": "--account",
    "env": "--env",
    "cwd": "--cwd",
    "job-name": "--name",
    "queue": "--queue",
    "q": "--queue",
    "t": "--time",
    "time-limit": "--time",
    "requires": "--constraint",
    "exclusive": "--exclusive",
    "x": "--exclusive",
}
"""The options of `flux batch` that muster sets itself, each with the options of muster to use instead.

`-B` (of the brokers), `-o` and `-S` are the user's. `--quiet` would hide the job id.
"""

OUTPUTS = ("flux-%j.out",)
"""The batch script's output in the run directory; `%j` is the job id."""

_DEPENDS = {"ok": "afterok", "any": "afterany", "failed": "afternotok"}


def request(wish: Wish, options: Options) -> Request:
    """Return the request for `flux batch`, with one slot for each node. Raises `InvalidRequest`."""
    size = _shared.size_of(wish, options, "Flux", "--constraint a100")
    if size.nodes is not None:
        asked = [("nodes", str(size.nodes)), ("nslots", str(size.nodes)), ("cores-per-slot", str(size.cores))]
        asked += [("gpus-per-slot", str(size.gpus))] if size.gpus else []
    else:
        asked = [("nslots", str(size.ranks)), ("cores-per-slot", "1")]
    limit = _shared.time_limit(options)
    asked += [("time-limit", f"{limit}s")] if limit else []
    asked += _shared.values_under({"queue": "queue", "account": "bank", "constraint": "requires"}, options)
    if _shared.value_of(options, "exclusive"):
        if size.nodes is None:
            raise InvalidRequest("--exclusive requires the number of nodes", "add `-N NODES`")
        asked += [("exclusive", "")]
    asked += [("dependency", f"{how}:{job}") for how, job in _shared.ended(wish.after, _DEPENDS)]
    given = _shared.own_options(options.table_of("flux"), options.value(RUN.flux_opt), OURS, "--flux-opt", "flux batch")
    return _shared.request_of(wish, size, (*asked, *given), _output(wish.run_dir))


def _output(folder: str) -> str:
    """Return the path for `--output`, in which Flux replaces `{{id}}`."""
    return "/dev/null" if not folder or "{{" in folder else f"{folder}/flux-{{{{id.f58plain}}}}.out"


# ---- submission ------------------------------------------------------------------------------------------------------


def options_of(request: Request) -> list[str]:
    """Return all options of `flux batch`."""
    words = [f"--job-name={request.name}", f"--output={request.output}"]
    for name, value in request.options:
        words += _shared.dashed([(name, value)]) if len(name) == 1 else [f"--{name}={value}" if value else f"--{name}"]
    return words


def batch_script(request: Request, setup: Sequence[str], command: Sequence[str], keep_python: bool = False) -> str:
    """Return the script."""
    said = join(("flux", "batch", *options_of(request)), ONE_LINE)
    return _shared.script_of(said, "", setup, command, keep_python, "Flux may signal")


def submit(request: Request, script: str) -> tuple[str, ...]:
    """Return the command that submits a script."""
    return ("flux", "batch", *options_of(request), script)


def submitted(out: str) -> str:
    """Return the job id, with an `f` in place of the letter that only some terminals show."""
    return _shared.job_id(out.replace("ƒ", "f"))


_REFUSED = (
    ("Invalid queue", "list the queues with `flux queue list`"),
    ("invalid queue", "list the queues with `flux queue list`"),
    ("unsatisfiable", "see what there is with `flux resource list`"),
    ("requires", "list the properties with `flux resource list -o {propertiesx}`"),
    ("bank", "list your banks with `flux account view-user`"),
    ("connect", "set FLUX_URI, or run this on a login node of the cluster"),
)


def refused(err: str) -> Refusal:
    """Return why a job was rejected: `flux-batch: ERROR: [Errno 22] Invalid queue 'x' specified`."""
    return _shared.refusal(err, "^.*ERROR: ", _REFUSED)
