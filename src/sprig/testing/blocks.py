"""Toy networks that surgery must handle: one class or function per topology. See `sprig.testing.toys`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def head(width: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 4))


def flatten() -> nn.Module:
    """The linear map has a block of 16 columns per channel."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    )


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3, padding="same"), nn.SiLU(), nn.Conv1d(8, 6, 3, dilation=2), nn.BatchNorm1d(6),
        nn.AvgPool1d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 4, (1, 3, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def prelu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 2, 1), nn.PReLU())


def group_norm() -> nn.Module:
    """Twelve channels in four norm groups: four units of three."""
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 2, 1))


def instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding_mode="reflect", padding=1), nn.InstanceNorm2d(6, affine=True), nn.ELU(),
        nn.Conv2d(6, 2, 1),
    )  # fmt: skip


class Residual(nn.Module):
    """Two basic blocks on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (8, 10, 8, 6, 8))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        y = self.norms[2](self.second(F.relu(self.norms[1](self.first(x)))))
        y += x
        x = F.relu_(y)
        y = self.norms[4](self.fourth(F.relu(self.norms[3](self.third(x)))))
        return self.head(F.relu(x + y))


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.down, self.middle = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 7, 3, padding=1)
        self.up, self.norm = nn.Conv2d(7, 12, 1), nn.BatchNorm2d(12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.up(F.relu(self.middle(F.relu(self.down(x)))))
        return self.head(F.relu(self.norm(y) + x))


class Projection(nn.Module):
    """The shortcut has a convolution of its own, so a new stream begins."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 7, 3, stride=2, padding=1),
        )
        self.second, self.short = nn.Conv2d(7, 10, 3, padding=1), nn.Conv2d(6, 10, 1, stride=2)
        self.head = head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.second(F.relu(self.first(x))) + self.short(x)))


class Dense(nn.Module):
    """Each layer reads all before it, through a norm over the joined channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 4, 1),
            nn.Conv2d(10, 5, 1),
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (6, 10, 15))
        self.head = head(15)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        parts.append(self.first(F.relu(self.norms[0](parts[0]))))
        parts.append(self.second(F.relu(self.norms[1](torch.cat(parts, 1)))))
        return self.head(F.relu(self.norms[2](torch.cat(parts, 1))))


class Inception(nn.Module):
    """Branches of different widths, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.reduce = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)
        self.three, self.pooled = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.last, self.head = nn.Conv2d(13, 7, 1), head(7)
        self.last.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        branches = [
            self.one(x),
            self.three(F.relu(self.reduce(x))),
            self.pooled(F.max_pool2d(x, 3, 1, 1)),
        ]
        return F.log_softmax(self.last(F.relu(torch.cat(branches, 1))).mean((2, 3)), 1)


class SqueezeExcite(nn.Module):
    """Inverted residual: wide, depthwise, gated by itself, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.depth = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.narrow, self.norm, self.head = nn.Conv2d(12, 6, 1), nn.BatchNorm2d(12), head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.depth(F.silu(self.widen(x)))))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.narrow(x))


class ResNeXt(nn.Module):
    """Four conv groups of three channels leave whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1)
        self.middle, self.up = nn.Conv2d(12, 12, 3, padding=1, groups=4), nn.Conv2d(12, 8, 1)
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.up(F.relu(self.middle(F.relu(self.down(x))))) + x))


class Shuffle(nn.Module):
    """Halves, one of them worked on, joined and shuffled: equal places of the halves leave together."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times
        self.stem, self.a, self.b = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(6, 7, 1),
            nn.Conv2d(7, 6, 1),
        )
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(self.times):
            left, right = x.chunk(2, 1)
            x = torch.cat([left, F.relu(self.b(F.relu(self.a(right))))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x)


def shuffle_thrice() -> nn.Module:
    """Each shuffle ties other pairs, until all channels of the stream are one unit; the interior stays free."""
    return Shuffle(3)


class Shared(nn.Module):
    """One convolution called twice on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, padding=1),
            head(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.again(F.relu(self.again(x)))))


class Tied(nn.Module):
    """Two layers that hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(8, 10)
        self.second.weight = self.first.weight
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        return self.head(F.relu(self.first(x)) + torch.sigmoid(self.second(-x)))


class TiedDecoder(nn.Module):
    """The encoder's weight, turned, decodes: what leaves as its input leaves as the decoder's output."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.encode, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        x = F.linear(torch.relu(self.encode(x)), self.encode.weight.t())
        return self.head(torch.tanh(x))


class Auxiliary(nn.Module):
    """A second head that only training runs; it must be cut with the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.aux, self.head = head(8), head(6)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        y = self.head(F.relu(self.body(x)))
        return (y, self.aux(x)) if self.training else y
