"""A detector of the YOLO kind, from the published description: a backbone, a neck up and down, three heads.

Conv-norm-SiLU everywhere, C2f blocks (split, a chain of residual bottlenecks, everything joined), SPPF, attention on
the smallest map, and decoupled heads for boxes (as distributions over distances) and classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, batch norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions, perhaps beside the identity."""

    def __init__(self, width: int, beside: bool) -> None:
        super().__init__()
        self.a, self.b, self.beside = conv(width, width, 3), conv(width, width, 3), beside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x))
        return x + y if self.beside else y


class C2f(nn.Module):
    """Half goes straight on, half through a chain; all that was seen on the way is joined."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, beside: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.leave = conv(inputs, 2 * half), conv((2 + depth) * half, outputs)
        self.chain = nn.ModuleList(Bottleneck(half, beside) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        seen = list(self.enter(x).chunk(2, 1))
        for block in self.chain:
            seen.append(block(seen[-1]))
        y: Tensor = self.leave(torch.cat(seen, 1))
        return y


class SPPF(nn.Module):
    """The same pooling three times over, all joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(width, width // 2), conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.enter(x)]
        for _ in range(3):
            seen.append(F.max_pool2d(seen[-1], 5, 1, 2))
        y: Tensor = self.leave(torch.cat(seen, 1))
        return y


class AreaAttention(nn.Module):
    """Attention over places, keys half as wide as values, with a depthwise convolution for position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.key_dim = self.head_dim // 2
        self.qkv = nn.Conv2d(width, width + 2 * self.key_dim * heads, 1)
        self.place = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        qkv = self.qkv(x).view(n, self.num_heads, 2 * self.key_dim + self.head_dim, h * w)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        like = (q.transpose(-2, -1) @ k * self.key_dim**-0.5).softmax(-1)
        y = (v @ like.transpose(-2, -1)).reshape(n, -1, h, w)
        y = self.leave(y + self.place(v.reshape(n, -1, h, w)))
        return x + y


class Head(nn.Module):
    """Boxes and classes for one map, apart from each other."""

    def __init__(self, width: int, classes: int, bins: int) -> None:
        super().__init__()
        self.box = nn.Sequential(conv(width, width, 3), nn.Conv2d(width, 4 * bins, 1))
        self.kind = nn.Sequential(
            conv(width, width, 3, groups=width), conv(width, width), nn.Conv2d(width, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.box(x), self.kind(x)], 1).flatten(2)


class Yolo(nn.Module):
    """Class scores and box edges for every place of three maps: (n, 4 + classes, places)."""

    def __init__(self, width: int = 16, classes: int = 5, bins: int = 8) -> None:
        super().__init__()
        w, self.classes, self.bins = width, classes, bins
        self.stem = nn.Sequential(conv(3, w, 3, 2), conv(w, 2 * w, 3, 2), C2f(2 * w, 2 * w))
        self.third = nn.Sequential(conv(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w, 2))
        self.fourth = nn.Sequential(conv(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 2))
        self.fifth = nn.Sequential(
            conv(8 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w), SPPF(8 * w), AreaAttention(8 * w, 4)
        )
        self.up_fourth, self.up_third = (
            C2f(16 * w, 4 * w, beside=False),
            C2f(8 * w, 4 * w, beside=False),
        )
        self.down_third, self.down_fourth = conv(4 * w, 4 * w, 3, 2), conv(8 * w, 8 * w, 3, 2)
        self.out_fourth, self.out_fifth = (
            C2f(8 * w, 8 * w, beside=False),
            C2f(16 * w, 8 * w, beside=False),
        )
        self.heads = nn.ModuleList(Head(m * w, classes, bins) for m in (4, 8, 8))
        self.register_buffer("distance", torch.arange(bins).float().view(1, bins, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        third = self.third(self.stem(x))
        fourth = self.fourth(third)
        fifth = self.fifth(fourth)
        fourth = self.up_fourth(torch.cat([F.interpolate(fifth, scale_factor=2.0), fourth], 1))
        third = self.up_third(torch.cat([F.interpolate(fourth, scale_factor=2.0), third], 1))
        fourth = self.out_fourth(torch.cat([self.down_third(third), fourth], 1))
        fifth = self.out_fifth(torch.cat([self.down_fourth(fourth), fifth], 1))
        found = [head(m) for head, m in zip(self.heads, (third, fourth, fifth), strict=True)]
        joined = torch.cat(found, 2)
        box, kind = joined.split([4 * self.bins, self.classes], 1)
        edges = box.unflatten(1, (4, self.bins)).transpose(1, 2).softmax(1)
        return torch.cat([(edges * self.distance).sum(1), kind.sigmoid()], 1)
