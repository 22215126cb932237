"""A small network on scikit-learn's digits, trained and evaluated with data loaders."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.second = nn.Linear(width, 10)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def accuracy(net, loader):
    net.eval()
    with torch.no_grad():
        return sum((net(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


data = load_digits()
whole = TensorDataset(torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target))
train, test = random_split(whole, [1500, len(whole) - 1500], generator=torch.Generator().manual_seed(1))
net, loss_of = Net(), nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
for epoch in range(2):
    net.train()
    for _step, (x, y) in enumerate(DataLoader(train, batch_size=64, shuffle=True)):
        optimizer.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimizer.step()
    schedule.step()
    print(f"epoch {epoch}: loss {loss.item():.4f}, {accuracy(net, DataLoader(test, 256)):.4f}")
