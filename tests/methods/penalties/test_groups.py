"""Penalties on units of channels: groups as the graph has them, proxes, laws, and the plan at the end."""

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.cost import cost
from sprig.core.errors import InputError
from sprig.core.surgery import mask, shrink
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.cut import keep_units
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.scope import Scope
from sprig.methods.penalties.shrinker import Shrinker
from sprig.testing.penalised import Residual, bound


def test_a_residual_stream_is_one_unit_per_channel(residual):
    _, _, units = bound(GroupLasso(), residual)
    assert units.total == 4 + 6
    stream = 9 + 1 + 2 + 6 + 1  # rows of enter and down, their biases, and the norm
    inner = 4 + 1 + 2
    assert sorted(units.counts.tolist()) == [inner] * 6 + [stream] * 4
    assert "leave.weight" not in units.names
    assert set(units.names) >= {"enter.weight", "down.weight", "norm.weight", "norm.bias"}


def test_norms_are_those_of_the_rows(residual):
    _, weights, units = bound(GroupLasso(), residual)
    by_name = dict(zip(units.names, weights))
    u = 2
    rows = ("enter.weight", "enter.bias", "norm.weight", "norm.bias", "down.weight", "down.bias")
    parts = [by_name[n][u].flatten() for n in rows]
    expected = torch.cat(parts).norm()
    assert float(units.norms(weights)[u]) == pytest.approx(float(expected))


STRUCTURED = [
    GroupLasso(strength=0.05),
    SparseGroupLasso(strength=0.05, mix=0.3),
    GroupHalo(xi=0.01, psi=0.02, start=0.6),
    GroupHalo(xi=0.01, psi=0.02, mode="closed"),
    GroupHalo(xi=0.01, psi=0.02, start=0.6, budget=0.2, decay=0.01),
    BnSlimming(strength=0.05),
]


@pytest.mark.parametrize("penalty", STRUCTURED, ids=lambda p: type(p).__name__)
def test_push_is_the_gradient_and_prox_beats_nearby_points(penalty, residual, generator):
    penalty, weights, units = bound(penalty, residual)
    state = penalty.init(weights)
    leaves = [w.clone().requires_grad_() for w in weights]
    expected = torch.autograd.grad(penalty.value(leaves, state), leaves)
    for ours, theirs in zip(penalty.push(weights, state), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)
    for lr in (0.5, 4.0):
        found = penalty.prox(weights, state, lr=lr)
        if getattr(penalty, "mode", "") == "closed":
            continue  # the value's coefficients move with the point; the prox takes them as they are

        def harm(points, lr=lr):
            apart = sum((p - w).square().sum() for p, w in zip(points, weights))
            return float(apart / (2 * lr) + penalty.value(points, state))

        best = harm(found)
        for scale in (1e-3, 1e-2, 0.1):
            for _ in range(20):
                noise = [
                    scale * torch.randn(w.shape, generator=generator).double() for w in weights
                ]
                assert best <= harm([f + n for f, n in zip(found, noise)]) + 1e-12
        assert best < harm(weights)
    if not isinstance(penalty, BnSlimming):
        gone = units.norms(penalty.prox(weights, state, lr=1e4)) == 0
        assert bool(gone.all())


class Streams(nn.Module):
    """A stream behind three batch norms, inner channels behind one, and a last layer behind a group norm."""

    def __init__(self):
        super().__init__()
        self.enter, self.first = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.up, self.inner = nn.ModuleList(), nn.ModuleList()
        self.down, self.out = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            self.up.append(nn.Conv2d(4, 6, 1))
            self.inner.append(nn.BatchNorm2d(6))
            self.down.append(nn.Conv2d(6, 4, 1))
            self.out.append(nn.BatchNorm2d(4))
        self.wide, self.other = nn.Conv2d(4, 8, 1), nn.GroupNorm(4, 8)
        self.leave = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.first(self.enter(x)))
        for up, inner, down, out in zip(self.up, self.inner, self.down, self.out):
            x = F.relu(x + out(down(F.relu(inner(up(x))))))
        return self.leave(F.relu(self.other(self.wide(x))).mean((2, 3)))


def test_slimming_favours_no_unit_for_the_number_of_its_norms():
    torch.manual_seed(0)
    net = Streams().eval()
    graph = trace(net, (torch.randn(2, 1, 6, 6),))
    penalty = BnSlimming()
    units = penalty.members(graph, net, set(dict(net.named_parameters())))
    norms = ("first", "inner.0", "inner.1", "out.0", "out.1")
    assert set(units.names) == {f"{n}.weight" for n in norms}  # a group norm's scale is none
    with torch.no_grad():
        for norm in (net.first, *net.out):
            norm.weight.copy_(torch.tensor([0.3, -0.3, 0.9, 0.9]))
        for norm in net.inner:
            norm.weight.copy_(torch.tensor([0.5, 0.5, -0.5, 0.5, 0.5, 0.2]))
    parameters = dict(net.named_parameters())
    scores = penalty.over(units).scores([parameters[n].detach() for n in units.names], {})
    plan = keep_units(units, scores, keep=12 / 16, relative=False)
    assert plan.keep["enter"] == (2, 3)  # 0.3, though three times: a sum of 0.9
    assert plan.keep["up.0"] == plan.keep["up.1"] == (0, 1, 2, 3, 4)


