"""Checks of a request before anything starts: this machine's limits, and signals."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.plurals import plural
from muster.errors import InvalidRequest
from muster.linux.hardware import read as _read


def check_signals(names: Sequence[str]) -> None:
    """Raise `InvalidRequest` for a signal that muster cannot forward."""
    import signal

    known = signal.Signals.__members__.keys() - {"SIGKILL", "SIGSTOP", "SIGCHLD"}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise InvalidRequest(
            f"--signals-to-handle {','.join(wrong)}: unknown signal, or one that cannot be handled",
            "list the signals with `kill -l`",
        )


def check_limits(ranks: int) -> None:
    """Raise `InvalidRequest` if this machine does not allow that many ranks."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    bounds = {"limit of processes of a user (`ulimit -u`)": soft}
    for path, words in (
        ("/proc/sys/kernel/pid_max", "limit of processes of the kernel (kernel.pid_max)"),
        ("/proc/sys/kernel/threads-max", "limit of threads of the kernel (kernel.threads-max)"),
        ("/sys/fs/cgroup/pids.max", "limit of processes of this container (pids.max)"),
    ):
        text = _read(path).strip()
        if text.isdecimal():
            bounds[words] = int(text)
    for words, bound in bounds.items():
        if bound != resource.RLIM_INFINITY and ranks + 32 > bound:
            raise InvalidRequest(
                f"cannot start {plural(ranks, 'rank')} on this machine: the {words} is {bound}",
                "use fewer ranks",
            )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if ranks + 64 > files:
        raise InvalidRequest(
            f"{plural(ranks, 'rank requires', 'ranks require')} about {ranks + 64} open files each, one per peer"
            f"; the limit is {files}",
            f"raise it with `ulimit -n {ranks + 1024}`, or use fewer ranks",
        )
