"""For scripts and functions that run as ranks: `muster.init`, progress, preemption and logs."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Optional

from muster.agent.rank_info import Identity, detect
from muster.errors import InvalidRequest
from muster.python.entry import entry
from muster.python.roles import RoleHosts, roles

if TYPE_CHECKING:
    import torch

_ALONE = Identity("none", 0, 1, 0, 1, 0)
_PORTS = (10_000, 20_000)
"""First port, and number of ports, from which a port is derived if the launcher names none."""


class Rank:
    """This process in its process group. As a context manager, it destroys the group at the end of the block."""

    def __init__(self, found: Identity, device: torch.device, backend: str, owns_group: bool) -> None:
        self.rank = found.rank
        """Its number, from 0."""
        self.world_size = found.world_size or 1
        """The number of ranks."""
        self.local_rank = found.local_rank or 0
        """Its number on this machine, from 0."""
        self.local_world_size = found.local_world_size or 1
        """The number of ranks on this machine."""
        self.launcher = found.launcher
        """The launcher that started it; `none` if it runs alone."""
        self.device = device
        """The GPU of this rank, which is the current device, or the CPU."""
        self.backend = backend
        """The backend of the process group: `nccl` or `gloo`."""
        self._owns_group = owns_group

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def roles(self) -> Mapping[str, RoleHosts]:
        """The roles of this run by name, with their hosts; none if it has one program. See `muster.roles`."""
        return roles()

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.world_size} on {self.device}, {self.backend}>"

    def __enter__(self) -> Rank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    @entry
    def close(self, wait: bool = True) -> None:
        """Destroy the process group that `init` made. `wait`: wait first until all ranks have come this far."""
        import torch.distributed as dist

        if self._owns_group and dist.is_initialized():
            if wait:
                dist.barrier()  # a rank that left early would break the connections of the others
            dist.destroy_process_group()
        self._owns_group = False


@entry
def init(backend: str | None = None, *, timeout: float | None = None) -> Rank:
    """Initialize the process group of this rank and return its place in it: under any launcher, or alone.

    `backend`: `nccl` or `gloo`; by default nccl if this rank has a GPU. `timeout`: seconds for collective operations;
    torch's default if None. A process group that exists already is used, and not destroyed at the end.

        with muster.init() as rank:
            model = DistributedDataParallel(Net().to(rank.device))

    Raises `muster.errors.InvalidRequest` if the launcher does not tell how ranks find each other.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    found = detect() or _ALONE
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", (found.local_rank or 0) % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return Rank(found, device, dist.get_backend(), False)
    backend = backend or ("nccl" if gpus and dist.is_nccl_available() else "gloo")
    more: dict[str, Any] = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    if gpus and backend == "nccl":
        more["device_id"] = device
    size = found.world_size or 1
    if size == 1 and "MASTER_ADDR" not in os.environ:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, **more)
    else:
        os.environ.update(_meeting(found))
        dist.init_process_group(backend, rank=found.rank, world_size=size, **more)
    return Rank(found, device, backend, True)


def _meeting(found: Identity) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT, if the launcher has not set them. Raises `InvalidRequest`."""
    env = os.environ
    if "MASTER_ADDR" in env and "MASTER_PORT" in env:
        return {}
    first, count = _PORTS
    nodes = env.get("SLURM_STEP_NODELIST") if found.launcher == "srun" else None
    if nodes:
        from muster.core.hostlist import parse_nodelist

        number = int(env.get("SLURM_JOB_ID", "0")) * 31 + int(env.get("SLURM_STEP_ID", "0"))
        host = parse_nodelist(nodes, "SLURM_STEP_NODELIST")[0]
        return {"MASTER_ADDR": env.get("MASTER_ADDR", host), "MASTER_PORT": str(first + number % count)}
    if found.local_world_size is not None and found.local_world_size == found.world_size:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(first + os.getppid() % count)}
    raise InvalidRequest(
        f"{found.launcher} does not tell how its ranks find each other",
        "set MASTER_ADDR and MASTER_PORT, or start the ranks with `muster run`",
    )


# ---- preemption -----------------------------------------------------------------------------------------------------


class Preemption:
    """Whether the job of this rank is about to be ended; true once it is."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


def on_preemption(save: Callable[[], object] | None = None) -> Preemption:
    """Call `save` once when the job is preempted, or shortly before its time limit; the script then continues.

    `save` is called in the main thread, between two lines of the script, on each rank by itself. A checkpoint that
    needs all ranks at the same step is better taken where the script chooses: check the value that is returned.

        preempted = muster.on_preemption()
        for step in range(steps):
            train_step()
            if preempted:
                save_checkpoint(step)
                break

    muster sends SIGUSR1 for this (`--signal-before` sets when), and Slurm does with `--signal=USR1@60`.
    """
    notice = Preemption()

    def handle(number: int, frame: Optional[FrameType]) -> None:  # noqa: UP045
        if not notice.requested:
            notice.requested = True
            if save is not None:
                save()

    try:
        signal.signal(signal.SIGUSR1, handle)
    except ValueError:
        raise InvalidRequest("on_preemption: not in the main thread", "call it at the start of the script") from None
    return notice


# ---- progress -------------------------------------------------------------------------------------------------------

_EVERY = 0.5
"""Seconds between writes of the progress, except for the last step."""


class _Progress:
    """The file with the progress of this rank."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._path = ""
        self._next = 0.0

    def put(self, step: int, total: int | None) -> None:
        now = time.monotonic()
        if now < self._next and step != total:
            return
        self._next = now + _EVERY
        path = re.sub(r"\.error\.json$", ".progress", os.environ.get("TORCHELASTIC_ERROR_FILE", ""))
        if not re.search(r"/rank_\d{5,}\.progress$", path):
            return  # this rank was not started by muster
        try:
            if self._fd is None or path != self._path:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._path = path
            line = f"{step} {total if total is not None else '-'} {time.time():.3f}"
            os.pwrite(self._fd, line.encode().ljust(63) + b"\n", 0)
        except OSError:
            pass  # a full disk must not end a training


_PROGRESS = _Progress()


def progress(step: int, total: int | None = None) -> None:
    """Report that this rank has finished `step` of `total` steps: `muster show` displays it.

    It may be called after each step: at most two writes a second are made, of 64 bytes. It does nothing in a process
    that muster has not started.
    """
    _PROGRESS.put(step, total)


# ---- logging --------------------------------------------------------------------------------------------------------


def get_logger(name: str = "train", ranks: Sequence[int] = (0,)) -> logging.Logger:
    """Return a logger that writes messages of these ranks to stdout, and warnings and errors of all ranks to stderr."""
    log = logging.getLogger(name)
    if not any(isinstance(handler, _RankHandler) for handler in log.handlers):
        log.addHandler(_RankHandler())
        log.propagate = False
        if log.level == logging.NOTSET:
            log.setLevel(logging.INFO)
    for handler in log.handlers:
        if isinstance(handler, _RankHandler):
            handler.ranks = tuple(ranks)
    return log


class _RankHandler(logging.Handler):
    """Writes records of some ranks to stdout, and warnings of all to stderr with the rank."""

    ranks: tuple[int, ...] = (0,)

    def emit(self, record: logging.LogRecord) -> None:
        found = detect() or _ALONE
        if record.levelno >= logging.WARNING:
            print(f"{record.levelname} rank {found.rank}: {self.format(record)}", file=sys.stderr, flush=True)
        elif found.rank in self.ranks:
            print(self.format(record), flush=True)
