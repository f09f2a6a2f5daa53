"""Toy networks that a careless surgeon gets wrong without noticing, and those that must be refused."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing.blocks import head


class Swapped(nn.Module):
    """The same channels in two orders, joined along the height: a column sees both, so they leave together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        return self.head(torch.cat([torch.cat([a, b], 1), torch.cat([b, a], 1)], 2))


class Halves(nn.Module):
    """A gated unit: one half multiplies the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), head(6)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = torch.split(self.stem(x), self.stem.out_channels // 2, 1)
        return self.head(value * torch.sigmoid(gate))


class Gate(nn.Module):
    """One map for all channels is broadcast; it has a single channel, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mask, self.one = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(3, 5, 1),
            nn.Conv2d(5, 1, 1),
        )
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x) * torch.sigmoid(self.one(F.relu(self.mask(x)))))


class ChannelsLast(nn.Module):
    """Tokens cut into windows and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.head = (
            nn.Conv2d(3, 6, 1),
            nn.Linear(6, 9),
            nn.Linear(9, 6),
            head(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = torch.roll(x, (1, 1), (1, 2)).view(n, h // 4, 4, w // 4, 4, c)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = x + self.down(F.gelu(self.up(x)))
        x = x.view(n, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)
        return self.head(x.permute(0, 3, 1, 2))


class FoldedBatch(nn.Module):
    """Channels are folded into the batch for a pooling and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        x = F.avg_pool2d(x.reshape(n * c, 1, h, w), 2)
        return self.head(F.relu(x.view(n, c, h // 2, w // 2)))


class AddedBranches(nn.Module):
    """Joined branches meet a whole: each branch holds only a part of the units, and keeps one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(3, 8, 1)
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.a(x), self.b(x)], 1) + self.c(x)))


class ZeroBranch(nn.Module):
    """The branch divides by its own width and starts at zero, where nothing that is wrong in it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.short, self.weight, self.head = (
            nn.Conv2d(3, 4, 1),
            nn.Parameter(torch.zeros(4, 1, 1)),
            head(4),
        )
        self.short.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.enter(x))
        y = self.leave(y / y.shape[1] ** 0.5)
        short = F.conv2d(x, self.short.weight * 1.0)  # a computed weight: this stream stays
        return self.head(short + self.weight * y)


class InPlace(nn.Module):
    """Writes through views, into a value that is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        flat = x.flatten(2)
        flat[:, :, ::2].mul_(0.5)
        x[:, :, 0].mul_(-1.0)
        flat += 1.0
        x.relu_()
        return self.head(x * torch.tanh(flat.view(x.shape)))


class Twins(nn.Module):
    """One module under two names, with numbers of its own to keep: conv groups and norm groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(12, 12, 3, padding=1, groups=4),
        )
        self.second, self.norm, self.head = self.first, nn.GroupNorm(4, 12), head(12)
        self.norms = nn.ModuleList([self.norm, self.norm])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(self.stem(x)))
        return self.head(self.norms[1](F.relu(self.second(F.relu(x)))))


class Products(nn.Module):
    """Products of computed tensors, all counted; what enters them stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 6, 1), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).movedim(1, 2)
        x = x + self.down(F.relu(self.up(x)))
        like = torch.einsum("n t c, n s c -> n t s", x, x).softmax(-1)
        x = torch.matmul(like, x) + torch.einsum("...tc,...cd->...td", x, torch.bmm(x.mT, x)) / 64
        strength = torch.tensordot(x, x.movedim(0, -1), dims=([1], [0])).mean((1, 2, 3))
        return self.head(x.mean(1) * torch.tanh(strength)[:, None])


class Dictionary(nn.Module):
    """Takes keyword arguments, gives back a dict that holds one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), head(8)

    def forward(
        self, image: Tensor, scale: Tensor | None = None, flip: bool = False
    ) -> dict[str, Any]:
        x = F.relu(self.stem(image if scale is None else image * scale))
        y = self.head(x.flip(3) if flip else x)
        return {"scores": y, "again": y, "best": y.argmax(1)}


class HardView(nn.Module):
    """The number of channels is written into a view."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(x)).view(x.shape[0], 8, 64).relu().view(x.shape[0], 8, 8, 8)
        return self.head(F.relu(self.narrow(x)))


class FixedSlice(nn.Module):
    """The first four channels go another way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 6, 1), head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.last(x[:, :4] + x.narrow(1, 4, 4))))


class PooledChannels(nn.Module):
    """A two-dimensional pooling of a three-dimensional tensor pools the channels too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(6, 8, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.stem(x), 2))


class Spread(nn.Module):
    """A statistic over everything, given as `var(x, False)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x / (1 + x.var(False)))


class Mixer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(x, 1).values


class Unknown(nn.Module):
    """An operation without a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixer, self.last, self.head = (
            nn.Conv2d(3, 8, 3),
            Mixer(),
            nn.Conv2d(8, 6, 1),
            head(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.mixer(self.stem(x)))))


class ControlFlow(nn.Module):
    """What runs depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.mean() > 0:
            x = -x
        return self.head(x)
