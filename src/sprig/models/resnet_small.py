"""Residual networks for small images (ResNet-20, ResNet-56 and their kin), He et al. 2016, section 4.2.

n → blocks per stage (depth is 6n + 2); three stages of widths w, 2w, 4w, the last two halve the image.
Departure from the paper: by default the shortcut between stages is a 1x1 projection with batch norm (the
paper's option B), because its channels can be cut; `shortcut="A"` gives the paper's own zero padding.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that the input lacks."""

    def __init__(self, extra: int, *, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        front = self.extra // 2
        return F.pad(x, (0, 0, 0, 0, front, self.extra - front))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(outputs - inputs, stride=stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A 3x3 stem, three stages of basic blocks, global average pooling and one linear layer.

    >>> model = SmallResNet(3, in_channels=1, num_classes=10)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: int,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 16,
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ValueError(
                f"shortcut is {shortcut!r}, expected 'A' (padding) or 'B' (projection)"
            )
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        inputs = width
        stages = []
        for number in range(3):
            outputs = width * 2**number
            stage = nn.Sequential()
            for index in range(blocks):
                stride = 2 if number > 0 and index == 0 else 1
                block = BasicBlock(inputs, outputs, stride=stride, shortcut=shortcut)
                stage.append(block)
                inputs = outputs
            stages.append(stage)
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


resnet20 = partial(SmallResNet, 3)
resnet56 = partial(SmallResNet, 9)
