"""Programs that hang, one for each function: `python hang.py NAME` on each rank. See `record.py`."""

from __future__ import annotations

import fcntl
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

RANK = int(os.environ["RANK"])
SIZE = int(os.environ["WORLD_SIZE"])
FOLDER = Path(os.environ.get("HANG_FOLDER", tempfile.gettempdir()))


def train(steps: int = 6) -> None:
    """Some steps that succeed."""
    for _ in range(steps):
        dist.all_reduce(torch.ones(8))


def step() -> None:
    dist.all_reduce(torch.ones(16))


def ddp(at: int, odd: Callable[[], object]) -> None:
    """Train by DistributedDataParallel; rank 2 calls `odd` before step `at`."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4))
    for number in range(at + 2):
        if number == at and RANK == 2:
            odd()
        model(torch.ones(2, 16)).sum().backward()


def in_backward() -> None:
    ddp(4, lambda: time.sleep(3600))


def asleep() -> None:
    train()
    if RANK == 2:
        time.sleep(3600)
    step()


def python_loop() -> None:
    train()
    if RANK == 1:
        spin()
    step()


def spin() -> None:
    count = 0
    while True:
        count += 1


def holds_gil() -> None:
    train()
    if RANK == 3:
        re.match(r"(a+)+$", "a" * 60 + "!")
    step()


def native() -> None:
    train()
    if RANK == 2:
        matrix = torch.eye(1200)
        while True:
            matrix = matrix @ matrix
    step()


def fifo() -> None:
    train()
    if RANK == 2:
        path = FOLDER / "batches.fifo"
        os.mkfifo(path)
        path.read_text()
    step()


def pipe() -> None:
    train()
    if RANK == 0:
        os.read(os.pipe()[0], 1)
    step()


def server() -> None:
    train()
    if RANK == 1:
        listener = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(listener.getsockname()).recv(1)
    step()


def child() -> None:
    train()
    if RANK == 3:
        subprocess.run(["sleep", "3600"], check=True)
    step()


def file_lock() -> None:
    train()
    path = FOLDER / "index.lock"
    if RANK == 1:
        holder = subprocess.Popen(
            [sys.executable, "-c", f"import fcntl,time; f=open({str(path)!r},'w'); fcntl.flock(f,2); time.sleep(3600)"]
        )
        time.sleep(1)
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        holder.wait()
    step()


def file_lock_in_circle() -> None:
    train()
    with open(FOLDER / "index.lock", "w") as file:
        if RANK != 0:
            time.sleep(0.5)
        fcntl.flock(file, fcntl.LOCK_EX)
        dist.barrier()


def dead_producer() -> None:
    train()
    if RANK == 1:
        items: queue.Queue[int] = queue.Queue()
        threading.Thread(target=lambda: None).start()
        items.get()
    step()


def two_locks() -> None:
    train()
    if RANK == 1:
        first, second = threading.Lock(), threading.Lock()

        def writer() -> None:
            with second:
                time.sleep(0.3)
                with first:
                    pass

        with first:
            threading.Thread(target=writer, daemon=True).start()
            time.sleep(0.1)
            with second:
                pass
    step()


def joins_thread() -> None:
    train()
    if RANK == 2:
        thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
        thread.start()
        thread.join()
    step()


class Slow(torch.utils.data.Dataset[int]):
    """A data set whose items never come on rank 3."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        if index >= 8 and RANK == 3:
            time.sleep(3600)
        return index


def loader() -> None:
    train()
    for batch in torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2):
        dist.all_reduce(batch)


def importing() -> None:
    if RANK == 3:
        (FOLDER / "telemetry.py").write_text("import time\n\ntime.sleep(3600)\n")
        sys.path.insert(0, str(FOLDER))
        import telemetry  # type: ignore[import-not-found]  # noqa: F401
    dist.init_process_group("gloo")


def stopped() -> None:
    train()
    if RANK == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    step()


def left() -> None:
    train()
    if RANK == 2:
        os._exit(0)
    time.sleep(0.5)
    dist.distributed_c10d._get_default_store().wait(["ready"])  # type: ignore[attr-defined]


def key_of_nobody() -> None:
    train()
    if RANK == 2:
        dist.distributed_c10d._get_default_store().get("checkpoint")  # type: ignore[attr-defined]
    step()


def uneven() -> None:
    for number in range(10 if RANK != 3 else 7):
        dist.all_reduce(torch.ones(8))
        del number
    save()


def save() -> None:
    dist.barrier()


def other_branch() -> None:
    train()
    if RANK == 1:
        dist.all_gather([torch.ones(8) for _ in range(SIZE)], torch.ones(8))
    else:
        dist.broadcast(torch.ones(8), 0)
    step()


def two_and_two() -> None:
    train()
    if RANK < 2:
        dist.barrier()
    else:
        dist.all_gather([torch.ones(8) for _ in range(SIZE)], torch.ones(8))


def one_too_many() -> None:
    train()
    if RANK == 2:
        dist.all_reduce(torch.ones(8))
    dist.barrier()


def groups_in_circle() -> None:
    train()
    one, two = dist.new_group([0, 1, 2, 3]), dist.new_group([0, 1, 2, 3])
    for group in (two, one) if RANK == 3 else (one, two):
        dist.all_reduce(torch.ones(4), group=group)


def pairs_in_circle() -> None:
    train()
    groups = [dist.new_group([number, (number + 1) % SIZE]) for number in range(SIZE)]
    dist.barrier(group=groups[RANK])


def new_group_alone() -> None:
    train()
    if RANK == 1:
        dist.new_group([0, 1])
    step()


def receives_nothing() -> None:
    train()
    if RANK == 0:
        time.sleep(3600)
    if RANK == 1:
        dist.recv(torch.ones(4), 0)
    step()


def monitored() -> None:
    train()
    if RANK == 2:
        time.sleep(3600)
    dist.monitored_barrier(timeout=timedelta(seconds=60))


def objects() -> None:
    train()
    if RANK == 0:
        time.sleep(3600)
    dist.all_gather_object([None] * SIZE, {"rank": RANK})


def never_joins() -> None:
    if RANK == 1:
        time.sleep(3600)
    dist.init_process_group("gloo")


def wrong_address() -> None:
    if RANK == 3:
        os.environ["MASTER_ADDR"] = "10.255.255.1"
    dist.init_process_group("gloo")


def wrong_port() -> None:
    if RANK == 1:
        os.environ["MASTER_PORT"] = "1"
    dist.init_process_group("gloo")


def wrong_size() -> None:
    dist.init_process_group("gloo", world_size=2 * SIZE if RANK == 1 else SIZE, rank=RANK)


def same_rank() -> None:
    dist.init_process_group("gloo", world_size=SIZE, rank=1 if RANK == 2 else RANK)


def goes_on() -> None:
    while True:
        dist.all_reduce(torch.ones(8))
        time.sleep(0.02)


def slow_rank() -> None:
    while True:
        read_shard()
        dist.all_reduce(torch.ones(8))


def read_shard() -> None:
    time.sleep(1.0 if RANK == 3 else 0.02)


def all_asleep() -> None:
    train()
    time.sleep(3600)


WITHOUT_GROUP = (importing, never_joins, wrong_address, wrong_port, wrong_size, same_rank)

if __name__ == "__main__":
    program = globals()[sys.argv[1]]
    if program not in WITHOUT_GROUP:
        dist.init_process_group("gloo")
    program()
