"""A small convolutional network fed by a DataLoader with worker processes."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    """8×8 images of digits, shifted by up to a pixel by index."""

    def __init__(self, count: int) -> None:
        data = load_digits()
        self.images = (data.images[:count] / 16.0).astype(np.float32)
        self.labels = data.target[:count]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        image = np.roll(self.images[index], shift=index % 3 - 1, axis=1)
        return torch.from_numpy(image.copy()).unsqueeze(0), int(self.labels[index])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 2 * 2, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.conv2(x))), 2)
        return self.head(torch.flatten(x, 1))


if __name__ == "__main__":
    torch.manual_seed(1)
    net = Net()
    loader = DataLoader(Digits(960), batch_size=96, num_workers=2, persistent_workers=True)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    seen = 0
    for epoch in range(3):
        losses = []
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            (loss := criterion(net(images), labels)).backward()
            optimizer.step()
            losses.append(loss.item())
            seen += images.size(0)
        print(f"epoch {epoch}: mean loss {np.mean(losses):.3f} over {len(losses)} batches")
    net.eval()
    with torch.inference_mode():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in loader)
    print(f"{seen} images seen, {right} of {len(loader.dataset)} right")
