"""Factors folded into real networks, against contributions worked out from recorded activations."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sprig.core.batches import unpack
from sprig.core.collect import judges
from sprig.core.plan import Plan
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.core.workbench import Workbench
from sprig.methods.greedy.gramwise import (
    LinesearchConfig,
    ReweightConfig,
    UniformConfig,
    name_of,
    realise,
    search,
)

CONFIGS = (
    ReweightConfig(),
    ReweightConfig(classic=True),
    UniformConfig(),
    UniformConfig(replacement=False),
    UniformConfig(atoms="norm"),
    LinesearchConfig(),
    LinesearchConfig(shrink=True, atoms="mean"),
)
CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # moments are summed from float32 products


def filled(net: nn.Module, seed: int = 0) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 0.5, generator=g)
                m.running_var.uniform_(0.5, 2, generator=g)
    return net.double().eval()


class Mlp(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 7), nn.Linear(7, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.relu(self.a(x)))


class Meeting(nn.Module):
    """Two groups meet in one consumer; a third consumer reads one of them, in front of a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.both = nn.Conv2d(9, 3, 1)
        self.one, self.bn = nn.Conv2d(5, 3, 3, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = functional.relu(self.a(x)), functional.relu(self.b(x))
        both = self.both(torch.cat([a, b], 1))
        return (both.mean((2, 3)) + self.bn(self.one(a)).mean((2, 3))).tanh()


class Tied(nn.Module):
    """One consumer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.relu(self.a(x))) * self.b(functional.relu(self.a(x.flip(1) + 2)))


def bench_of(net: nn.Module, *shape: int, n: int = 96) -> Workbench:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(n, *shape, generator=g, dtype=torch.float64)
    return Workbench(net, trace(net, (x[:4],)), [unpack(x)])


def inputs_of(bench: Workbench) -> Tensor:
    (((x,), _, _),) = bench.triples
    return x


def plan_of(bench: Workbench, **keep: tuple[int, ...]) -> Plan:
    sizes = {name: bench.graph.group(name).size for name in keep}
    return Plan(keep=keep, sizes=sizes, graph=bench.graph.fingerprint)


def hidden(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.relu(net.a(x))


def least_error(
    h: Tensor, w: Tensor, kept: tuple[int, ...], *, centred: bool
) -> tuple[float, Tensor]:
    """Best factors of the columns kept, by numpy on the contributions themselves."""
    h = h - h.mean(0) if centred else h
    y = (h @ w.T).flatten().numpy()
    z = np.stack([torch.outer(h[:, i], w[:, i]).flatten().numpy() for i in kept], 1)
    alpha = np.linalg.lstsq(z, y, rcond=None)[0]
    return float(((y - z @ alpha) ** 2).sum() / (y**2).sum()), torch.from_numpy(alpha)


@pytest.mark.parametrize("bias", [True, False])
def test_reweight_gives_the_best_factors_of_a_set(bias):
    net = filled(Mlp(bias=bias))
    bench = bench_of(net, 4)
    kept = (0, 3, 4, 6)
    outcome = realise(bench, plan_of(bench, a=kept), ReweightConfig())
    h, w = hidden(net, inputs_of(bench)), net.b.weight.detach()
    _, alpha = least_error(h, w, kept, centred=bias)
    expected = torch.zeros_like(w)
    expected[:, kept] = w[:, kept] * alpha
    torch.testing.assert_close(outcome.weights["b.weight"], expected, **CLOSE)
    assert set(outcome.weights) == ({"b.weight", "b.bias"} if bias else {"b.weight"})
    if bias:  # the mean of the output stays
        gone = (h @ w.T).mean(0) - (h @ expected.T).mean(0)
        torch.testing.assert_close(outcome.weights["b.bias"], net.b.bias + gone, **CLOSE)
    assert outcome.plan.cost["params"] == 4 * 4 + 4 + 4 * 5 + (5 if bias else 0)


def test_reweight_search_picks_by_exact_error():
    net = filled(Mlp())
    bench = bench_of(net, 4)
    path = search(bench, ReweightConfig())
    h, w = hidden(net, inputs_of(bench)), net.b.weight.detach()
    found = path.groups["a"]
    picks: list[int] = []
    for n in range(7):
        tried = {
            i: least_error(h, w, (*picks, i), centred=True)[0] for i in range(7) if i not in picks
        }
        picks.append(min(tried, key=tried.__getitem__))
        assert found.order[n] == picks[-1]
        assert found.errors[n + 1] == pytest.approx(tried[picks[-1]], rel=1e-3, abs=1e-5)
    best = min(least_error(h, w, c, centred=True)[0] for c in combinations(range(7), 1))
    assert found.errors[1] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("again", [True, False])
def test_uniform_folds_counts(again):
    """The published rule, tried out on the contributions; the best step with three units in is what is folded."""
    net = filled(Mlp())
    bench = bench_of(net, 4)
    config = UniformConfig(replacement=again)
    order = search(bench, config).groups["a"].order
    h, w = hidden(net, inputs_of(bench)), net.b.weight.detach()
    h = h - h.mean(0)
    z = torch.stack([torch.outer(h[:, i], w[:, i]).flatten() for i in range(7)])
    live = [i for i in range(7) if z[i].norm() > 0]
    counts, n, seen = torch.zeros(7, dtype=torch.float64), 0, []
    kept = order[:3]
    while n < (28 if again else 3):
        tried = {}
        for i in kept:
            if again or not counts[i]:
                after = counts.clone()
                after[i] += 1
                f = (len(live) * after / (n + 1)) @ z
                tried[i] = float((f - z.sum(0)).square().sum())
        pick = min(tried, key=tried.__getitem__)
        counts[pick] += 1
        n += 1
        seen.append((tried[pick], len(live) * counts / n))
    best = min(seen, key=lambda s: s[0])[1]
    outcome = realise(bench, plan_of(bench, a=tuple(sorted(kept))), config)
    torch.testing.assert_close(outcome.weights["b.weight"], w * best, **CLOSE)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_paths_and_their_realisation(config):
    net = filled(Meeting())
    before = {n: t.clone() for n, t in net.state_dict().items()}
    bench = bench_of(net, 2, 6, 6)
    path = search(bench, config)
    assert path.method == name_of(config) == type(config).__name__[:-6].lower()
    for group in bench.graph.prunable:
        found, harm = path.groups[group.name], path.harm[group.name]
        assert sorted(found.order) == list(range(group.size))
        for curve in (found.errors, harm):
            assert len(curve) == group.size + 1 and curve[-1] == 0
            assert list(curve) == sorted(curve, reverse=True)
        assert sum(found.gains) == pytest.approx(found.errors[0])
    plan = Plan.from_json(path.at(Budget(params=0.6)).to_json())
    one = realise(bench, plan, config)
    two = realise(bench_of(net, 2, 6, 6), plan, config)
    assert one.weights and one.weights.keys() == two.weights.keys()
    assert all(torch.equal(one.weights[n], two.weights[n]) for n in one.weights)
    assert one.plan.keep == plan.keep
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    whole = plan_of(bench, **{g.name: tuple(range(g.size)) for g in bench.graph.prunable})
    assert realise(bench, whole, config).weights == {}


def test_groups_that_meet_scale_their_own_columns():
    net = filled(Meeting())
    bench = bench_of(net, 2, 6, 6)
    config = ReweightConfig()
    plans = {
        "a": plan_of(bench, a=(0, 1, 4)),
        "b": plan_of(bench, b=(1, 3)),
        "ab": plan_of(bench, a=(0, 1, 4), b=(1, 3)),
    }
    found = {name: realise(bench, plan, config).weights for name, plan in plans.items()}
    old = net.both.weight.detach()
    together = found["ab"]["both.weight"]
    torch.testing.assert_close(together[:, :5], found["a"]["both.weight"][:, :5])
    torch.testing.assert_close(together[:, 5:], found["b"]["both.weight"][:, 5:])
    assert torch.equal(found["a"]["both.weight"][:, 5:], old[:, 5:])
    ratio = (together / old).flatten(1)  # one factor per column
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert not together[:, [2, 3, 5, 7]].any() and bool((together[:, [0, 1, 4, 6, 8]] != 0).all())
    moved = [found[n]["both.bias"] - net.both.bias for n in ("a", "b", "ab")]
    torch.testing.assert_close(moved[0] + moved[1], moved[2])
    assert "one.weight" not in found["b"] and "bn.running_mean" not in found["b"]


def test_the_batch_norm_behind_takes_up_the_mean():
    net = filled(Meeting())
    bench = bench_of(net, 2, 6, 6)
    weights = realise(bench, plan_of(bench, a=(0, 2)), ReweightConfig()).weights
    h = hidden(net, inputs_of(bench))
    with torch.no_grad():
        dense = net.bn(net.one(h)).mean((0, 2, 3))
        conv = functional.conv2d(h, weights["one.weight"])
        same = {"bn.running_mean": weights["bn.running_mean"]}
        renewed = {n.removeprefix("bn."): t for n, t in same.items()}
        now = torch.func.functional_call(net.bn, renewed, (conv,)).mean((0, 2, 3))
        stale = net.bn(conv).mean((0, 2, 3))
    torch.testing.assert_close(now, dense, rtol=1e-3, atol=1e-3)
    assert float((stale - dense).abs().max()) > 0.05


def test_a_consumer_called_twice_is_scaled_once():
    net = filled(Tied())
    bench = bench_of(net, 3)
    kept = (0, 2, 5)
    weights = realise(bench, plan_of(bench, a=kept), ReweightConfig()).weights
    x, w = inputs_of(bench), net.b.weight.detach()
    first, second = hidden(net, x), hidden(net, x.flip(1) + 2)
    ratio = weights["b.weight"] / w
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert not ratio[:, [1, 3, 4]].any()
    gone = [(h @ (w - weights["b.weight"]).T).mean(0) for h in (first, second)]
    expected = net.b.bias + (gone[0] + gone[1]) / 2
    torch.testing.assert_close(weights["b.bias"], expected, rtol=1e-3, atol=1e-3)


def test_harm_is_measured_where_the_trials_are():
    """Harm at a size that was tried is that of the folded network, on the part that the factors have not seen."""
    net = filled(Mlp())
    bench = bench_of(net, 4)
    config = replace(UniformConfig(), trials=(0.5,))
    path = search(bench, config)
    weights = realise(bench, path.plan({bench.graph.group("a").index: 4}), config).weights
    x = torch.cat([c.args[0][: c.rows] for i, c in enumerate(bench.chunks) if judges(i)])
    with torch.no_grad():
        p = net(x).log_softmax(1)
        q = torch.func.functional_call(net, dict(weights), (x,)).log_softmax(1)
    kl = float((p.exp() * (p - q)).sum(1).mean())
    assert path.harm["a"][4] == pytest.approx(
        kl, rel=0.25
    )  # factors of all data here, of the other part there
