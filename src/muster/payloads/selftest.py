"""The script that `muster check` runs on each rank: placement, collectives, data sharding, convergence.

Rank 0 prints one line of JSON per section; the results are evaluated where muster was started
(`diagnostics/selftest/`).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

SIZES = (8 << 10, 1 << 20, 16 << 20)
"""Sizes in bytes of the timed all-reduces; on a GPU the last is 16 times as large."""
STEPS = 40
EPOCHS = (0, 1)
SEED = 7
FEW = 4
"""Number of ranks that report their samples when each rank sees all of them."""
CPU = torch.device("cpu")


def main() -> None:
    """Join the process group, run all sections, exit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument(
        "--local-rank", "--local_rank", type=int, help="ignored: some launchers pass it, the script uses LOCAL_RANK"
    )
    args = parser.parse_args()
    # gloo for the ranks' reports: with two ranks on one GPU, or none on some, NCCL would fail or wait
    patience = timedelta(seconds=args.timeout)
    dist.init_process_group("gloo", timeout=patience)
    cuda = torch.cuda.is_available() and args.backend != "gloo"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()) if cuda else CPU
    ranks = gathered(who(device))
    nccl = all(rank["gpu"] for rank in ranks)
    tell("who", ranks=ranks, backend="nccl" if nccl else "gloo", asked=args.backend)
    if args.backend == "nccl" and not nccl:
        sys.exit("error: --backend nccl: not every rank has a GPU")
    group: Any = dist.group.WORLD
    if nccl:
        torch.cuda.set_device(device)
        group = dist.new_group(backend="nccl", timeout=patience)
    else:
        device = CPU
    tell("sum", operations=sums(device, group), speed=speed(device, group))
    tell("data", samples=samples(), epochs=shares_of_data())
    tell("convergence", steps=STEPS, ways=convergence(device, group))
    dist.destroy_process_group()
    # Exit without finalizing Python: everything has been printed. After DistributedDataParallel, gloo's threads outlive
    # the process group (torch 2.13). One that still holds a tensor asks for the interpreter's lock, is ended for that
    # during finalization, and C++ aborts: "terminate called without an active exception".
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def tell(section: str, **found: Any) -> None:
    """Print the results of a section as one line of JSON, on rank 0 only."""
    if dist.get_rank() == 0:
        print(json.dumps({"section": section, **found}), flush=True)


