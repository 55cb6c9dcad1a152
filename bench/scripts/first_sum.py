"""One all-reduce, and the time at which it was done: `first_sum.py FILE [WHAT]`, started by any launcher.

Each rank appends a line to FILE: what was done, and the time. `restart`: rank 1 of the first attempt then kills itself.
`death`: rank 1 exits with 3, and the others would wait for 20 seconds.
"""

import os
import sys
import time
from typing import Any

NAMES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"),
}
"""Variables of launchers that do not set those of torch."""


def note(path: str, what: str) -> None:
    """Append a line by one write, so that lines of several ranks are not torn."""
    line = f"{what} {time.time()}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line)
    os.close(descriptor)


def own_store(what: str) -> dict[str, Any]:
    """Return a store with names of its own for each attempt, where torchrun keeps one store for all attempts.

    torch 2.13 does not separate them: a rank that is restarted may connect to a peer of the attempt before, and fails.
    """
    import torch.distributed as dist

    if what != "restart" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    prefix = f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    numbers = {name: int(os.environ[variable]) for name, variable in (("rank", "RANK"), ("world_size", "WORLD_SIZE"))}
    return {"store": dist.PrefixStore(prefix, store), **numbers}


def first_sum(path: str, what: str = "") -> None:
    """Do as the docstring of this file says, in a rank."""
    import torch
    import torch.distributed as dist

    for name, others in NAMES.items():
        if name not in os.environ:
            os.environ[name] = next(os.environ[other] for other in others if other in os.environ)
    if not dist.is_initialized():  # Ray Train and torchrunx make the process group before
        dist.init_process_group("gloo", **own_store(what))
    dist.all_reduce(torch.ones(1))
    note(path, "reduced")
    if what == "restart" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if dist.get_rank() == 1:
            note(path, "killed")
            os.kill(os.getpid(), 9)
        time.sleep(60)
    if what == "death":
        dist.barrier()
        if dist.get_rank() == 1:
            note(path, "died")
            os._exit(3)
        time.sleep(20)
    dist.destroy_process_group()


if __name__ == "__main__":
    first_sum(*sys.argv[1:])
