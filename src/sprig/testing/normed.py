"""Tiny networks whose streams are read by norms over the channels, and what may leave once norms do not hold it.

`NORMED` is to `trace(..., norms="cut")` what `toys.TOYS` is to `trace`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing import tokens
from sprig.testing.heads import Fused
from sprig.testing.toys import Toy


class Layered(nn.Module):
    """Words, places and a class token; pre-norm attention and feed-forward blocks; a norm before the head."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm, width: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(11, width)
        self.place = nn.Parameter(torch.randn(1, 6, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(_Block(norm, width) for _ in range(2))
        self.norm, self.head = norm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.words(x)], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class _Block(nn.Module):
    def __init__(self, norm: type[nn.Module], width: int) -> None:
        super().__init__()
        self.before, self.attend = norm(width), Fused(width, 2, 4)
        self.between, self.up, self.down = norm(width), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.before(x))
        return x + self.down(F.gelu(self.up(self.between(x))))


def rooted() -> nn.Module:
    """The same with RMSNorm, which subtracts no mean."""
    return Layered(nn.RMSNorm)


def layered() -> nn.Module:
    return Layered()


layered.lookup = rooted.lookup = True  # type: ignore[attr-defined]


class ImageNorm(nn.LayerNorm):
    """A norm over the channels of images: they go last and come back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stages(nn.Module):
    """Two stages as in ConvNeXt: norms over the channels of images, in the stem, in the blocks and between stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), ImageNorm(8))
        self.first = _ConvBlock(8)
        self.fewer = nn.Sequential(ImageNorm(8), nn.Conv2d(8, 12, 2, stride=2))
        self.second = _ConvBlock(12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.fewer(self.first(self.stem(x))))
        return self.head(self.norm(x.mean((2, 3))))


class _ConvBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(x).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y)))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class Gated(nn.Module):
    """As in gMLP: half of the features, normalised and mixed over the places, scales the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.up, self.gate, self.mix = nn.Linear(8, 20), nn.LayerNorm(10), nn.Linear(5, 5)
        self.down, self.head = nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        u, v = F.gelu(self.up(self.norm(x))).chunk(2, -1)
        v = self.mix(self.gate(v).transpose(-1, -2)).transpose(-1, -2)
        return self.head((x + self.down(u * (1 + v))).mean(1))


class Joined(nn.Module):
    """Features beside the inputs, which never leave, under one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = nn.Linear(6, 7), nn.LayerNorm(13), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(torch.cat([self.a(x), x], -1))))


class Shared(nn.Module):
    """One norm called twice, and a second one that has its gain."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.last.weight = self.norm.weight
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        x = x + self.down(torch.tanh(self.up(self.norm(x))))
        return self.head(self.last(x))


class Bare(nn.Module):
    """Norms that stay out of it: without a gain, and written out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up, self.head = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)
        self.gain = nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.layer_norm(self.enter(x), (8,))))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        return self.head(x)


class Places(nn.Module):
    """A norm over places and channels at once."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 8), nn.LayerNorm((5, 8))
        self.up, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.norm(self.enter(x)))).mean(1))


def encoder() -> nn.Module:
    """torch's own encoder, whose fused path reads the weights of its norms."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
    stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(6, 8), stack, nn.Linear(8, 3))


TOKENS, IMAGE = (2, 5, 6), (3, 3, 8, 8)

NORMED: dict[str, Toy] = {
    "stream": Toy(tokens.LayerNormStream, TOKENS, ("enter", "up")),
    "layered": Toy(
        layered,
        (3, 5),
        ("words", "blocks.0.attend.qkv", "blocks.0.up", "blocks.1.attend.qkv", "blocks.1.up"),
    ),
    "rooted": Toy(
        rooted,
        (3, 5),
        ("words", "blocks.0.attend.qkv", "blocks.0.up", "blocks.1.attend.qkv", "blocks.1.up"),
    ),
    "stages": Toy(Stages, IMAGE, ("stem.0", "first.up", "fewer.1", "second.up")),
    "gated": Toy(Gated, TOKENS, ("enter", "up")),
    "joined": Toy(Joined, (4, 6), ("a",)),
    "shared": Toy(Shared, (4, 6), ("enter", "up")),
    "encoder": Toy(
        encoder,
        TOKENS,
        (
            "0",
            "1.layers.0.self_attn",
            "1.layers.0.linear1",
            "1.layers.1.self_attn",
            "1.layers.1.linear1",
        ),
    ),
    "bare": Toy(Bare, (4, 6), (), says="it has no gain of its own"),
    "by_hand": Toy(Bare, (4, 6), (), says="for a norm written out"),
    "places": Toy(Places, TOKENS, ("up",), says="it is taken over several dimensions"),
}
