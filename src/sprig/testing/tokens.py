"""Toy networks of tokens and tables, with parameters that stand outside of any layer. See `sprig.testing.toys`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing.blocks import head


class LayerNormStream(nn.Module):
    """A feed-forward block behind a layer norm: its interior leaves, the stream stays."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


class LayerScale(nn.Module):
    """As in ConvNeXt: depthwise, channels last inside the block, a learned scale that starts near zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = (
            nn.Conv2d(3, 8, 2, stride=2),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.depth(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.head(x + self.scale * y)


class Position(nn.Module):
    """Patches as tokens, with a learned vector per place: cut along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.place, self.token = (
            nn.Parameter(torch.randn(1, 5, 8)),
            nn.Parameter(torch.randn(1, 1, 8)),
        )
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Words(nn.Module):
    """An embedding: its features leave, its words do not, even when a layer shares the table."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.head = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.vote = nn.Linear(8, 11, bias=False)
        self.vote.weight = self.words.weight
        self.after = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x).mean(1)
        return self.head(F.relu(self.up(x))) + self.after(F.relu(self.vote(x)))


def words() -> nn.Module:
    return Words()


words.lookup = True  # type: ignore[attr-defined]


class Clip(nn.Module):
    """A learned ceiling per channel, a buffer per channel, and a number raised to a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), head(8)
        self.ceiling = nn.Parameter(torch.rand(8, 1, 1) + 0.1)
        self.register_buffer("shift", torch.randn(1, 8, 1, 1), persistent=False)
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.head(2 ** -torch.clamp(self.conv(x), max=self.ceiling) + self.shift)
