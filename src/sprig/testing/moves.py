"""Toys that move channels about: pixels, repeats, lookups, regions without autocast. See `sprig.testing.toys`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing.blocks import head


class Pixels(nn.Module):
    """Four channels become one at twice the size, and the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.coarse, self.head = (
            nn.Conv2d(3, 24, 3, padding=1),
            nn.Conv2d(6, 5, 1),
            nn.Conv2d(20, 6, 1),
            head(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fine(F.pixel_shuffle(F.relu(self.stem(x)), 2)))
        return self.head(F.relu(self.coarse(F.pixel_unshuffle(x, 2))))


class Folded(nn.Module):
    """The same as `Pixels`, by hand: a view, a permutation, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.head = (
            nn.Conv2d(3, 24, 3, padding=1),
            nn.Conv2d(6, 5, 1),
            head(5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        n, _, h, w = x.shape
        x = x.view(n, -1, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, 2 * h, 2 * w)
        return self.head(F.relu(self.fine(x)))


class Repeats(nn.Module):
    """Channels come again: side by side, one after the other, picked out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.wide, self.head = (
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(12, 5, 1),
            nn.Conv2d(10, 4, 1),
            head(4),
        )
        self.order: Tensor
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.stem(x)).repeat(1, 2, 1, 1)))
        x = torch.tanh(self.wide(x.repeat_interleave(2, dim=1)))
        return self.head(x[:, :, self.order].index_select(3, self.order))


class Quiet(nn.Module):
    """A part of the forward pass that switches autocast off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.autocast("cpu", enabled=False):
            x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1)
        return self.head(F.relu(self.more(x)))