def test_group_halo_with_units_of_one_weight_is_halo():
    net = nn.Sequential(nn.Linear(1, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)).eval()
    graph = trace(net, (torch.randn(2, 1),))
    settings = {"xi": 1e-2, "psi": 2e-2, "floor": 1e-3, "rate": 3.0}
    group = GroupHalo(mode="joint", **settings)
    units = group.members(graph, net, {"0.weight"})
    group = group.over(units)
    halo = Halo(**settings)
    weights = [net[0].weight.detach().double()]
    a, b = group.init(weights), halo.init(weights)
    for _ in range(50):
        pushed = group.push(weights, a)[0]
        torch.testing.assert_close(pushed, halo.push(weights, b)[0], rtol=1e-9, atol=1e-14)
        a, b = group.advance(weights, a, lr=0.05), halo.advance(weights, b, lr=0.05)
    torch.testing.assert_close(a["coefficients"][0], b["coefficients"][0][:, 0], rtol=1e-9, atol=0)


def test_coefficients_of_group_halo_come_to_the_law(residual):
    penalty, weights, _ = bound(GroupHalo(xi=1e-3, psi=2e-3, rate=1.0), residual)
    state = penalty.init(weights)
    for _ in range(4000):
        state = penalty.advance(weights, state, lr=0.05)
    law = (2 * 1e-3 * penalty.sizes(weights) / 2e-3) ** (1 / 3)
    torch.testing.assert_close(state["coefficients"][0], law, rtol=0.01, atol=0)


def test_a_group_penalty_in_a_training_ends_in_a_smaller_network(residual):
    _, graph = residual
    torch.manual_seed(1)
    twin = Residual()
    x, y = torch.randn(32, 1, 5, 5), torch.randint(0, 3, (32,))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    shrinker = Shrinker(twin, GroupLasso(strength=0.02), graph=graph)
    shrinker.attach(optimizer)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    plan = keep_units(shrinker.units, shrinker.scores())
    twin.eval()
    small = shrink(twin, plan, graph)
    assert 2 <= sum(len(k) for k in plan.keep.values()) < 10
    torch.testing.assert_close(small(x), twin(x), rtol=1e-4, atol=1e-5)  # what left was zero
    torch.testing.assert_close(small(x), mask(twin, plan, graph)(x), rtol=1e-4, atol=1e-5)


def test_plans_by_share_and_by_budget(residual):
    _, _, units = bound(GroupLasso(), residual)
    scores = torch.arange(10.0) + 1
    plan = keep_units(units, scores, keep=0.5, relative=False)
    assert [len(plan.keep[n]) for n in ("enter", "up")] == [1, 5]  # one of each stays at least
    even = keep_units(units, scores, keep=0.5, per_layer=True)
    assert [even.keep[n] for n in ("enter", "up")] == [(2, 3), (3, 4, 5)]
    half = keep_units(units, scores, budget=Budget(macs=0.5), relative=False)
    dense = cost(units.graph)["macs"]
    assert half.cost["macs"] <= 0.5 * dense
    kept = {n: list(k) for n, k in half.keep.items()}
    best = 10 - sum(map(len, kept.values()))  # the next unit by rank is the one that does not fit
    more = keep_units(units, scores, keep=(10 - best + 1) / 10, relative=False)
    assert more.cost["macs"] > 0.5 * dense
    with pytest.raises(InputError, match="is below what is reachable"):
        keep_units(units, scores, budget=Budget(macs=0.01))
    with pytest.raises(InputError, match="not both"):
        keep_units(units, scores, keep=0.5, budget=Budget(macs=0.5))
    with pytest.raises(InputError, match="keep is 0"):
        keep_units(units, scores, keep=0.0)
    with pytest.raises(InputError, match="not finite"):
        keep_units(units, scores * math.nan)


