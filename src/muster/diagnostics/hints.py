"""Hints for failures: a pattern in a rank's error output, its most frequent cause, and what to do.

Each failure also gets a domain, and whether a retry can help.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from muster.core.results import SIGTERM, FailureKind, RankExit, TextEnum
from muster.core.root_cause import CASCADE
from muster.diagnostics.deaths import DeathCause, death_of

_SIGILL, _SIGBUS = 4, 7
_EX_TEMPFAIL = 75


class Domain(TextEnum):
    """What a failure is due to."""

    USER_CODE = "user code"
    ENVIRONMENT = "environment"
    """Packages, limits, disks, memory."""
    INFRASTRUCTURE = "infrastructure"
    """Hosts, networks, file systems."""
    UNKNOWN = "unknown"


class Judgement(NamedTuple):
    """What a failure is due to, and whether it may go away."""

    domain: Domain
    retry: bool | None = None
    """Whether the same program may succeed if it is started again; None if unknown."""


_OUT_OF_MEMORY = (
    "use fewer DataLoader workers, a smaller batch or more memory (`--mem`); `muster show` has the peak memory "
    "of each rank"
)


class FailureHint(NamedTuple):
    """A row: a pattern in a rank's error output, and the hint for it, in which `{host}` is where it happened."""

    pattern: str
    text: str
    domain: Domain
    retry: bool | None


FAILURE_HINTS = (
    FailureHint(
        r"HTTPS?ConnectionPool|urllib3|LocalEntryNotFoundError|Couldn't reach",
        "{host} has no internet access, like many compute nodes: download models and data beforehand on another host",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        # the last ones are torch.save's words
        r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+"
        r"|iostream error",
        "a disk of {host} is full, or your quota is exceeded: see `df -h` and `df -i`; {doctor} checks each directory",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"Stale file handle|Transport endpoint is not connected|Input/output error|Read-only file system",
        "a file system of {host} does not work: check `mount` and `dmesg`; {doctor} tries to write to each directory",
        Domain.INFRASTRUCTURE,
        True,
    ),
    FailureHint(
        r"(FileNotFoundError|PermissionError)(.|\n)*multiprocessing/synchronize\.py",
        "multiprocessing needs /dev/shm for its locks, which {host} does not have, or not for this user: "
        "mount it with `mount -t tmpfs -o size=8g tmpfs /dev/shm`, or use num_workers=0",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"DataLoader worker .* Bus error|unable to (open|allocate) shared memory|insufficient shared memory|torch_shm",
        "/dev/shm of {host} is too small: start the container with `--shm-size=8g`, or use fewer DataLoader workers",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"DataLoader worker .*(killed by signal: Killed|exited unexpectedly)",
        "a DataLoader worker was killed, often by the kernel for lack of memory: use fewer workers, or more memory "
        "(`dmesg` on {host} shows it)",
        Domain.ENVIRONMENT,
        None,
    ),
    FailureHint(
        r"undefined symbol|version `\w+_[\d.]+' not found|incompatible with|built for",
        "a compiled extension does not fit the libraries of {host}: build it again for this torch",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"Too many open files|received \d+ items of ancdata",
        "limit of open files reached on {host}: add --setup 'ulimit -n 65536', or call "
        "torch.multiprocessing.set_sharing_strategy('file_system')",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"can't start new thread|BlockingIOError: \[Errno 11\]|fork: (retry|Resource temporarily unavailable)",
        "limit of processes reached on {host}: check `ulimit -u`; {doctor} checks the limits",
        Domain.ENVIRONMENT,
        None,
    ),
    FailureHint(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "use a smaller batch, or free the GPU: see `nvidia-smi` on {host}; {doctor} checks its memory",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"invalid device ordinal|invalid device id",
        "more ranks than GPUs on {host}, or wrong CUDA_VISIBLE_DEVICES: `muster check` shows the GPU of each rank",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"Duplicate GPU detected",
        "two ranks use one GPU: call `torch.cuda.set_device(int(os.environ['LOCAL_RANK']))` before init_process_group",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"device-side assert triggered|an illegal memory access was encountered",
        "CUDA reports errors late: with `--env CUDA_LAUNCH_BLOCKING=1` the traceback ends at the call that failed, "
        "often an index out of range",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"driver version is insufficient|no NVIDIA driver|driver on your system is too old|no CUDA-capable device",
        "the driver of {host} is too old for this torch, or there is no GPU: {doctor} compares versions",
        Domain.ENVIRONMENT,
        False,
    ),
    FailureHint(
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname",
        "{host} cannot resolve a name: run `getent hosts NAME` on it; {doctor} resolves all names on all hosts",
        Domain.INFRASTRUCTURE,
        True,
    ),
    FailureHint(
        r"no socket interface found|Bootstrap : no|ncclInternalError|NCCL error.*(unhandled system|invalid usage)",
        "NCCL cannot connect: NCCL_DEBUG=INFO prints the interface it uses; {doctor} checks variables and limits",
        Domain.INFRASTRUCTURE,
        None,
    ),
    FailureHint(
        r"connectFullMesh|(gloo|NCCL|TCPStore|c10d|socket\.cpp).*(No route to host|timed out|unreachable)",
        "the hosts cannot connect on the interface in use: {doctor} tests each connection",
        Domain.INFRASTRUCTURE,
        True,
    ),
    FailureHint(
        r"(?i)(c10d|TCPStore|DistNetworkError|server socket).*(Address already in use|EADDRINUSE)"
        r"|EADDRINUSE.*(c10d|TCPStore|server socket)",
        "the script uses a fixed port for the rendezvous: use MASTER_PORT, a free port chosen by muster",
        Domain.USER_CODE,
        None,
    ),
    FailureHint(
        r"Address already in use|EADDRINUSE",
        "another process of {host} listens on that port: `ss -ltnp` shows which; let the system choose a free port (0)",
        Domain.ENVIRONMENT,
        None,
    ),
    FailureHint(
        r"EOFError: EOF when reading a line|bdb\.BdbQuit",
        "stdin is /dev/null if there are several ranks or no terminal (-d, a queued job); "
        "use `--stdin 0` to let rank 0 read this terminal",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"(?i)\bloss\b.{0,20}\b(nan|inf|infinity|not finite|non-finite)\b|non-finite loss",
        "a NaN or an infinity spreads to all ranks with the next collective, so the rank that had it first is unknown: "
        "print the loss of each rank before it is reduced",
        Domain.USER_CODE,
        None,
    ),
    FailureHint(
        r"(?m)^terminate called without an active exception$",
        "often a thread that asked for Python's lock while the interpreter exited, such as one of torch's that still "
        "held a tensor: call torch.distributed.destroy_process_group() at the end of the script",
        Domain.USER_CODE,
        True,
    ),
    FailureHint(
        r"Error while finding module specification for|python\S*: No module named [^'\s]+"
        r"|is a package and cannot be directly executed",
        "`-m` needs the name of a module that can be started from the working directory (`--cwd`) or is installed for "
        "the Python of the ranks; for a file, leave out `-m`",
        Domain.USER_CODE,
        False,
    ),
    FailureHint(
        r"ModuleNotFoundError: No module named",
        "install the missing module for the Python of the ranks, or choose another Python with `--python` or `--setup`",
        Domain.ENVIRONMENT,
        False,
    ),
)
"""The first match is used."""

