"""Channels that are taken by their places, repeated tensors, odd biases: every cut on offer holds, or none is."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sprig
from sprig.core.cost import cost
from sprig.core.surgery import mask, shrink
from sprig.core.tracing import distance, trace
from sprig.testing.checks import counted, output, random_plan

CUTS = 30


def holds(net: nn.Module, x: Tensor) -> sprig.Graph:
    """The graph of a network of which many random cuts were masked, shrunk, compared and counted."""
    net, x = copy.deepcopy(net).double().eval(), x.double()
    graph = trace(net, (x,))
    every, draw = [g.index for g in graph.prunable], np.random.default_rng(0)
    for turn in range(CUTS if every else 0):
        plan = random_plan(graph, every if turn % 2 else [every[turn // 2 % len(every)]], draw)
        small = shrink(net, plan, graph)
        answer, macs = counted(small, (x,), {})
        assert distance(output(mask(net, plan, graph), (x,), {}), answer) < 1e-9, plan.keep
        predicted = cost(graph, plan.masks(graph))
        assert predicted["macs"] == macs
        assert predicted["params"] == sum(p.numel() for p in small.parameters())
    return graph


class Between(nn.Module):
    """Something done to the channels between two maps."""

    def __init__(self, act: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.act, self.a, self.c = act, nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.a(x)))


def first(h: Tensor) -> Tensor:
    return torch.cat([h[:, :1].sigmoid(), h[:, 1:].relu()], 1)


def last(h: Tensor) -> Tensor:
    return torch.cat([h[:, :-1].relu(), h[:, -1:] * 2], 1)


def quarter(h: Tensor) -> Tensor:
    return torch.cat([2 * h[:, : h.shape[1] // 4], h[:, h.shape[1] // 4 :].relu()], 1)


def chunks(h: Tensor) -> Tensor:
    p, q = h.chunk(2, 1)
    return torch.cat([2 * p, q.relu()], 1)


def nothing(h: Tensor) -> Tensor:
    return torch.cat([h[:, :0], h.relu()], 1)


def every_other(h: Tensor) -> Tensor:
    return h[:, ::2].repeat(1, 2) + h[:, 1::2].repeat(1, 2)


@pytest.mark.parametrize(
    ("act", "width"),
    [(first, 16), (last, 6), (last, 24), (quarter, 12), (chunks, 5), (chunks, 7), (chunks, 11),
     (nothing, 8), (every_other, 4)],
)  # fmt: skip
def test_fixed_ranges_are_refused_or_followed(act: Any, width: int) -> None:
    torch.manual_seed(0)
    holds(Between(act, width), torch.randn(4, 6))


class Apart(nn.Module):
    """Two parts of unlike length, one of which something is done to that wants at least one channel."""

    def __init__(self, act: Callable[[Tensor], Tensor], sizes: tuple[int, int]) -> None:
        super().__init__()
        self.sizes, self.act = list(sizes), act
        self.a, self.c = nn.Conv2d(3, sum(sizes), 1), nn.Conv2d(sum(sizes), 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).split(self.sizes, 1)
        return self.c(torch.cat([self.act(a), b.relu()], 1)).mean((2, 3))


@pytest.mark.parametrize("sizes", [(2, 6), (3, 5), (4, 8), (2, 14)])
def test_a_part_of_a_split_is_never_left_without_channels(sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = Apart(lambda a: F.avg_pool2d(a, 3, 1, 1), sizes)
    with torch.no_grad():
        net.c.weight[:, : sizes[0]] *= 1e-4
    x = torch.randn(4, 3, 5, 5)
    graph = holds(net, x)
    assert [g.size for g in graph.prunable] == [sum(sizes) - 2]
    done = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.6))
    assert done.certificate.passed and min(done.model.sizes) > 0


class Neighbours(nn.Module):
    """Both factors of a product are the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.r = nn.Parameter(torch.randn(1, 5, 4)), nn.Parameter(torch.randn(1, 4, 5))
        self.a, self.c = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        like = (self.p.expand(n, -1, -1) @ self.r.expand(n, -1, -1)).softmax(-1)
        return self.c(torch.relu(like @ self.a(x)))


def test_products_of_repeated_tensors_cost_what_they_do() -> None:
    torch.manual_seed(0)
    assert [g.name for g in holds(Neighbours(), torch.randn(3, 5, 6)).prunable] == ["a"]


class Changed(nn.Module):
    """One value for all heads, until that of the first is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 3), nn.Linear(6, 3)
        self.out, self.num_heads = nn.Linear(12, 4), 4

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.num_heads, -1).transpose(1, 2)
        k, v = (m(x)[:, None].expand(n, self.num_heads, t, 3) for m in (self.k, self.v))
        v = v.clone()
        v[:, 0] *= 3
        x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, t, -1))


def test_what_is_written_to_is_not_taken_for_repeated() -> None:
    torch.manual_seed(0)
    holds(Changed(), torch.randn(2, 5, 6))


@pytest.mark.parametrize("shape", [(7,), (1, 7), (4, 7), (1,), ()])
def test_biases_of_any_shape_beside_a_turned_weight(shape: tuple[int, ...]) -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w, self.c = nn.Linear(6, 8), nn.Linear(8, 7, bias=False), nn.Linear(7, 3)
            self.b = nn.Parameter(torch.randn(shape))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.addmm(self.b, torch.relu(self.a(x)), self.w.weight.T)
            return self.c(torch.relu(x))

    torch.manual_seed(0)
    graph = holds(Added(), torch.randn(4, 6))
    assert shape != (7,) or {g.name for g in graph.prunable} == {"a", "w"}


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    "kept", [[torch.ones(3)] * 2, [np.zeros(3)] * 2, Pair(8, 8), (8, 8), ["8", "8"]]
)
def test_lists_that_have_nothing_to_do_with_a_split(kept: Any) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.kept = nn.Linear(6, 16), nn.Linear(8, 3), kept

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.up(x).chunk(2, -1)
            return self.down(a.sigmoid() * b) * len(self.kept)

    torch.manual_seed(0)
    assert [g.name for g in holds(Gated(), torch.randn(4, 6)).prunable] == ["up"]


class Configured(nn.Module):
    """Heads as a shared configuration has them, read under another name."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.q, self.k, self.v = (nn.Linear(6, 12) for _ in "qkv")
        self.out = nn.Linear(12, 6)

    def apart(self, x: Tensor) -> Tensor:
        config = self.config
        return x.view(*x.shape[:2], config.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(m(x)) for m in (self.q, self.k, self.v))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


def test_layers_that_share_a_configuration_are_cut_apart() -> None:
    torch.manual_seed(0)
    config = SimpleNamespace(num_heads=4)
    net = nn.Sequential(Configured(config), Configured(config), nn.Linear(6, 2))
    graph = holds(net, torch.randn(3, 5, 6))
    assert [g.size for g in graph.prunable if g.name.endswith(".q")] == [4, 4]
    assert config.num_heads == 4