def test_what_cannot_be_grouped_is_said(residual):
    model, graph = residual
    with pytest.raises(InputError, match=r"acts on groups of channels; give graph=sprig\.trace"):
        Shrinker(model, GroupLasso())
    with pytest.raises(InputError, match="take an unstructured"):
        Shrinker(model, BnSlimming(), graph=graph, scope=Scope(exclude=("norm.*", "inner.*")))

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.cumsum(self.a(x), dim=1))

    odd = Odd().eval()
    refused = trace(odd, (torch.randn(3, 4),))
    with pytest.raises(
        InputError, match=r"no group .*cumsum.*take an unstructured one, e\.g\. halo"
    ):
        Shrinker(odd, GroupLasso(), graph=refused)
    optimizer = torch.optim.SGD(odd.parameters(), lr=0.1)
    shrinker = Shrinker(odd, Halo(xi=0.3, psi=0.3, rate=1.0, mode="proximal")).attach(optimizer)
    for _ in range(30):
        optimizer.zero_grad()
        odd(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()
    assert shrinker.statistics()["zeros"] > 0
    with pytest.raises(InputError, match="knows no units"):
        shrinker.scores()


def test_units_of_different_groups_are_compared_by_their_share_of_the_mean(residual):
    _, _, units = bound(GroupLasso(), residual)
    scores = torch.ones(units.total)
    inner = torch.nonzero(units.counts == 7)[:, 0]  # the six units of the small group
    scores[inner] = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    plan = keep_units(units, scores, keep=0.7)  # 7 of 10: the lowest three over their mean leave
    assert sorted(map(len, plan.keep.values())) == [3, 4]
    bare = keep_units(units, scores, keep=0.7, relative=False)
    assert bare.keep == plan.keep
    scores[inner] *= 1000  # another scale of the layer's weights: no other choice ...
    assert keep_units(units, scores, keep=0.7).keep == plan.keep
    assert keep_units(units, scores, keep=0.7, relative=False).keep != plan.keep  # ... but here
    scores[inner] = 0.0
    assert sorted(map(len, keep_units(units, scores).keep.values())) == [1, 4]


def test_an_excluded_layer_keeps_its_whole_group(residual):
    model, graph = residual
    shrinker = Shrinker(model, GroupLasso(), graph=graph, scope=Scope(first=False))
    assert set(shrinker.names) == {"up.weight", "up.bias", "inner.weight", "inner.bias"}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: IncReg(keep=0.0), "keep is 0.0"),
        (lambda: IncReg(curve=1.0), "curve is 1.0"),
        (lambda: GReg1(ratio=0.5), "ratio is 0.5"),
        (lambda: GReg2(probe=-1.0), "probe is -1.0"),
        (lambda: GReg2(kept=0.1), "kept is 0.1, expected at most 0"),
        (lambda: SparseGroupLasso(mix=2.0), "mix is 2.0"),
        (lambda: GroupHalo(mode="closed", psi=0.0), "psi or decay"),
        (lambda: BnSlimming(mode="x"), "mode is 'x'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def trail(penalty, residual):
    """The sum of all weights that a penalty leads through in a few steps, as one vector."""
    penalty, weights, _ = bound(penalty, residual)
    goal = [w.clone() for w in weights]
    seen = [torch.zeros_like(w) for w in weights]
    state = penalty.init(weights)
    for _ in range(40):
        pushes = penalty.push(weights, state)
        state = penalty.advance(weights, state, lr=0.1)
        held = [p if penalty.pushes else 0.0 for p in pushes]
        weights = [w - 0.1 * ((w - g) + p) for w, g, p in zip(weights, goal, held)]
        if penalty.proximal:
            weights = penalty.prox(weights, state, lr=0.1)
        seen = [s + w for s, w in zip(seen, weights)]
    return torch.cat([s.flatten() for s in seen])


GREG = {"keep": 0.5, "step": 0.1, "every": 2, "ceiling": 1.0, "hold": 4, "ratio": 3.0}
SETTINGS = [
    GroupLasso(strength=0.05),
    SparseGroupLasso(strength=0.05, mix=0.3),
    GroupHalo(xi=0.03, psi=0.03, start=1.5, rate=0.7, decay=0.01),
    GroupHalo(xi=0.03, psi=0.03, start=1.5, rate=0.7, budget=0.3),
    BnSlimming(strength=0.05),
    IncReg(keep=0.5, step=0.1, ceiling=1.0),
    GReg1(**GREG),
    GReg2(**GREG, probe=0.02, probe_ceiling=0.05),
]
OTHER = {
    "mode": ("push", "prox", "joint", "proximal"),
    "square": (True,),
    "floor": (1.49,),
    "budget": (0.2, 2.0),
    "every": (1, 3),
    "hold": (7,),
    "ratio": (1.05,),
}


@pytest.mark.parametrize("penalty", SETTINGS, ids=lambda p: type(p).__name__)
def test_every_argument_changes_something(penalty, residual):
    base = trail(penalty, residual)
    for field in fields(penalty):
        value = getattr(penalty, field.name)
        if field.name == "units" or (field.name == "square" and penalty.budget == 0):
            continue
        changed = []
        for other in OTHER.get(field.name) or (0.25 if value == 0 else value * 0.6,):
            try:
                twin = replace(penalty, **{field.name: other})
            except InputError:  # a mode of another penalty
                continue
            changed.append(not torch.equal(trail(twin, residual), base))
        assert any(changed), field.name
