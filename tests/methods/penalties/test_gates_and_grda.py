"""Gates inside the forward pass, and gRDA: their oracles."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.errors import InputError
from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.methods.penalties.gates import Gates, RelativeGate, shares
from sprig.methods.penalties.gating import fold, gates_of
from sprig.methods.penalties.grda import GRDA, Grda, GroupGrda, grda_for
from sprig.methods.penalties.l0 import L0, HardConcrete
from sprig.methods.penalties.shrinker import Shrinker
from sprig.testing.penalised import perceptron, points


def test_fresh_gates_change_nothing(graph, generator):
    x, _ = points(generator)
    model = perceptron()
    gated = Gates().gated(model, graph).eval()
    torch.testing.assert_close(gated(x), model(x), rtol=1e-5, atol=1e-6)
    added = sum(p.numel() for p in gated.parameters()) - sum(p.numel() for p in model.parameters())
    assert added == 16 + 12 + 2
    plain, plan = fold(gated, graph)
    assert [len(k) for k in plan.keep.values()] == [16, 12]
    assert list(plain.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("kind", ["gates", "l0"])
def test_removing_shut_units_leaves_the_same_logits(kind, graph, generator):
    x, _ = points(generator)
    penalty = Gates(rate=4.0) if kind == "gates" else L0(rate=4.0)
    gated = penalty.gated(perceptron(), graph).double().eval()
    with torch.no_grad():
        for gate in gates_of(gated).values():
            first = gate.alpha if kind == "gates" else gate.log_alpha
            first.copy_(torch.randn(first.shape, generator=generator))
            if kind == "gates":
                gate.beta.fill_(-1.2)
    plain, plan = fold(gated, graph)
    kept = [len(k) for k in plan.keep.values()]
    assert 0 < kept[0] < 16 and 0 < kept[1] < 12
    x = x.double()
    torch.testing.assert_close(plain(x), gated(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(shrink(plain, plan, graph)(x), gated(x), rtol=0, atol=1e-14)


def test_shares_are_the_formula_and_their_gradient_too(generator):
    """Against a plain version, and against the gradient by hand: alpha_k gets gamma_k (b_k - s B)."""
    alpha = torch.randn(7, generator=generator).double().requires_grad_()
    beta = torch.tensor([-2.2]).double().requires_grad_()
    found = shares(alpha, beta, least=1, recover=False)
    gamma = alpha.detach().exp()
    s = torch.sigmoid(beta.detach())
    rest = (gamma - s * gamma.sum()).clamp_min(0)
    torch.testing.assert_close(found.detach(), rest / rest.sum())
    assert 0 < int((found == 0).sum()) < 7
    d = torch.randn(7, generator=generator).double()
    (found * d).sum().backward()
    a = found.detach()
    b = torch.where(rest > 0, (d - (a * d).sum()) / rest.sum(), torch.zeros_like(d))
    torch.testing.assert_close(alpha.grad, gamma * (b - s * b.sum()))
    torch.testing.assert_close(beta.grad, -s * (1 - s) * gamma.sum() * b.sum())


def test_a_shut_gate_can_come_back_on_its_own(generator):
    alpha = torch.tensor([0.0, -0.5, -4.0]).requires_grad_()
    beta = torch.tensor([-1.5])
    for recover in (False, True):
        found = shares(alpha, beta, least=1, recover=recover)
        assert float(found[2].detach()) == 0.0
        (slope,) = torch.autograd.grad((found * torch.tensor([0.0, 0.0, 1.0])).sum(), alpha)
        alone = float(slope[2])
        assert (abs(alone) > 1e-4) is recover


def test_the_guard_keeps_the_last_units(generator):
    gate = RelativeGate(5, least=2)
    with torch.no_grad():
        gate.beta.fill_(10.0)  # a threshold above everything
        gate.alpha.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]))
    assert (gate() != 0).nonzero()[:, 0].tolist() == [1, 2]
    assert bool(torch.isfinite(gate()).all())


@pytest.mark.parametrize("penalty", [Gates(strength=0.3, rate=3.0), L0(strength=0.2, rate=3.0)])
def test_push_is_the_gradient_of_value(penalty, graph, generator):
    gated = penalty.gated(perceptron(), graph)
    weights = [
        (w.detach() + 0.3 * torch.randn(w.shape, generator=generator)).double().requires_grad_()
        for w in penalty.gates(gated).values()
    ]
    expected = torch.autograd.grad(penalty.value(weights, {}), weights)
    for ours, theirs in zip(penalty.push([w.detach() for w in weights], {}), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_the_chance_of_a_gate_is_that_of_the_formula():
    """E of "gate not zero" is sigmoid(log_alpha - b log(-g / z)); by sampling, within three deviations."""
    gate = HardConcrete(20_000, drop=0.7).train()
    torch.manual_seed(3)
    gate.draw()
    seen = float((gate() != 0).double().mean())
    expected = float(L0(strength=1.0, rate=1.0).value([gate.log_alpha.detach()], {})) / 20_000
    assert abs(seen - expected) < 3 * (expected * (1 - expected) / 20_000) ** 0.5


@pytest.mark.parametrize("penalty", [Gates(strength=0.02, least=1), L0(strength=0.2)])
def test_every_argument_of_gates_changes_something(penalty, graph, generator):
    x, y = points(generator)

    def trail(penalty):
        gated = penalty.gated(perceptron(), graph).train()
        optimizer = torch.optim.SGD(gated.parameters(), lr=0.02)
        Shrinker(gated, penalty).attach(optimizer)
        with torch.no_grad():
            for gate in gates_of(gated).values():
                if isinstance(gate, RelativeGate):  # some shut, so that guard and recovery matter
                    gate.alpha += torch.linspace(-1, 0, len(gate.alpha)) / gate.root
                    gate.beta += 2.0 / gate.root
        torch.manual_seed(1)
        for _ in range(8):
            optimizer.zero_grad()
            F.cross_entropy(gated(x), y).backward()
            optimizer.step()
        return gated.eval()(x).detach()

    base = trail(penalty)
    assert base.isfinite().all()
    for name, value in vars(penalty).items():
        other = not value if isinstance(value, bool) else 14 if name == "least" else value * 0.7
        assert not torch.equal(trail(replace(penalty, **{name: other})), base), name


@pytest.mark.parametrize("config", [Grda(c=0.02), GroupGrda(c=0.02)])
def test_every_argument_of_grda_changes_something(config, graph):
    def trail(config):
        model = perceptron()
        own = torch.Generator().manual_seed(4)
        steps(model, grda_for(model, config, lr=0.1, graph=graph), own, count=8)
        return model[2].weight.detach()

    base = trail(config)
    for name, value in vars(config).items():
        other = "one" if value == "size" else value * 0.7
        assert not torch.equal(trail(replace(config, **{name: other})), base), name


def test_what_cannot_be_gated_is_refused(graph):
    model = perceptron()
    with pytest.raises(InputError, match="has no gates"):
        gates_of(model)
    gated = Gates().gated(model, graph)
    with pytest.raises(InputError, match="parametrizations already"):
        Gates().gated(gated, graph)
    lone = nn.Sequential(nn.Linear(6, 3)).eval()
    with pytest.raises(InputError, match="nothing to gate"):
        Gates().gated(lone, trace(lone, (torch.randn(2, 6),)))
    normed = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    with pytest.raises(InputError, match="nothing to gate: a norm runs over its channels"):
        Gates().gated(normed, trace(normed, (torch.randn(2, 6),), norms="cut"))
    for make in (lambda: Gates(power=1.0), lambda: Gates(least=0), lambda: L0(drop=0.0)):
        with pytest.raises(InputError, match="expected"):
            make()


def steps(model, optimizer, generator, *, count=20, rates=None):
    x, y = points(generator)
    for n in range(count):
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates[n]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def test_grda_without_c_is_sgd_bit_for_bit(graph):
    seeds = [torch.Generator().manual_seed(5) for _ in range(3)]
    plain = perceptron()
    steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1), seeds[0])
    ours = perceptron()
    steps(ours, grda_for(ours, Grda(c=0.0), lr=0.1), seeds[1])
    grouped = perceptron()
    steps(grouped, grda_for(grouped, GroupGrda(c=0.0), lr=0.1, graph=graph), seeds[2])
    for a, b, c in zip(plain.parameters(), ours.parameters(), grouped.parameters()):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_the_threshold_is_the_closed_form_at_a_constant_rate(generator):
    model = perceptron()
    optimizer = grda_for(model, Grda(c=0.01, mu=0.6), lr=0.1)
    steps(model, optimizer, generator, count=25)
    found = optimizer.param_groups[0]["threshold"]
    assert found == pytest.approx(0.01 * 0.1**0.5 * (25 * 0.1) ** 0.6)
    assert optimizer.param_groups[1]["threshold"] == 0.0
    sums = optimizer.state[model[0].weight]["accumulator"]
    expected = sums.sign() * (sums.abs() - found).clamp_min(0)
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=0, atol=1e-7)
    assert 0 < int((model[0].weight == 0).sum()) < 96


def test_the_threshold_adds_up_when_the_rate_changes(generator):
    model = perceptron()
    optimizer = grda_for(model, Grda(c=0.01, mu=0.6), lr=0.1)
    rates = [0.1] * 5 + [0.02] * 5
    steps(model, optimizer, generator, count=10, rates=rates)
    parts = [r**1.1 * ((n + 1) ** 0.6 - n**0.6) for n, r in enumerate(rates)]
    assert optimizer.param_groups[0]["threshold"] == pytest.approx(0.01 * sum(parts))


@pytest.mark.parametrize("scale", ["size", "one"])
def test_group_grda_thresholds_whole_units(scale, graph, generator):
    model = perceptron()
    c = 0.4 if scale == "size" else 1.1
    optimizer = grda_for(model, GroupGrda(c=c, mu=0.6, scale=scale), lr=0.1, graph=graph)
    steps(model, optimizer, generator, count=25)
    sums = optimizer.state[model[0].weight]["accumulator"]
    shift = optimizer.state[model[0].bias]["accumulator"]
    size = torch.cat([sums, shift[:, None]], 1).norm(dim=1)
    threshold = optimizer.param_groups[0]["threshold"] * (7**0.5 if scale == "size" else 1.0)
    expected = sums * (1 - threshold / size).clamp_min(0)[:, None]
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=1e-4, atol=1e-6)
    assert 0 < int((model[0].weight == 0).all(1).sum()) < 16


def test_grda_resumes_with_the_same_bits(tmp_path):
    from sprig.training import FinetuneConfig, Moment, finetune

    generator = torch.Generator().manual_seed(2)
    batches = [points(generator) for _ in range(4)]
    config = FinetuneConfig(epochs=4, lr=0.1)
    options = {"config": config, "optimizer": lambda m: grda_for(m, Grda(c=0.01), lr=0.1)}

    def stop(moment, run):
        if moment is Moment.EPOCH_OPENS and run.epoch == 2:
            raise KeyboardInterrupt

    whole = finetune(perceptron(), batches, **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(perceptron(), batches, hooks=[stop], folder=tmp_path, **options)
    rest = finetune(perceptron(), batches, folder=tmp_path, resume=True, **options)
    assert rest.resumed
    for a, b in zip(whole.model.parameters(), rest.model.parameters()):
        assert torch.equal(a, b)


def test_settings_of_grda_that_make_no_sense_are_refused(graph):
    with pytest.raises(InputError, match="c is -1"):
        Grda(c=-1.0)
    with pytest.raises(InputError, match=r"mu is 1\.0"):
        GroupGrda(mu=1.0)
    with pytest.raises(InputError, match="lr is 0"):
        GRDA(perceptron().parameters(), lr=0.0)
    with pytest.raises(InputError, match="give graph="):
        grda_for(perceptron(), GroupGrda(), lr=0.1)
    model = perceptron()
    from sprig.methods.penalties.units import units_of

    units = units_of(graph, model, set(dict(model.named_parameters())))
    with pytest.raises(InputError, match="with units=True"):
        GRDA(model.parameters(), lr=0.1, units=units)
