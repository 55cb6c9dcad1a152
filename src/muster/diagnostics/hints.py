"""What the doctor has to say of a failure: the words of a rank, what most often stands behind them, what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.results import FailureKind, RankExit

_BUS_ERROR = 7


class FailureHint(NamedTuple):
    """A row: words that ranks leave, and the sentence for them, in which `{host}` is where it happened."""

    pattern: str
    text: str


FAILURE_HINTS = (
    FailureHint(
        r"HTTPS?ConnectionPool|urllib3|LocalEntryNotFoundError|Couldn't reach",
        "{host} has no way to the internet, as compute nodes often: fetch models and data before, on one that has",
    ),
    FailureHint(
        r"No space left on device|Disk quota exceeded",
        "a disk of {host} is full, or your share of it: `df -h` and `df -i` there; {doctor} looks at each folder",
    ),
    FailureHint(
        r"Stale file handle|Transport endpoint is not connected|Input/output error|Read-only file system",
        "a file system of {host} does not work: `mount` and `dmesg` there; {doctor} tries to write in each folder",
    ),
    FailureHint(
        r"DataLoader worker .* Bus error|unable to (open|allocate) shared memory|insufficient shared memory|torch_shm",
        "/dev/shm of {host} is too small or full: in a container `--shm-size=8g`, else fewer DataLoader workers",
    ),
    FailureHint(
        r"Too many open files|received \d+ items of ancdata",
        "more files than {host} allows: `ulimit -n 65536` in --setup, or "
        "torch.multiprocessing.set_sharing_strategy('file_system')",
    ),
    FailureHint(
        r"can't start new thread|BlockingIOError: \[Errno 11\]|fork: (retry|Resource temporarily unavailable)",
        "more processes or threads than {host} allows: `ulimit -u` there; {doctor} looks at the limits",
    ),
    FailureHint(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "a smaller batch, or somebody else is on that GPU: `nvidia-smi` on {host}; {doctor} looks at who is",
    ),
    FailureHint(
        r"invalid device ordinal|invalid device id",
        "more ranks than GPUs on {host}, or CUDA_VISIBLE_DEVICES: `muster check` shows which rank has which GPU",
    ),
    FailureHint(
        r"Duplicate GPU detected",
        "two ranks on one GPU: `torch.cuda.set_device(int(os.environ['LOCAL_RANK']))` before the process group",
    ),
    FailureHint(
        r"device-side assert triggered|an illegal memory access was encountered",
        "CUDA reports errors late: with `--env CUDA_LAUNCH_BLOCKING=1` the traceback ends at the call that failed, "
        "often an index out of range",
    ),
    FailureHint(
        r"driver version is insufficient|no NVIDIA driver|driver on your system is too old|no CUDA-capable device",
        "the driver of {host} does not fit this torch, or there is no GPU: {doctor} compares versions",
    ),
    FailureHint(
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname",
        "{host} has no address for a name: `getent hosts NAME` there; {doctor} looks up all names on all hosts",
    ),
    FailureHint(
        r"no socket interface found|Bootstrap : no|ncclInternalError|NCCL error.*(unhandled system|invalid usage)",
        "NCCL finds no way: NCCL_DEBUG=INFO says which interface it took; {doctor} looks at variables and limits",
    ),
    FailureHint(
        r"connectFullMesh|(gloo|NCCL|TCPStore|c10d|socket\.cpp).*(No route to host|timed out|unreachable)",
        "the hosts do not reach each other on the interface that was taken: {doctor} tries each way",
    ),
    FailureHint(
        r"Address already in use|EADDRINUSE",
        "the script chose that port by itself: take MASTER_PORT, which muster has found free",
    ),
    FailureHint(
        r"EOFError: EOF when reading a line|bdb\.BdbQuit",
        "of several ranks each finds an empty stdin, and so does one without a terminal (-d, a job in the queue); "
        "`--stdin 0` has rank 0 read this terminal",
    ),
    FailureHint(
        r"ModuleNotFoundError: No module named",
        "install it for the Python of the ranks, or choose another one: `--python`, `--setup`",
    ),
)
"""The first that fits is said."""


def hint_for(end: RankExit, host: str = "", several: bool = False) -> str:
    """What the doctor has to say of the rank that failed first; empty when that is nothing."""
    if end.signal == _BUS_ERROR:
        words = "unable to open shared memory"
    elif end.failure is not None and end.failure.kind is not FailureKind.NEVER_REGISTERED:
        words = "\n".join((end.failure.summary, *end.failure.frames[-4:]))
    else:
        return ""
    doctor = "`muster doctor` with the same --hosts" if several else "`muster doctor`"
    for row in FAILURE_HINTS:
        if re.search(row.pattern, words):
            return row.text.format(host=host if several and host else "this machine", doctor=doctor)
    return ""
