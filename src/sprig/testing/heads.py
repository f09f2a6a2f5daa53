"""Toy attention, one class per way of writing it. See `sprig.testing.toys`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention of one kind and a feed-forward block in a stream of 8."""

    def __init__(self, kind: Callable[[int, int, int], nn.Module], inner: int = 3) -> None:
        super().__init__()
        self.attend = kind(8, 4, inner)
        self.up, self.down, self.head = nn.Linear(8, 14), nn.Linear(14, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return self.head((x + self.down(F.relu(self.up(x)))).mean(1))


class Fused(nn.Module):
    """One map for q, k and v, one call for the rest."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner_dim = heads, inner, heads * inner
        self.qkv, self.out = (
            nn.Linear(width, 3 * self.inner_dim),
            nn.Linear(self.inner_dim, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, self.inner_dim))


class Separate(nn.Module):
    """Three maps, products written out, a table of relative places and a temperature per head."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, inner**-0.5
        self.q, self.k, self.v = (nn.Linear(width, heads * inner) for _ in "qkv")
        self.out = nn.Linear(heads * inner, width)
        self.table = nn.Parameter(torch.randn(9, heads))
        self.heat = nn.Parameter(torch.ones(heads, 1, 1))
        self.places: Tensor
        self.register_buffer("places", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = (q * self.scale) @ k.transpose(-2, -1) * self.heat
        scores = scores + self.table[self.places].permute(2, 0, 1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Two queries share a key and a value; places enter by rotation."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.inner, self.times = inner, 2
        self.q, self.k, self.v = (
            nn.Linear(width, heads * inner),
            nn.Linear(width, heads // 2 * inner),
            nn.Linear(width, heads // 2 * inner),
        )
        self.out = nn.Linear(heads * inner, width, bias=False)
        self.angle: Tensor
        self.register_buffer("angle", torch.randn(5, inner))

    def turned(self, x: Tensor) -> Tensor:
        half = self.inner // 2
        return (
            x * self.angle.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * self.angle.sin()
        )

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            m(x).view(n, t, -1, self.inner).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        q, k = self.turned(q), self.turned(k)
        k, v = (
            a[:, :, None].expand(-1, -1, self.times, -1, -1).reshape(n, -1, t, self.inner)
            for a in (k, v)
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, -1))


class Inner(nn.Module):
    """One head: inner dimensions of v leave; those of q and k are read by no layer that could be solved anew."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, heads * inner) for _ in "qkv")
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        like = torch.einsum("ntc,nsc->nts", self.q(x), self.k(x)).softmax(-1)
        return self.out(torch.einsum("nts,nsc->ntc", like, self.v(x)))


class Crossed(nn.Module):
    """Attention across channels, cosines of q and k: only whole heads can leave."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * heads * inner), nn.Linear(heads * inner, width)
        self.heat = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 4, 1)
        like = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.heat
        return self.out((like.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(n, t, -1))


class Stuck(nn.Module):
    """Takes the number of channels of each head from the input's width: heads stay."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.out(x.transpose(1, 2).reshape(n, t, c))


class Stored(nn.Module):
    """Weights stored as (inputs, outputs), a bias made of zeros, turns taken from a buffer."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.split_size = heads, heads * inner
        self.enter = nn.Parameter(torch.randn(width, 3 * heads * inner))
        self.shift = nn.Parameter(torch.randn(3 * heads * inner))
        self.leave = nn.Parameter(torch.randn(heads * inner, width))
        self.speeds: Tensor
        self.register_buffer("speeds", torch.rand(inner))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = torch.addmm(self.shift, x.reshape(-1, c), self.enter).view(n, t, -1)
        q, k, v = (
            a.view(n, t, self.num_heads, -1).transpose(1, 2) for a in qkv.split(self.split_size, -1)
        )
        turn = torch.cos(torch.arange(t)[:, None] * self.speeds)
        even = torch.zeros(1, self.num_heads, t, t)
        x = F.scaled_dot_product_attention(q * turn, k * turn, v, attn_mask=even)
        return x.transpose(1, 2).reshape(n, t, -1) @ self.leave


class Shared(nn.Module):
    """Many queries, one key and one value."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner_dim = heads, inner, heads * inner
        self.q, self.kv = nn.Linear(width, self.inner_dim), nn.Linear(width, 2 * inner)
        self.out = nn.Linear(self.inner_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        k, v = self.kv(x).unsqueeze(1).chunk(2, dim=-1)
        q = self.q(x).reshape(n, t, self.num_heads, self.head_dim).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, self.inner_dim))


class Joined(nn.Module):
    """One map whose bias is joined from two parameters and a buffer."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner_dim = heads, inner, heads * inner
        self.qkv = nn.Linear(width, 3 * self.inner_dim, bias=False)
        self.ask, self.tell = (nn.Parameter(torch.randn(self.inner_dim)) for _ in "qv")
        self.none: Tensor
        self.register_buffer("none", torch.zeros(self.inner_dim))
        self.out = nn.Linear(self.inner_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = F.linear(x, self.qkv.weight, torch.cat([self.ask, self.none, self.tell]))
        q, k, v = qkv.reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, self.inner_dim))


class Places(nn.Module):
    """A table of relative places that keeps the shape of what it gives ready."""

    def __init__(self, heads: int, length: int) -> None:
        super().__init__()
        self.bias_shape = (length, length, heads)
        self.table = nn.Parameter(torch.randn(2 * length - 1, heads))
        self.index: Tensor
        places = torch.arange(length)[:, None] - torch.arange(length) + length - 1
        self.register_buffer("index", places.reshape(-1))

    def get_bias(self) -> Tensor:
        return self.table[self.index].view(self.bias_shape).permute(2, 0, 1).unsqueeze(0)


class Placed(nn.Module):
    """Attention that asks a part of its own for what every head adds."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.inner_dim = heads, heads * inner
        self.qkv, self.out = (
            nn.Linear(width, 3 * self.inner_dim),
            nn.Linear(self.inner_dim, width),
        )
        self.places = Places(heads, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, self.places.get_bias())
        return self.out(x.transpose(1, 2).reshape(n, t, self.inner_dim))