_SAME_AGAIN = frozenset(
    (
        *("NameError", "UnboundLocalError", "AttributeError", "TypeError", "NotImplementedError", "RecursionError"),
        *("SyntaxError", "IndentationError", "TabError", "ImportError", "ModuleNotFoundError", "AssertionError"),
        *("ValueError", "KeyError", "IndexError", "ZeroDivisionError", "FloatingPointError", "OverflowError"),
        *("FileNotFoundError", "NotADirectoryError", "IsADirectoryError", "PermissionError"),
        *("UnicodeDecodeError", "UnicodeEncodeError"),
    )
)
"""Exceptions that the same code and data raise again; others, such as ConnectionError, may be transient."""

_MEMORY = (DeathCause.OOM, DeathCause.OOM_NEARBY)


def hint_for(end: RankExit, host: str = "", several: bool = False) -> str:
    """Return the hint for the rank that failed first; empty if there is none."""
    if death_of(end).cause in _MEMORY:
        return _OUT_OF_MEMORY
    row = _row_for(end)
    if row is None:
        return ""
    if row.text.startswith("a DataLoader worker was killed") and end.facts is not None and end.facts.machine_kills == 0:
        return ""  # the kernel did not kill it, which the report says
    doctor = "`muster doctor` with the same --hosts" if several else "`muster doctor`"
    return row.text.format(host=host if several and host else "this machine", doctor=doctor)


def judgement_of(end: RankExit) -> Judgement:
    """Return what the failure of a rank is due to."""
    if death_of(end).cause in _MEMORY:
        return Judgement(Domain.ENVIRONMENT, False)
    row = _row_for(end)
    if row is not None:
        return Judgement(row.domain, row.retry)
    kind = end.failure.kind if end.failure is not None else None
    if kind is FailureKind.EXCEPTION and end.signal in (None, SIGTERM):
        name = end.failure.summary.partition(":")[0].rpartition(".")[2] if end.failure is not None else ""
        return Judgement(Domain.USER_CODE, False if name in _SAME_AGAIN else None)
    if kind in CASCADE and end.signal is None:
        network = kind in (FailureKind.PEER_LOST, FailureKind.NO_CONNECTION)
        return Judgement(Domain.INFRASTRUCTURE, True) if network else Judgement(Domain.UNKNOWN)
    if kind is FailureKind.ABSENT or end.ok:
        return Judgement(Domain.USER_CODE)
    if end.signal == _SIGILL:
        return Judgement(Domain.ENVIRONMENT, False)
    if end.code == _EX_TEMPFAIL:
        return Judgement(Domain.UNKNOWN, True)
    return Judgement(Domain.UNKNOWN)


def _row_for(end: RankExit) -> FailureHint | None:
    if end.signal == _SIGBUS:
        full = end.facts is not None and any(disk.path == "/dev/shm" for disk in end.facts.full)
        words = "unable to open shared memory" if full else ""
    elif end.failure is not None and end.failure.kind is not FailureKind.NEVER_REGISTERED:
        words = "\n".join((end.failure.summary, *end.failure.frames[-6:]))
    else:
        return None
    return next((row for row in FAILURE_HINTS if words and re.search(row.pattern, words)), None)
