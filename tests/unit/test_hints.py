"""Doctor's advice in the report of a run, for real output of ranks."""

from __future__ import annotations

import pytest

from muster.core.results import DiskSpace, ExitFacts, Failure, FailureKind, RankExit
from muster.diagnostics.hints import FAILURE_HINTS, Domain, hint_for, judgement_of

WORDS = {
    "requests.exceptions.ConnectTimeout: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded "
    "(Caused by ConnectTimeoutError('Connection to example.org timed out. (connect timeout=10)'))": "n2 has no",
    "OSError: [Errno 28] No space left on device: '/scratch/ckpt.pt'": "a disk of n2 is full",
    "RuntimeError: [enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/0: "
    "file write failed: No space left on device": "a disk of n2 is full",
    "OSError: [Errno 116] Stale file handle: 'data.bin'": "a file system of n2 does not work",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit.": "/dev/shm of n2 is too small",
    "FileNotFoundError: [Errno 2] No such file or directory\n"
    '  File "/usr/lib/python3.11/multiprocessing/synchronize.py", line 57, in __init__\n'
    "    sl = self._semlock = _multiprocessing.SemLock(": "multiprocessing needs /dev/shm",
    "OSError: [Errno 24] Too many open files: 'shard-001.tar'": "limit of open files reached on n2",
    "RuntimeError: can't start new thread": "limit of processes reached on n2",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.": "use a smaller batch",
    "torch.AcceleratorError: CUDA error: invalid device ordinal": "more ranks than GPUs on n2",
    "torch.distributed.DistBackendError: NCCL error in: ../NCCLUtils.hpp:268, invalid usage, NCCL version 2.21.5\n"
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000": "two ranks use one GPU",
    "torch.AcceleratorError: CUDA error: device-side assert triggered": "CUDA reports errors late",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).": "the driver of n2 is too old",
    "socket.gaierror: [Errno -2] Name or service not known": "n2 cannot resolve a name",
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error\nGloo connectFullMesh failed "
    "with connect: No route to host": "the hosts cannot connect",
    "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22": "a disk of n2 is full",
    "OSError: [Errno 98] Address already in use": "another process of n2 listens",
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: "
    "29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use": "the script uses a fixed",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.": "a DataLoader worker was killed",
    "ImportError: /work/fused_ops.so: undefined symbol: _ZN2at4_ops": "a compiled extension does not fit",
    "EOFError: EOF when reading a line": "stdin is /dev/null",
    "FloatingPointError: loss is nan at step 9": "a NaN or an infinity spreads",
    "ValueError: non-finite loss": "a NaN or an infinity spreads",
    "bdb.BdbQuit": "stdin is /dev/null",
    "/usr/bin/python3: Error while finding module specification for 'a.b' (ModuleNotFoundError: No module named 'a')": (
        "`-m` needs the name of a module"
    ),
    "python3.11: No module named json.__main__; 'json' is a package and cannot be directly executed": "`-m` needs",
    "/opt/venv/bin/python: No module named train": "`-m` needs the name of a module",
    "ModuleNotFoundError: No module named 'wandb'": "install the missing module for the Python of the ranks",
    "terminate called without an active exception": "often a thread that asked for Python's lock",
}


def end(words: str, **more: object) -> RankExit:
    first, *rest = words.split("\n")
    return RankExit(3, 1, 1.0, code=1, failure=Failure(FailureKind.EXCEPTION, 1.0, first, (first, *rest)))._replace(
        **more
    )


@pytest.mark.parametrize("words", WORDS)
def test_messages_that_the_doctor_knows(words: str) -> None:
    assert hint_for(end(words), "n2", several=True).startswith(WORDS[words])


def test_the_rest_is_left_to_the_user() -> None:
    assert "" == hint_for(end("ValueError: bad batch 17"), "n2", several=True)
    assert "" == hint_for(RankExit(3, 1, 1.0, code=3))
    never = Failure(FailureKind.NEVER_REGISTERED, 1.0, "mpirun: No space left on device")
    assert "" == hint_for(RankExit(3, 1, 1.0, code=1, failure=never)), "that sentence is complete"


def test_a_bus_error_leaves_no_words() -> None:
    """The facts say whether /dev/shm was full; without them nothing is guessed."""
    shm, data = DiskSpace("/dev/shm", 64 << 20, 0), DiskSpace("/data", 64 << 20, 0)
    bus_error = RankExit(3, 1, 1.0, signal=7, facts=ExitFacts(full=(shm,)))
    assert hint_for(bus_error).startswith("/dev/shm of this machine is too small")
    for facts in (None, ExitFacts(), ExitFacts(full=(data,))):
        assert "" == hint_for(bus_error._replace(facts=facts))


def test_the_oom_killer_leaves_no_words() -> None:
    killed = ExitFacts(pid=7, kernel_log=True, kernel=("Out of memory: Killed process 7 (python3)",))
    assert "--mem" in hint_for(RankExit(3, 1, 1.0, signal=9, facts=killed))
    assert "" == hint_for(RankExit(3, 1, 1.0, signal=9))


DOMAINS = [
    (end("ValueError: bad batch 17"), Domain.USER_CODE, False),
    (end("builtins.KeyError: 'x'"), Domain.USER_CODE, False),
    (end("ConnectionError: db down"), Domain.USER_CODE, None),
    (end("requests.exceptions.ReadTimeout: 30s"), Domain.USER_CODE, None),
    (end("OSError: [Errno 28] No space left on device"), Domain.ENVIRONMENT, False),
    (end("OSError: [Errno 116] Stale file handle: 'data.bin'"), Domain.INFRASTRUCTURE, True),
    (RankExit(3, 1, 1.0, code=75), Domain.UNKNOWN, True),
    (RankExit(3, 1, 1.0, signal=11), Domain.UNKNOWN, None),
    (RankExit(3, 1, 1.0, code=1, failure=Failure(FailureKind.PEER_LOST, 1.0)), Domain.INFRASTRUCTURE, True),
]


@pytest.mark.parametrize(("failed", "domain", "retry"), DOMAINS)
def test_each_failure_has_a_domain(failed: RankExit, domain: Domain, retry: bool | None) -> None:
    assert judgement_of(failed) == (domain, retry)


def test_where_to_ask_the_doctor() -> None:
    full = end("OSError: [Errno 28] No space left on device")
    assert "`muster doctor` checks" in hint_for(full)
    assert "`muster doctor` with the same --hosts checks" in hint_for(full, "n2", several=True)


def test_each_row_has_its_words() -> None:
    told = {hint_for(end(words), "n2", several=True) for words in WORDS}
    named = {row.pattern for row in FAILURE_HINTS}
    assert len(told) == len(named) - 1, "NCCL's own words could not be had without a GPU"
