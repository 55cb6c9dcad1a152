"""A DataLoader worker never delivers its batch."""

import time

import torch
from loop import train
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Samples that never come."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(600)


def load(rank):
    if rank == 1:
        next(iter(DataLoader(Samples(), num_workers=1)))


torch.set_num_threads(1)
train(load)
