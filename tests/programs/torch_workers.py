"""Data loader workers by fork, an iterable dataset, threads, and a generator of batches."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Squares(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor(float(index)) ** 2


class Count(IterableDataset):
    def __iter__(self):
        yield from range(5)


def batches(loader):
    for batch in loader:
        yield batch.sum().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    print(list(batches(DataLoader(Squares(), batch_size=4, num_workers=2))))
    print([b.tolist() for b in DataLoader(Count(), batch_size=2)])
    with ThreadPoolExecutor(2) as pool:
        print(list(pool.map(lambda n: torch.arange(n).sum().item(), range(4))))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.linalg.det(torch.eye(3) * 2).item()))
    thread.start()
    thread.join()
    print(found)
