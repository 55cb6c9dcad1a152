"""A DataLoader with two workers, started as the first argument says."""

import sys

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Squares(Dataset):
    """Squares, and which worker made them."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        worker = get_worker_info()
        return torch.tensor([index * index, worker.id, worker.num_workers])


if __name__ == "__main__":
    for batch in DataLoader(Squares(), batch_size=2, num_workers=2, multiprocessing_context=sys.argv[1]):
        print(batch.tolist())
