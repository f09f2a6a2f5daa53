"""VGG-16 with batch norm for small images: the thirteen convolutions of Simonyan & Zisserman 2015, one linear layer.

The 4096-wide linear layers of the original make no sense at 32x32; as in the pruning literature a single
linear layer takes their place. The fifth pooling is a global average, so that 28x28 works as well.
"""

import torch
from torch import Tensor, nn

WIDTHS = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8)  # multiples of the base width; 0: pool


class SmallVGG(nn.Module):
    """VGG-16-BN; `image_size` from 16 up, `width` is the number of channels of the first stage.

    >>> model = SmallVGG(in_channels=1, image_size=28, width=4).eval()
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
        width: int = 64,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(
                f"image_size is {image_size}, VGG-16 with its four poolings needs at least 16"
            )
        self.features = nn.Sequential()
        inputs = in_channels
        for multiple in WIDTHS:
            if multiple == 0:
                self.features.append(nn.MaxPool2d(2))
                continue
            outputs = multiple * width
            self.features.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
            self.features.append(nn.BatchNorm2d(outputs))
            self.features.append(nn.ReLU())
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))
