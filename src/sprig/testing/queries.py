"""Toy attention as language models of today write it. See `sprig.testing.toys`."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gain(nn.Module):
    """A root-mean-square norm, written out, with a gain that grows from one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Evened(nn.Module):
    """Queries and keys are normalised within each head; the gain is the same for all heads."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        self.q, self.k, self.v = (nn.Linear(width, heads * inner) for _ in "qkv")
        self.even_q, self.even_k = Gain(inner), Gain(inner)
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, -1, self.inner) for m in (self.q, self.k, self.v))
        q, k, v = (a.transpose(1, 2) for a in (self.even_q(q), self.even_k(k), v))
        scores = q @ k.transpose(-2, -1)
        scores = scores - scores.max(dim=-1, keepdim=True).values
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, -1))


class Alone(nn.Module):
    """One key and one value, repeated for every query before they meet."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.inner, self.num_key_value_groups = inner, heads
        self.q, self.k, self.v = (nn.Linear(width, n * inner) for n in (heads, 1, 1))
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            m(x).view(n, t, -1, self.inner).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        k, v = (
            a[:, :, None]
            .expand(n, 1, self.num_key_value_groups, t, self.inner)
            .reshape(n, self.num_key_value_groups, t, self.inner)
            for a in (k, v)
        )
        scores = (q @ k.transpose(2, 3)).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(n, t, -1))


class Ranges(nn.Module):
    """One map for four queries, two keys and two values, taken apart by ranges that a shared configuration tells."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_heads=heads, num_kv_heads=heads // 2)
        self.inner = inner
        self.qkv = nn.Linear(width, 2 * heads * inner)
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        first = self.config.num_heads * self.inner
        second = first + self.config.num_kv_heads * self.inner
        x = self.qkv(x)
        parts = x[..., :first], x[..., first:second], x.narrow(-1, second, second - first)
        q, k, v = (a.view(n, t, -1, self.inner).transpose(1, 2) for a in parts)
        k, v = (a.repeat_interleave(2, dim=1) for a in (k, v))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, -1))


class Unlike(nn.Module):
    """Four queries, one key and one value out of one map: the queries may leave, what they share stays."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads, self.embed_dim, self.inner = heads, heads * inner, inner
        self.qkv = nn.Linear(width, (heads + 2) * inner)
        self.out = nn.Linear(heads * inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).split((self.embed_dim, self.inner, self.inner), dim=-1)
        q = q.view(n, t, self.num_heads, -1).transpose(1, 2)
        k, v = (a.unsqueeze(1).expand(-1, self.num_heads, -1, -1) for a in (k, v))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, t, -1))


class Turned(nn.Module):
    """Weights of (outputs, inputs), turned by hand for each product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 7)
        self.third, self.last = nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x @ self.first.weight.T + self.first.bias)
        x = torch.relu(torch.addmm(self.second.bias, x, self.second.weight.permute(1, 0)))
        x = torch.tanh(torch.matmul(x, self.third.weight.transpose(-1, 0)))
        return self.last(x)


class Offered(nn.Module):
    """The first rows of a product meet a whole that stays; the others may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.width = nn.Linear(6, 10), nn.Linear(6, 3), 6

    def forward(self, x: Tensor) -> Tensor:
        given, own = self.enter(x).split((4, self.width), dim=-1)
        return torch.cat([given * 0.5, self.leave(torch.relu(own))], dim=-1)


class Shares(nn.Module):
    """A mixer that keeps the lengths of a split ready: a gate, what passes, and what is looked at around each place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 20, 1), nn.Conv2d(8, 5, 1)
        self.around = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.split_indices = [8, 5, 3, 4]

    def forward(self, x: Tensor) -> Tensor:
        gate, passed, near, far = torch.split(self.enter(x), self.split_indices, dim=1)
        near = self.around(near) + far.mean(1, keepdim=True)
        return self.leave(torch.sigmoid(gate) * torch.cat([passed, near], dim=1)).mean((2, 3))
