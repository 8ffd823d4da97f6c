"""The script a student would write to train on CIFAR-10: torch and torchvision as their tutorials use them.

Images as PIL, transforms per image in a DataLoader, float32, NCHW, plain `nn.Sequential`. It is honest code without
a planted slowness; it is here to be compared with `cbn_lab.train`, not to be imitated.
"""

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Images(Dataset):
    """As `torchvision.datasets.CIFAR10`: uint8 [N, H, W, C] in memory, one PIL image per item."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def make_loader(images, labels, mean, std, batch_size: int) -> DataLoader:
    transform = transforms.Compose([
        transforms.RandomCrop(images.shape[1], padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ])
    return DataLoader(Images(images, labels, transform), batch_size=batch_size, shuffle=True, num_workers=0,
                      drop_last=True)


def make_model(widths, num_classes: int) -> nn.Module:
    layers, channels = [], 3
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, stride=1 + i % 2, padding=1, bias=False), nn.BatchNorm2d(width),
                   nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def train(model: nn.Module, loader: DataLoader):
    """Train for ever; yields the loss after each step."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model.train()
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            yield loss.item()
