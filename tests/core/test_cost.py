"""Costs from the graph alone against a recount by torch, and the multilinear model against the exact sum."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.cost import CostModel, cost, prices, shares
from sprig.core.graph import build
from sprig.core.types import Axis, CostTerm, Graph
from sprig.testing import toys
from sprig.testing.checks import counted, parameters, size


def _double(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("name", toys.names(error=False))
def test_dense_costs_equal_a_recount(name: str) -> None:
    net, example = toys.make(name)
    # in double precision: recurrent layers have a fused kernel in single, which nothing counts
    _, macs = counted(copy.deepcopy(net).double(), tuple(_double(x) for x in example), {})
    assert cost(build(net, example)) == {
        "macs": macs,
        "params": parameters(net),
        "bytes": size(net),
    }


@pytest.mark.parametrize("name", toys.names(error=False))
def test_prices_of_all_weights_are_at_most_the_cost(name: str) -> None:
    net, example = toys.make(name)
    graph = build(net, example)
    named = dict(net.named_parameters())
    paid = sum(
        float(p.sum()) * named[n].numel() / len(p) for n, p in prices(graph).items() if n in named
    )
    assert 0 < paid <= cost(graph)["macs"] * (1 + 1e-9)


class Reader(nn.Module):
    """Attention from few places to many, a recurrence and its projection, an einsum with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.again = nn.LSTM(8, 6, batch_first=True)
        self.narrow = nn.LSTM(6, 5, proj_size=3, batch_first=True)
        self.mix = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention(x[:, :2], x, x, need_weights=False)[0]
        x = self.narrow(self.again(x)[0])[0]
        return torch.einsum("btc,cd->btd", x, self.mix)


def test_weights_of_attention_and_recurrent_layers_have_prices() -> None:
    torch.manual_seed(0)
    net, x = Reader().eval(), torch.randn(3, 7, 8)
    graph = build(net, (x,))
    found = prices(graph)
    queries, others = 2, 7
    fused = found["attention.in_proj_weight"]
    assert fused.tolist() == [queries] * 8 + [others] * 16
    for name in ("attention.out_proj.weight", "mix", *(
        f"{m}.weight_{w}_l0" for m in ("again", "narrow") for w in ("ih", "hh")
    ), "narrow.weight_hr_l0"):  # fmt: skip
        assert set(found[name].tolist()) == {queries}, name
    named = dict(net.named_parameters())
    paid = sum(float(p.sum()) * named[n].numel() / len(p) for n, p in found.items())
    assert paid == cost(graph)["macs"] - 2 * queries * others * 8  # attention's own two products


def test_cost_is_per_sample_and_in_the_models_bytes() -> None:
    net, (x,) = toys.make("bottleneck")
    assert cost(build(net, (x,))) == cost(build(net, (x[:1],)))
    assert cost(build(net.half(), (x.half(),)))["bytes"] < cost(build(net.float(), (x,)))["bytes"]
    by_hand = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, groups=1), nn.Flatten(), nn.Linear(72, 2))
    graph = build(by_hand, (torch.randn(4, 3, 8, 8),))
    assert cost(graph)["macs"] == 9 * (3 * 9) * 8 + 72 * 2
    assert cost(graph)["params"] == 3 * 9 * 8 + 8 + 72 * 2 + 2


@pytest.mark.parametrize(
    "name", ["residual", "dense", "resnext", "squeeze_excite", "flatten", "shuffle", "group_norm"]
)
@pytest.mark.parametrize("unit", ["macs", "params", "bytes"])
def test_the_model_of_costs_equals_the_sum_over_masks(name: str, unit: str, seed: int) -> None:
    graph = build(*toys.make(name))
    model, draw = CostModel(graph, unit), np.random.default_rng(seed)
    full = np.array([g.size for g in graph.groups])
    assert model(full) == cost(graph)[unit]
    for _ in range(10):
        masks, kept = {}, full.copy()
        for g in graph.prunable:
            kept[g.index] = draw.integers(1, g.size + 1)
            masks[g.index] = draw.permutation(g.size) < kept[g.index]
        assert model(kept) == pytest.approx(cost(graph, masks)[unit], rel=1e-12)


def test_gradient_is_the_cost_of_one_more_unit(seed: int) -> None:
    graph = build(*toys.make("inception"))
    draw = np.random.default_rng(seed)
    kept = np.array([draw.integers(1, g.size + 1) for g in graph.groups], dtype=float)
    for unit in ("macs", "params", "bytes"):
        model = CostModel(graph, unit)
        slopes = model.gradient(kept)
        for g in range(len(graph.groups)):
            more = kept.copy()
            more[g] += 1  # in this network no term is quadratic in a group
            assert slopes[g] == pytest.approx(model(more) - model(kept), rel=1e-9)


def test_a_graph_without_groups_still_costs() -> None:
    graph = Graph(
        (),
        (),
        (),
        (CostTerm("macs", 7.0, (Axis(np.array([-1, -1]), np.array([-1, -1])),), "x"),),
        (),
        {},
        "",
    )
    model = CostModel(graph, "macs")
    assert model(np.zeros(0)) == cost(graph)["macs"] == 14
    assert CostModel(graph, "params").gradient(np.zeros(0)).shape == (0,)


def test_shares_of_a_chain() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    found = shares(build(net, (torch.randn(2, 4),)))
    total = 32 + 48 + 12
    assert found[0] == pytest.approx((32 + 48) / total)
    assert found[1] == pytest.approx((48 + 12) / total)
    assert shares(build(net, (torch.randn(2, 4),)), [1]) == {1: found[1]}
