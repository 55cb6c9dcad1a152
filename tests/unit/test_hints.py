"""The doctor's advice in the report of a run: words as ranks really leave them."""

from __future__ import annotations

import pytest

from muster.core.results import Failure, FailureKind, RankExit
from muster.diagnostics.hints import FAILURE_HINTS, hint_for

WORDS = {
    "requests.exceptions.ConnectTimeout: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded "
    "(Caused by ConnectTimeoutError('Connection to example.org timed out. (connect timeout=10)'))": "n2 has no way to",
    "OSError: [Errno 28] No space left on device: '/scratch/ckpt.pt'": "a disk of n2 is full",
    "RuntimeError: [enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/0: "
    "file write failed: No space left on device": "a disk of n2 is full",
    "OSError: [Errno 116] Stale file handle: 'data.bin'": "a file system of n2 does not work",
    "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit.": "/dev/shm of n2 is too small",
    "OSError: [Errno 24] Too many open files: 'shard-001.tar'": "more files than n2 allows",
    "RuntimeError: can't start new thread": "more processes or threads than n2 allows",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.": "a smaller batch",
    "torch.AcceleratorError: CUDA error: invalid device ordinal": "more ranks than GPUs on n2",
    "torch.distributed.DistBackendError: NCCL error in: ../NCCLUtils.hpp:268, invalid usage, NCCL version 2.21.5\n"
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000": "two ranks on one GPU",
    "torch.AcceleratorError: CUDA error: device-side assert triggered": "CUDA reports errors late",
    "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).": "the driver of n2 does not fit",
    "socket.gaierror: [Errno -2] Name or service not known": "n2 has no address for a name",
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error\nGloo connectFullMesh failed "
    "with connect: No route to host": "the hosts do not reach each other",
    "OSError: [Errno 98] Address already in use": "the script chose that port by itself",
    "EOFError: EOF when reading a line": "of several ranks each finds an empty stdin",
    "bdb.BdbQuit": "of several ranks each finds an empty stdin",
    "ModuleNotFoundError: No module named 'wandb'": "install it for the Python of the ranks",
}


def end(words: str, **more: object) -> RankExit:
    first, *rest = words.split("\n")
    return RankExit(3, 1, 1.0, code=1, failure=Failure(FailureKind.EXCEPTION, 1.0, first, (first, *rest)))._replace(
        **more
    )


@pytest.mark.parametrize("words", WORDS)
def test_words_that_the_doctor_knows(words: str) -> None:
    assert hint_for(end(words), "n2", several=True).startswith(WORDS[words])


def test_the_rest_is_left_to_the_person() -> None:
    assert "" == hint_for(end("ValueError: bad batch 17"), "n2", several=True)
    assert "" == hint_for(RankExit(3, 1, 1.0, code=3))
    never = Failure(FailureKind.NEVER_REGISTERED, 1.0, "mpirun: No space left on device")
    assert "" == hint_for(RankExit(3, 1, 1.0, code=1, failure=never)), "that sentence is complete"


def test_a_bus_error_leaves_no_words() -> None:
    assert hint_for(RankExit(3, 1, 1.0, signal=7)).startswith("/dev/shm of this machine is too small")


def test_where_to_ask_the_doctor() -> None:
    full = end("OSError: [Errno 28] No space left on device")
    assert "`muster doctor` looks" in hint_for(full)
    assert "`muster doctor` with the same --hosts looks" in hint_for(full, "n2", several=True)


def test_each_row_has_its_words() -> None:
    told = {hint_for(end(words), "n2", several=True) for words in WORDS}
    named = {row.pattern for row in FAILURE_HINTS}
    assert len(told) == len(named) - 1, "NCCL's own words could not be had without a GPU"
