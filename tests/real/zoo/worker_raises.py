"""A DataLoader worker raises an exception, which the rank raises again."""

import torch
from loop import train
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Samples that cannot be read."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise ValueError(f"image {index} is truncated")


def load(rank):
    if rank == 0:
        next(iter(DataLoader(Samples(), num_workers=1)))


torch.set_num_threads(1)
train(load)
