"""A DataLoader worker is killed, as by the kernel for lack of memory."""

import os
import signal

import torch
from loop import train
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Samples that cannot be read."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def load(rank):
    if rank == 3:
        next(iter(DataLoader(Samples(), num_workers=1)))


torch.set_num_threads(1)
train(load)
