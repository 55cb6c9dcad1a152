"""A function compiled by torch, forwards and backwards."""

import torch


@torch.compile
def wave(x):
    return (torch.sin(x) + torch.cos(x) * 2).sum()


x = torch.linspace(0, 1, 64, requires_grad=True)
wave(x).backward()
print(torch.allclose(x.grad, torch.cos(x) - 2 * torch.sin(x)), torch._dynamo.utils.counters["stats"])
