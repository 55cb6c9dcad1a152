"""A small training loop on four ranks, which the scripts of this directory break on one of them."""

from __future__ import annotations

from typing import Callable

import torch
import torch.distributed as dist

BREAKS_AT = 5
"""The step at which a script does what it is here for."""


def train(at_step: Callable[[int], object], steps: int = 12) -> None:
    """Train; call `at_step` with the rank before the collective of one step."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    net = torch.nn.Linear(8, 1)
    for step in range(steps):
        if step == BREAKS_AT:
            at_step(rank)
        loss = net(torch.ones(4, 8)).square().mean()
        loss.backward()
        for parameter in net.parameters():
            dist.all_reduce(parameter.grad)
    dist.destroy_process_group()
