"""Toys that take patches out and put them together, mix heads, and choose between kernels. See `sprig.testing.toys`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing.blocks import head


class Patches(nn.Module):
    """Patches of pixels become features and come back, overlapping; every second window of a row is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 9, 7)
        self.back, self.last, self.head = nn.Linear(7, 5 * 16), nn.Conv2d(5, 4, 1), head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(F.relu(self.stem(x)), 3, padding=1, stride=2)
        x = self.back(F.relu(self.mix(x.transpose(1, 2)))).transpose(1, 2)
        x = F.relu(F.fold(x, (8, 8), 4, padding=1, stride=2))
        return self.head(F.relu(self.last(x)).unfold(2, 3, 2).amax(-1))


class TalkingHeads(nn.Module):
    """Heads are mixed before and after the softmax: those who are mixed leave as channels of their mixing map."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.inner = heads, inner
        self.qkv = nn.Linear(width, 3 * heads * inner)
        self.before, self.after = nn.Linear(heads, heads), nn.Linear(heads, heads)
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, -1, self.inner).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).softmax(2)
        x = self.after(scores).permute(0, 3, 1, 2) @ v
        return self.out(x.transpose(1, 2).reshape(n, t, -1))


class ClassAttention(nn.Module):
    """Only a class token asks, and all answer; it alone is changed."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.inner = heads, inner
        self.q, self.k, self.v = (nn.Linear(width, heads * inner) for _ in "qkv")
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x[:, 0]).view(n, 1, -1, self.inner).transpose(1, 2)
        k, v = (m(x).view(n, t, -1, self.inner).transpose(1, 2) for m in (self.k, self.v))
        token = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 1, -1)
        return torch.cat([self.out(token), torch.zeros_like(x[:, 1:])], 1)


class Selective(nn.Module):
    """Two kernels see half of the channels each; a softmax over the two weighs what they say, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.stem = 8, nn.Conv2d(3, 8, 3, padding=1)
        self.near, self.far = (
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=2, dilation=2),
        )
        self.squeeze, self.choose, self.head = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 12, 1), head(6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(F.relu(self.stem(x)), self.channels // 2, 1)
        seen = torch.stack([F.relu(self.near(a)), F.relu(self.far(b))], 1)
        weights = self.choose(F.relu(self.squeeze(seen.sum(1).mean((2, 3), keepdim=True))))
        weights = weights.view(len(x), 2, -1, 1, 1).softmax(1)
        return self.head((seen * weights).sum(1))


class RootMeanSquare(nn.Module):
    """A norm over the stream keeps the stream; the gated interior of the block leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 8), nn.RMSNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.norm(x)
        return self.head((x + self.down(F.silu(self.gate(y)) * self.up(y))).mean(1))


class Speaker(nn.Module):
    """One table for the words that come in and those that go out: its features leave, its words stay."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return self.out(x + self.down(F.relu(self.up(x))))


def speaker() -> nn.Module:
    return Speaker()


speaker.lookup = True  # type: ignore[attr-defined]
