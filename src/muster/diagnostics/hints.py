"""Hints for failures: a pattern in a rank's error output, its most frequent cause, and what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.results import FailureKind, RankExit
from muster.diagnostics.deaths import DeathCause, death_of

_BUS_ERROR = 7

_OUT_OF_MEMORY = (
    "use fewer DataLoader workers, a smaller batch or more memory (`--mem`); `muster show` has the peak memory "
    "of each rank"
)


class FailureHint(NamedTuple):
    """A row: a pattern in a rank's error output, and the hint for it, in which `{host}` is where it happened."""

    pattern: str
    text: str


FAILURE_HINTS = (
    FailureHint(
        r"HTTPS?ConnectionPool|urllib3|LocalEntryNotFoundError|Couldn't reach",
        "{host} has no internet access, like many compute nodes: download models and data beforehand on another host",
    ),
    FailureHint(
        r"No space left on device|Disk quota exceeded",
        "a disk of {host} is full, or your quota is exceeded: see `df -h` and `df -i`; {doctor} checks each directory",
    ),
    FailureHint(
        r"Stale file handle|Transport endpoint is not connected|Input/output error|Read-only file system",
        "a file system of {host} does not work: check `mount` and `dmesg`; {doctor} tries to write to each directory",
    ),
    FailureHint(
        r"DataLoader worker .* Bus error|unable to (open|allocate) shared memory|insufficient shared memory|torch_shm",
        "/dev/shm of {host} is too small: start the container with `--shm-size=8g`, or use fewer DataLoader workers",
    ),
    FailureHint(
        r"Too many open files|received \d+ items of ancdata",
        "limit of open files reached on {host}: add --setup 'ulimit -n 65536', or call "
        "torch.multiprocessing.set_sharing_strategy('file_system')",
    ),
    FailureHint(
        r"can't start new thread|BlockingIOError: \[Errno 11\]|fork: (retry|Resource temporarily unavailable)",
        "limit of processes reached on {host}: check `ulimit -u`; {doctor} checks the limits",
    ),
    FailureHint(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "use a smaller batch, or free the GPU: see `nvidia-smi` on {host}; {doctor} checks its memory",
    ),
    FailureHint(
        r"invalid device ordinal|invalid device id",
        "more ranks than GPUs on {host}, or wrong CUDA_VISIBLE_DEVICES: `muster check` shows the GPU of each rank",
    ),
    FailureHint(
        r"Duplicate GPU detected",
        "two ranks use one GPU: call `torch.cuda.set_device(int(os.environ['LOCAL_RANK']))` before init_process_group",
    ),
    FailureHint(
        r"device-side assert triggered|an illegal memory access was encountered",
        "CUDA reports errors late: with `--env CUDA_LAUNCH_BLOCKING=1` the traceback ends at the call that failed, "
        "often an index out of range",
    ),
    FailureHint(
        r"driver version is insufficient|no NVIDIA driver|driver on your system is too old|no CUDA-capable device",
        "the driver of {host} is too old for this torch, or there is no GPU: {doctor} compares versions",
    ),
    FailureHint(
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname",
        "{host} cannot resolve a name: run `getent hosts NAME` on it; {doctor} resolves all names on all hosts",
    ),
    FailureHint(
        r"no socket interface found|Bootstrap : no|ncclInternalError|NCCL error.*(unhandled system|invalid usage)",
        "NCCL cannot connect: NCCL_DEBUG=INFO prints the interface it uses; {doctor} checks variables and limits",
    ),
    FailureHint(
        r"connectFullMesh|(gloo|NCCL|TCPStore|c10d|socket\.cpp).*(No route to host|timed out|unreachable)",
        "the hosts cannot connect on the interface in use: {doctor} tests each connection",
    ),
    FailureHint(
        r"Address already in use|EADDRINUSE",
        "the script uses a fixed port: use MASTER_PORT, a free port chosen by muster",
    ),
    FailureHint(
        r"EOFError: EOF when reading a line|bdb\.BdbQuit",
        "stdin is /dev/null if there are several ranks or no terminal (-d, a queued job); "
        "use `--stdin 0` to let rank 0 read this terminal",
    ),
    FailureHint(
        r"ModuleNotFoundError: No module named",
        "install it for the Python of the ranks, or choose another Python with `--python` or `--setup`",
    ),
)
"""The first match is used."""


def hint_for(end: RankExit, host: str = "", several: bool = False) -> str:
    """Return the hint for the rank that failed first; empty if there is none."""
    if death_of(end).cause in (DeathCause.OOM, DeathCause.OOM_NEARBY):
        return _OUT_OF_MEMORY
    elif end.signal == _BUS_ERROR:
        full = end.facts is not None and any(disk.path == "/dev/shm" for disk in end.facts.full)
        words = "unable to open shared memory" if full else ""
    elif end.failure is not None and end.failure.kind is not FailureKind.NEVER_REGISTERED:
        words = "\n".join((end.failure.summary, *end.failure.frames[-4:]))
    else:
        return ""
    doctor = "`muster doctor` with the same --hosts" if several else "`muster doctor`"
    for row in FAILURE_HINTS:
        if re.search(row.pattern, words):
            return row.text.format(host=host if several and host else "this machine", doctor=doctor)
    return ""
