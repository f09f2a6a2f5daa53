"""What gates and gRDA come to in a training: exact zeros, by themselves, at little cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.methods.penalties.cut import apply_masks, keep_largest
from sprig.methods.penalties.gates import Gates
from sprig.methods.penalties.gating import fold, gates_of
from sprig.methods.penalties.grda import GRDA, Grda, grda_for
from sprig.methods.penalties.l0 import L0
from sprig.methods.penalties.shrinker import Shrinker
from sprig.testing.penalised import perceptron, points


def trained(penalty, graph, *, steps=400, lr=0.05):
    """What is live after a training, and the network with its gates."""
    x, y = points(torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    gated = penalty.gated(perceptron(), graph).train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=lr, momentum=0.9)
    shrinker = Shrinker(gated, penalty).attach(optimizer, tell=lambda text: None)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(gated(x), y).backward()
        optimizer.step()
    return shrinker.statistics()["live"], gated.eval(), (x, y)


@pytest.mark.parametrize("kind", ["gates", "l0"])
def test_gates_shut_in_training_and_more_with_more_strength(kind, graph):
    """Exact zeros appear by training alone, and removing them leaves the logits and the accuracy."""
    if kind == "gates":
        ladder = [Gates(strength=s, rate=3.0) for s in (0.0, 0.01, 0.05)]
    else:
        ladder = [L0(strength=s, rate=30.0) for s in (0.0, 0.003, 0.006)]
    live = []
    for penalty in ladder:
        share, gated, (x, y) = trained(penalty, graph)
        live.append(share)
        plain, plan = fold(gated, graph)
        small = shrink(plain, plan, graph)
        torch.testing.assert_close(small(x), gated(x), rtol=1e-4, atol=1e-5)
        assert float((small(x).argmax(1) == y).float().mean()) > 0.95
        assert sum(len(k) for k in plan.keep.values()) == round(share * 28)
    assert live[0] == 1.0
    assert 0.9 > live[1] > live[2] > 0


def test_a_gate_at_its_bound_comes_back_and_feels_the_price():
    """Bounds are kept after the step, not in the formulas: there both gradients would be gone."""
    bound = math.log(100.0)
    for start, sign in ((-9.0, 1.0), (9.0, -1.0)):
        penalty = L0(strength=1e-9 if sign > 0 else 20.0, rate=4.0)
        layer = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 1)).eval()
        graph = trace(layer, (torch.randn(2, 2),))
        gated = penalty.gated(layer, graph).train()
        (gate,) = gates_of(gated).values()
        with torch.no_grad():
            gate.log_alpha.fill_(start / 2)
        optimizer = torch.optim.SGD([gate.log_alpha], lr=0.05)
        shrinker = Shrinker(gated, penalty)
        shrinker.attach(optimizer, tell=lambda text: None)
        torch.manual_seed(0)
        seen = []
        for _ in range(150):
            optimizer.zero_grad()
            gate.draw()
            (-gate().sum() if sign > 0 else 0.0 * gate().sum()).backward()
            optimizer.step()
            seen.append(2 * gate.log_alpha.detach().clone())
        assert all(float(s.abs().max()) <= bound + 1e-5 for s in seen)
        assert float(seen[0].abs().min()) > bound - 1.0  # put back to the bound by the first step
        moved = (sign * (seen[-1] - seen[0])).mean()
        assert float(moved) > 0.2  # not at all with the bounds in the formulas
    assert L0().drop == 0.5  # as published


def test_first_gates_of_l0_differ_a_little_and_are_the_same_every_time(graph):
    first, again = (
        list(gates_of(L0(rate=4.0).gated(perceptron(), graph)).values()) for _ in range(2)
    )
    values = torch.cat([2 * g.log_alpha.detach() for g in first])
    assert 0.002 < float(values.std()) < 0.03
    assert abs(float(values.mean())) < 0.01
    assert all(torch.equal(a.log_alpha, b.log_alpha) for a, b in zip(first, again))
    assert not torch.equal(first[0].log_alpha[:12], first[1].log_alpha)


def test_grda_makes_most_weights_zero_and_keeps_the_accuracy(graph):
    """Ten of sixteen inputs say nothing. As large a cut of the network that SGD trains costs more."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(512, 16, generator=generator)
    y = (x[:, :3] - x[:, 3:6]).argmax(1)
    probe = torch.randn(2000, 16, generator=generator)
    truth = (probe[:, :3] - probe[:, 3:6]).argmax(1)

    def run(c):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
        optimizer = grda_for(model, Grda(c=c, mu=0.6), lr=0.1)
        for step in range(1500):
            here = slice(64 * (step % 8), 64 * (step % 8) + 64)
            optimizer.zero_grad()
            F.cross_entropy(model(x[here]), y[here]).backward()
            optimizer.step()
        return model

    def right(model):
        return float((model(probe).argmax(1) == truth).float().mean())

    def zeros(model):
        weights = [model[0].weight, model[2].weight]
        return sum(int((w == 0).sum()) for w in weights) / (16 * 64 + 64 * 3)

    plain, sparse = run(0.0), run(0.1)
    assert zeros(plain) == 0
    assert zeros(sparse) > 0.9
    assert right(sparse) > right(plain) - 0.02
    weights = {n: p.detach() for n, p in plain.named_parameters() if p.ndim > 1}
    apply_masks(plain, keep_largest(weights, 1 - zeros(sparse)))
    assert right(plain) < right(sparse) - 0.02


def test_sums_are_kept_in_float32_where_weights_are_not(tmp_path):
    """Steps below half a unit of the weight's last place add up; and a checkpoint gives them back whole."""
    w = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = GRDA([w], lr=0.01, c=0.0)
    for _ in range(100):
        w.grad = torch.full_like(w, 0.1)
        optimizer.step()
    assert w.tolist() == pytest.approx([0.9] * 4, abs=0.004)  # in bfloat16 it would stay at 1
    sums = optimizer.state[w]["accumulator"]
    assert sums.dtype == torch.float32
    twin = nn.Parameter(w.detach().clone())
    rest = GRDA([twin], lr=0.01, c=0.0)
    rest.load_state_dict(optimizer.state_dict())
    assert torch.equal(rest.state[twin]["accumulator"], sums)
    assert rest.state[twin]["accumulator"] is not sums
    double = nn.Parameter(torch.ones(2, dtype=torch.float64))
    exact = GRDA([double], lr=0.01, c=0.0)
    double.grad = torch.full_like(double, 1e-12)
    exact.step()
    assert exact.state[double]["accumulator"].dtype == torch.float64
    assert double.tolist() != [1.0, 1.0]
