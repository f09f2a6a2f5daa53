"""The two LeNets of the pruning literature, with ReLU (LeCun et al. 1998; widths as in Han et al. 2015).

Departures from 1998, as everywhere in this literature: ReLU instead of tanh, max pooling, full connections.
"""

import torch
from torch import Tensor, nn


class LeNet300100(nn.Module):
    """A multilayer perceptron with two hidden layers.

    >>> LeNet300100()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        widths: tuple[int, int] = (300, 100),
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size**2, widths[0])
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(widths[0], widths[1])
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(widths[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(x)))))


class LeNet5(nn.Module):
    """Two 5x5 convolutions, each pooled by two, and two linear layers: 20-50-500 units.

    >>> LeNet5()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        widths: tuple[int, int, int] = (20, 50, 500),
    ) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"image_size is {image_size}, LeNet-5 needs at least 16")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(widths[1] * side**2, widths[2])
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(torch.flatten(x, 1))))
