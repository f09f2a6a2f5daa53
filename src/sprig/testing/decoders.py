"""Toys that make maps larger again by transposed convolutions. See `sprig.testing.toys`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class UNet(nn.Module):
    """Two maps down, two up, each joined with the map of its size on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bottom = block(3, 6), block(6, 8), block(8, 10)
        self.up_second, self.join_second = nn.ConvTranspose2d(10, 7, 2, stride=2), block(15, 8)
        self.up_first, self.join_first = nn.ConvTranspose2d(8, 5, 2, stride=2), block(11, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.join_second(torch.cat([self.up_second(x), second], 1))
        return self.head(self.join_first(torch.cat([self.up_first(x), first], 1)))


def generator() -> nn.Module:
    """As in DCGAN: noise becomes an image by transposed convolutions alone."""
    return nn.Sequential(
        nn.ConvTranspose2d(5, 12, 4, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1), nn.Tanh(),
    )  # fmt: skip


class Segmenter(nn.Module):
    """A decoder with everything that transposed convolutions have: groups, dilation, uneven strides, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = (
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.Conv2d(8, 12, 3, padding=1),
        )
        self.grouped = nn.ConvTranspose2d(
            12, 8, 3, stride=(2, 1), padding=1, output_padding=(1, 0), groups=4
        )
        self.wide = nn.ConvTranspose2d(8, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1))
        self.alone = nn.ConvTranspose2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.classes = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.deep(F.relu(self.down(x))))))
        return self.classes(F.relu(self.alone(F.relu(self.wide(x)))))


def wave() -> nn.Module:
    """Along one dimension."""
    return nn.Sequential(
        nn.Conv1d(2, 8, 4, stride=4), nn.GELU(),
        nn.ConvTranspose1d(8, 6, 8, stride=4, padding=3, output_padding=2), nn.GELU(),
        nn.Conv1d(6, 2, 3, padding=1),
    )  # fmt: skip


def volume() -> nn.Module:
    """In three dimensions."""
    return nn.Sequential(
        nn.Conv3d(2, 6, 2, stride=(1, 2, 2)), nn.ReLU(),
        nn.ConvTranspose3d(6, 4, (2, 3, 2), stride=(1, 2, 2)), nn.BatchNorm3d(4), nn.ReLU(),
        nn.ConvTranspose3d(4, 2, 1),
    )  # fmt: skip
