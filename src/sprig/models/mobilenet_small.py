"""MobileNetV2 for small images: inverted residual blocks, few and narrow (Sandler et al. 2018).

Departures, as the images are small: the stem keeps the resolution, two of the stages halve it, four stages instead of
seven. A block widens with a 1x1 convolution, filters each channel alone, and narrows again without an activation.
"""

from torch import Tensor, nn

STAGES = (
    (1, 16, 1, 1),
    (4, 24, 2, 2),
    (4, 32, 2, 2),
    (4, 64, 2, 1),
)  # expansion, width, blocks, stride


class InvertedResidual(nn.Module):
    """Widen, filter, narrow; the input is added where shapes agree."""

    def __init__(self, width_in: int, width: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = width_in * expansion
        self.add = stride == 1 and width_in == width
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += _conv(width_in, hidden, 1)
        layers += _conv(hidden, hidden, 3, stride=stride, groups=hidden)
        layers += [nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.add else self.layers(x)


class SmallMobileNetV2(nn.Module):
    """A stem, inverted residuals, a 1x1 convolution, the mean over positions, a linear layer.

    >>> import torch
    >>> SmallMobileNetV2(in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        head: int = 128,
    ) -> None:
        super().__init__()
        width = stages[0][1]
        blocks: list[nn.Module] = _conv(in_channels, width, 3)
        for expansion, out, count, stride in stages:
            for at in range(count):
                step = stride if at == 0 else 1
                blocks.append(InvertedResidual(width, out, expansion=expansion, stride=step))
                width = out
        blocks += _conv(width, head, 1)
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def _conv(
    width_in: int, width: int, size: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU6()]