def gathered(mine: Any) -> list[Any]:
    """Return the objects of all ranks, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


# ---- placement ----------------------------------------------------------------------------------------------------


def who(device: torch.device) -> dict[str, Any]:
    """Return this rank's placement, hardware and versions."""
    gpu = None
    if device.type == "cuda":
        told = torch.cuda.get_device_properties(device)
        bus = [getattr(told, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
        place = ":".join(f"{number:02x}" for number in bus if number is not None)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        known = seen[device.index] if device.index < len(seen) else ""  # torch before 2.4 has no better identifier
        uuid = str(getattr(told, "uuid", known))
        gpu = {"index": device.index, "name": told.name, "uuid": uuid, "bus": place}
    cpus = sorted(os.sched_getaffinity(0))
    return {
        "rank": dist.get_rank(),
        "local_rank": int(os.environ.get("LOCAL_RANK", "0")),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "gpu": gpu,
        "cpus": cpus,
        "all_cpus": os.cpu_count() or 1,
        "numa": numa_nodes(cpus),
        "gpus_there": len(glob.glob("/dev/nvidia[0-9]*")),
        "threads": torch.get_num_threads(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": nccl_version() if device.type == "cuda" else None,
    }


def nccl_version() -> str:
    """Return the NCCL version, such as `2.21.5`."""
    version: Callable[[], tuple[int, ...]] = torch.cuda.nccl.version
    return ".".join(map(str, version()))


def numa_nodes(cpus: Sequence[int]) -> list[int]:
    """Return the NUMA nodes of these cores."""
    found, folder = [], "/sys/devices/system/node"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith("node") and name[4:].isdigit():
                with open(f"{folder}/{name}/cpulist") as file:
                    pieces = [piece.partition("-") for piece in file.read().strip().split(",") if piece]
                if any(int(first) <= core <= int(last or first) for first, _, last in pieces for core in cpus):
                    found.append(int(name[4:]))
    return sorted(found)


# ---- collectives --------------------------------------------------------------------------------------------------


def sums(device: torch.device, group: Any) -> list[dict[str, Any]]:
    """Run each collective with a known result; return each rank's errors, or why it is not available."""
    rank, world = dist.get_rank(), dist.get_world_size()
    base = torch.arange(1000, dtype=torch.int64, device=device)  # integers give exact results for any number of ranks

    def all_reduce() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine = base % 97 * (rank + 1)
        dist.all_reduce(mine, group=group)
        yield mine, base % 97 * (world * (world + 1) // 2)

    def all_reduce_max() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine = (base + rank) % world
        dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=group)
        yield mine, torch.full_like(base, world - 1)

    def broadcast() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for root in sorted({0, world // 2, world - 1}):
            mine = base + root if rank == root else torch.zeros_like(base)
            dist.broadcast(mine, root, group=group)
            yield mine, base + root

    def all_gather() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts = [torch.zeros_like(base) for _ in range(world)]
        dist.all_gather(parts, base + rank, group=group)
        yield from ((part, base + number) for number, part in enumerate(parts))

    def reduce_scatter() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine = torch.zeros_like(base)
        whole = torch.cat([base % 97 * (rank + 1) + number for number in range(world)])
        scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)  # renamed in torch 2.13
        scatter(mine, whole, group=group)
        yield mine, base % 97 * (world * (world + 1) // 2) + rank * world

    def barrier() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        store = dist.distributed_c10d._get_default_store()
        for turn in range(3):
            store.add(f"muster/check/{turn}", 1)
            dist.barrier(group=group)  # after it, all ranks have arrived
            yield torch.tensor(store.add(f"muster/check/{turn}", 0)), torch.tensor(world)

    def ring() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine, before = torch.zeros_like(base), (rank - 1) % world
        sent = base + rank
        send = dist.P2POp(dist.isend, sent, (rank + 1) % world, group)
        ways = [send, dist.P2POp(dist.irecv, mine, before, group)]
        for request in dist.batch_isend_irecv(ways):
            request.wait()
        yield mine, base + before

    operations: Mapping[str, Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]] = {
        "all_reduce (sum)": all_reduce,
        "all_reduce (max)": all_reduce_max,
        "broadcast": broadcast,
        "all_gather": all_gather,
        "reduce_scatter": reduce_scatter,
        "barrier": barrier,
        "send and recv in a ring": ring,
    }
    if world == 1:
        operations = {name: do for name, do in operations.items() if do is not ring}
    found = []
    for name, do in operations.items():
        wrong, without = [], ""
        try:
            wrong = [difference(got, expected) for got, expected in do() if not torch.equal(got, expected)]
        except RuntimeError as error:
            if device.type == "cuda" or "does not support" not in str(error):
                raise  # other ranks may be waiting for this one: fail visibly
            without = str(error).splitlines()[0]
        told = gathered((wrong[0] if wrong else without, without))
        nobody = without if len({words for _, words in told}) == 1 else ""  # older gloo versions have no reduce-scatter
        mistakes = {} if nobody else {str(number): words for number, (words, _) in enumerate(told) if words}
        found.append({"name": name, "wrong": mistakes, "without": nobody})
    return found


def difference(got: torch.Tensor, expected: torch.Tensor) -> str:
    """Return a description of the first wrong number."""
    got, expected = got.flatten(), expected.flatten()
    at = int((got != expected).nonzero()[0])
    return f"element {at} is {got[at].item()}, expected {expected[at].item()}"


def speed(device: torch.device, group: Any) -> list[dict[str, Any]]:
    """Return the times of all-reduces of several sizes, with bandwidths as defined by nccl-tests.

    There are none for a single rank, which transfers nothing.
    """
    world, found = dist.get_world_size(), []
    if world == 1:
        return []
    for size in SIZES:
        size *= 16 if device.type == "cuda" and size == SIZES[-1] else 1
        data = torch.ones(size // 4, device=device)
        timed(data, group)  # the first one establishes connections
        count = gathered(max(3, min(50, int(0.3 / max(timed(data, group), 1e-6)))))[0]  # rank 0 decides
        times = sorted(timed(data, group) for _ in range(count))
        slowest = max(gathered(times[len(times) // 2]))
        rate = size / slowest / 1e9
        found.append(
            {
                "bytes": size,
                "seconds": slowest,
                "algorithm_gb_s": rate,
                "bus_gb_s": rate * 2 * (world - 1) / world,
                "times": count,
            }
        )
    return found


def timed(data: torch.Tensor, group: Any) -> float:
    """Return the seconds of one all-reduce on this rank, with all ranks starting together."""
    dist.barrier()
    began = time.perf_counter()
    dist.all_reduce(data, group=group)
    if data.is_cuda:
        torch.cuda.synchronize(data.device)
    took = time.perf_counter() - began
    data.fill_(1.0)
    return took


# ---- data sharding ------------------------------------------------------------------------------------------------


def samples() -> int:
    """Return a number of samples that cannot be divided equally among the ranks."""
    return 6 * dist.get_world_size() + (dist.get_world_size() + 1) // 2


def shares_of_data() -> list[dict[str, Any]]:
    """Return each rank's samples: in two epochs, repeated, with another seed, and without DistributedSampler."""

    def seen(epoch: int, seed: int = SEED, most: int | None = None, **how: Any) -> list[list[int]]:
        data = torch.utils.data.TensorDataset(torch.arange(samples()))
        sampler: DistributedSampler[Any] = DistributedSampler(data, shuffle=True, seed=seed, **how)
        sampler.set_epoch(epoch)
        mine = [int(index) for index in sampler] if most is None or dist.get_rank() < most else []
        return gathered(mine)[:most]

    alone = {"num_replicas": 1, "rank": 0, "most": FEW}
    return [
        *({"what": "epoch", "epoch": epoch, "by_rank": seen(epoch)} for epoch in EPOCHS),
        {"what": "again", "epoch": EPOCHS[0], "by_rank": seen(EPOCHS[0])},
        {"what": "other seed", "epoch": EPOCHS[0], "by_rank": seen(EPOCHS[0], SEED + 100)},
        {"what": "without DistributedSampler", "epoch": EPOCHS[0], "by_rank": seen(EPOCHS[0], **alone)},
    ]


# ---- convergence, local and distributed ---------------------------------------------------------------------------


def convergence(device: torch.device, group: Any) -> list[dict[str, Any]]:
    """Train on one rank, on all, and with three mistakes; return losses and differences of the parameters."""
    world = dist.get_world_size()
    alone, losses = train(device, group, "alone")
    found = [{"way": "alone", "losses": losses, "off": 0.0, "apart": 0.0}]
    for way in ("distributed", *(("no averaging", "one shard for all", "sum in place of mean") if world > 1 else ())):
        parameters, losses = train(device, group, way)
        first = parameters.clone()
        dist.broadcast(first, 0, group=group)
        off = widest(gathered(float((parameters - alone).abs().max())))
        apart = widest(gathered(float((parameters - first).abs().max())))
        found.append({"way": way, "losses": [finite(loss) for loss in losses], "off": off, "apart": apart})
    return found


def finite(number: float) -> float | None:
    """Return the number, or None if JSON cannot represent it."""
    return number if math.isfinite(number) else None


def widest(distances: Sequence[float]) -> float | None:
    """Return the maximum, or None if a number is not finite."""
    return max(distances) if all(map(math.isfinite, distances)) else None


def train(device: torch.device, group: Any, way: str) -> tuple[torch.Tensor, list[float]]:
    """Train a small float64 network; return (parameters, mean loss over ranks on unseen data before each step)."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(SEED)
    teacher = torch.randn(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)) / 4
    layers = (torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    plain = torch.nn.Sequential(*layers).to(device=device, dtype=torch.float64)
    averaged = way in ("distributed", "one shard for all")
    ids = [device] if device.type == "cuda" else None
    model: torch.nn.Module = DistributedDataParallel(plain, device_ids=ids, process_group=group) if averaged else plain
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shard = {"alone": slice(None), "one shard for all": slice(0, None, world)}.get(way, slice(rank, None, world))

    def data(number: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        # generated on the CPU, so that the numbers are the same on any device
        batch = torch.randn(count, 16, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        return batch.to(device), (batch @ teacher).sin().to(device)

    losses = []
    unseen, answers = data(10_000, 256)
    for step in range(STEPS):
        with torch.no_grad():
            losses.append(float(torch.nn.functional.mse_loss(plain(unseen), answers)))
        batch, targets = data(step, 32 * world)
        optimizer.zero_grad()
        loss: torch.Tensor = torch.nn.functional.mse_loss(model(batch[shard]), targets[shard])
        torch.autograd.backward(loss)
        if way == "sum in place of mean":
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad, group=group)
        optimizer.step()
    mean = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(mean)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), (mean / world).tolist()


if __name__ == "__main__":
    main()
