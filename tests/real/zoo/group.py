"""Tasks of one rank fail together."""

import asyncio

from loop import train


async def fetch(shard):
    raise LookupError(f"shard {shard} is empty")


async def fetch_all():
    async with asyncio.TaskGroup() as tasks:
        for shard in (4, 5):
            tasks.create_task(fetch(shard))


def load(rank):
    if rank == 1:
        asyncio.run(fetch_all())


train(load)
