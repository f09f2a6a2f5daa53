"""Penalties on networks that are not plain ones: what makes something of zero, shared, scaled, tiny or half precise."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sprig.core.errors import InputError
from sprig.core.tracing import distance, trace
from sprig.core.types import Budget, Graph
from sprig.methods.penalties.adaptive_lasso import AdaptiveLasso
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.coefficients import best
from sprig.methods.penalties.cut import keep_units
from sprig.methods.penalties.gates import Gates, shares
from sprig.methods.penalties.gating import ungated
from sprig.methods.penalties.greg import GReg1
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.l1 import L1
from sprig.methods.penalties.run import Cut, train_and_cut
from sprig.methods.penalties.scope import Scope, penalised
from sprig.methods.penalties.shrinker import Shrinker
from sprig.methods.penalties.units import units_of
from sprig.training import TrainConfig

SHORT = TrainConfig(
    epochs=1, lr=1e-12, weight_decay=0.0, momentum=0.0
)  # leaves weights as they are


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Of `dense`."""
    return trace(dense(nn.ReLU()), (torch.randn(2, 6),))


def dense(activation: nn.Module) -> nn.Sequential:
    """Half of the units are zero: they say what the activation makes of zero."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), activation, nn.Linear(16, 3)).eval()
    with torch.no_grad():
        net[0].weight[::2] = 0.0  # type: ignore[index,operator,union-attr]
        net[0].bias[::2] = 0.0  # type: ignore[index,operator,union-attr]
    return net


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()])
@pytest.mark.parametrize("known", ["example", "graph"])
def test_what_zero_units_say_is_taken_over(activation, known, batches):
    net, x = dense(activation), batches[0][0]
    given = {"example": (x,)} if known == "example" else {"graph": trace(net, (x,))}
    found = train_and_cut(
        net, batches, method="group-lasso", settings=GroupLasso(strength=1.0), config=SHORT, **given
    )
    assert len(found.plan.keep["0"]) == 8
    torch.testing.assert_close(found.model(x), found.trained.eval()(x), rtol=1e-5, atol=1e-6)
    assert not [n for n in found.notes if "zero" in n]


class Padded(nn.Module):
    """A constant of a zero unit meets zero padding: no bias says what the border makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8, affine=False)
        self.b, self.head = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(self.norm(self.a(x)).sigmoid()).relu().mean((2, 3)))


def test_what_no_reader_can_take_over_is_told():
    torch.manual_seed(0)
    net, x = Padded().eval(), torch.randn(8, 2, 7, 7)
    with torch.no_grad():
        net.a.weight[::2] = 0.0
        net.a.bias[::2] = 0.0  # type: ignore[index]
    data = [(x, torch.randint(3, (8,)))]
    found = train_and_cut(
        net,
        data,
        method="group-lasso",
        settings=GroupLasso(strength=1.0),
        config=SHORT,
        example=(x,),
    )
    assert distance(found.trained.eval()(x), found.model.eval()(x)) > 1e-3
    (note,) = [n for n in found.notes if "changes what the network computes" in n]
    assert "zero padding" in note


def test_units_that_are_zero_never_fill_a_budget(graph):
    net = dense(nn.ReLU())
    units = units_of(graph, net, {n for n, _ in net.named_parameters()})
    scores = units.norms([p.detach() for n, p in net.named_parameters() if n in units.names])
    for asked in (
        {"keep": 0.9},
        {"budget": Budget(macs=0.9)},
        {"keep": 0.9, "per_layer": True},
        {},
    ):
        plan = keep_units(units, scores, **asked)
        assert plan.keep["0"] == tuple(range(1, 16, 2)), asked
    few = keep_units(units, scores, keep=0.25, per_layer=True)
    assert len(few.keep["0"]) == 4


@pytest.mark.parametrize(
    ("method", "cut", "text"),
    [
        ("group-lasso", Cut(budget=Budget(macs=0.01)), "below what is reachable"),
        ("group-grda", Cut(budget=Budget(macs=0.01)), "below what is reachable"),
        ("group-lasso", Cut(keep=1.5), r"in \(0, 1\]"),
        ("group-lasso", Cut(keep=0.5, budget=Budget(macs=0.5)), "not both"),
        ("l1", Cut(keep=math.nan), r"in \(0, 1\]"),
        ("l1", Cut(keep=0.001), "no weight at all"),
        ("l1", Cut(budget=Budget(latency=0.5)), "one of params= or macs="),
        ("halo", Cut(budget=Budget(params=1e-5)), "below what is not penalised"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused_before_anything_is_trained(
    method, cut, text, batches, graph, tmp_path
):
    with pytest.raises(InputError, match=text):
        train_and_cut(
            dense(nn.ReLU()), batches, method=method, cut=cut, graph=graph, folder=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


class Tied(nn.Module):
    """The head reads the stream by the embedding's own tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.f1, self.f2 = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.h = nn.Linear(8, 11, bias=False)
        self.h.weight = self.e.weight

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        x = self.e(i)
        x = x + self.f2(self.f1(x).relu())
        found: torch.Tensor = self.h(x.mean(1))
        return found


@pytest.mark.parametrize("method", ["gates", "l0"])
def test_gates_leave_alone_what_a_shared_tensor_reads(method):
    torch.manual_seed(0)
    net, i = Tied().eval(), torch.randint(11, (16, 5))
    graph = trace(net, (i,))
    assert any("are one tensor" in why for why in ungated(net, graph).values())
    data = [(i, torch.randint(11, (16,)))] * 20
    config = TrainConfig(epochs=2, lr=0.02)
    found = train_and_cut(net, data, method=method, graph=graph, config=config)
    torch.testing.assert_close(found.model.eval()(i), found.trained.eval()(i), rtol=1e-4, atol=1e-5)
    assert [n for n in found.notes if "are one tensor" in n]


def test_gates_keep_frozen_what_was_frozen(graph):
    from sprig.methods.penalties.gating import fold

    net = dense(nn.ReLU())
    net[2].weight.requires_grad_(False)  # type: ignore[union-attr]
    plain, _ = fold(Gates().gated(net, graph), graph)
    assert not plain[2].weight.requires_grad and plain[2].bias.requires_grad  # type: ignore[index,union-attr]


def test_shares_do_not_depend_on_the_scale_of_gamma_and_stay_finite():
    alpha, beta = torch.tensor([0.0, -1.0, 1.0, -3.0], dtype=torch.float64), torch.tensor([-3.0])
    here = shares(alpha, beta, least=1, recover=False)
    for shift in (-300.0, -10.0, 30.0, 600.0):
        torch.testing.assert_close(shares(alpha + shift, beta, least=1, recover=False), here)
    far = torch.tensor([60.0, 50.0, -60.0], requires_grad=True)
    shares(far, torch.tensor([-3.0]), least=1, recover=True)[1].backward()
    assert far.grad is not None and bool(far.grad.isfinite().all())


class Tokens(nn.Module):
    """A small vision transformer: more kinds of parameters than layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 5, 8))
        self.conv_proj, self.layer_scale = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.ones(8, 1, 1))
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.mixer = nn.Parameter(torch.zeros(5, 5))
        self.rms, self.head = RMSNorm(8), nn.Linear(8, 1)


class RMSNorm(nn.Module):
    """Of no class that torch knows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


def test_weights_of_layers_are_those_of_layers():
    net = Tokens()
    attention = {"attention.in_proj_weight", "attention.out_proj.weight"}
    assert set(penalised(net)) == {"mixer", "conv_proj.weight", *attention, "head.weight"}
    assert "mixer" not in penalised(net, Scope(first=False)) and "head.weight" in penalised(net)
    assert "rms.weight" not in penalised(net, Scope(biases=True))
    more = penalised(net, Scope(biases=True))
    assert {"class_token", "layer_scale", "attention.bias_k", "head.bias"} <= set(more)
    assert "rms.weight" in penalised(net, Scope(norms=True))


def test_a_weight_that_is_made_of_others_is_refused():
    net = nn.Sequential(weight_norm(nn.Linear(6, 10)), nn.ReLU(), nn.Linear(10, 3))
    with pytest.raises(InputError, match="fold it into the weight first"):
        Shrinker(net, L1())
    assert Shrinker(net, L1(), scope=Scope(exclude=("0.*",))).names == ("2.weight",)


@pytest.mark.parametrize("size", [0.01, 0.1])
def test_coefficients_keep_their_law_where_weights_are_half_precise(size):
    halo, w = Halo(xi=1e-4, psi=1e-4, rate=10.0), [torch.full((3,), size, dtype=torch.bfloat16)]
    state = halo.init(w)
    for _ in range(20_000):
        state = halo.advance(w, state, lr=0.1)
    wanted = best(w[0].float().abs(), halo)
    torch.testing.assert_close(state["coefficients"][0], wanted, rtol=0.01, atol=0.0)
    assert halo.push(w, state)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "make", [lambda: GReg1(every=1, hold=0, step=1e-3), lambda: IncReg(step=1e-4)]
)
def test_factors_come_to_their_end_where_weights_are_half_precise(make, graph):
    net = dense(nn.ReLU()).bfloat16()
    shrinker = Shrinker(net, make(), graph=graph)
    for _ in range(6000):
        shrinker.before_step(lr=1e-3)
        shrinker.after_step(lr=1e-3)
    assert shrinker.penalty.finished(shrinker.state)  # type: ignore[attr-defined]


GROUPED = [GroupLasso(), SparseGroupLasso(), GroupHalo(), BnSlimming(), IncReg(), GReg1()]


@pytest.mark.parametrize("penalty", GROUPED)
def test_layers_of_half_precision_beside_norms_of_single(penalty):
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)
    net = nn.Sequential(*layers).eval()
    graph = trace(net, (torch.randn(2, 1, 5, 5),))
    net[0].bfloat16(), net[4].bfloat16()
    shrinker = Shrinker(net, penalty, graph=graph)
    for weight in shrinker.weights:
        weight.grad = torch.zeros_like(weight)
    shrinker.before_step(lr=0.1)
    shrinker.after_step(lr=0.1)
    assert all(math.isfinite(v) for v in shrinker.statistics().values())


class Joined(nn.Module):
    """The norm runs over channels of the input, too, which can never leave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.norm(torch.cat([x, self.conv(x)], 1))))


@pytest.mark.parametrize("penalty", [BnSlimming(strength=1.0), SparseGroupLasso(strength=1.0)])
def test_scales_of_channels_that_cannot_leave_are_not_pulled_on(penalty):
    net = Joined().eval()
    shrinker = Shrinker(net, penalty, graph=trace(net, (torch.randn(2, 3, 4, 4),)))
    at = shrinker.names.index("norm.weight")
    push = shrinker.penalty.push(shrinker.weights, shrinker.state)[at]
    moved = shrinker.penalty.prox(shrinker.weights, shrinker.state, lr=0.1)[at]
    assert push[:3].tolist() == [0.0] * 3 and bool((push[3:] > 0).all())
    assert moved[:3].tolist() == [1.0] * 3 and bool((moved[3:] < 1).all())
    leaves = [w.detach().clone().requires_grad_() for w in shrinker.weights]
    shrinker.penalty.value(leaves, shrinker.state).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(leaves[at].grad, push)


def test_a_closure_may_be_called_several_times_in_one_step(graph, batches):
    net = dense(nn.ReLU())
    shrinker = Shrinker(net, GReg1(every=1), graph=graph)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=5)
    x, y = batches[0]
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        shrinker.before_step(lr=1.0)
        return loss

    for _ in range(3):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        shrinker.after_step(lr=1.0)
    assert calls > 3 and shrinker.step == shrinker.state["calls"] == 3


def test_what_a_pull_does_not_go_with_is_refused():
    net = nn.Linear(3, 2)
    with pytest.raises(InputError, match="maximises with weight"):
        Shrinker(net, L1()).attach(torch.optim.SGD(net.parameters(), lr=0.1, maximize=True))
    words = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(words.parameters(), lr=0.1)
    with pytest.raises(InputError, match="0 gives sparse gradients"):
        Shrinker(words, L1()).attach(optimizer)
    Shrinker(words, L1(), scope=Scope(exclude=("0.*",))).attach(optimizer).detach()


def test_a_weight_without_numbers_is_no_divergence():
    net = nn.Sequential(nn.Linear(4, 1), nn.Linear(4, 3))
    net[0].weight = nn.Parameter(torch.empty(0, 4))  # type: ignore[assignment]
    shrinker = Shrinker(net, L1(mode="prox"))
    shrinker.look()
    assert shrinker.state_dict()["step"] == 0


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_adaptive_lasso_holds_what_is_zero_already(power):
    lasso, w = AdaptiveLasso(strength=0.1, power=power, floor=0.0), [torch.ones(4, 4)]
    w[0][0] = 0.0
    state = lasso.init(w)
    assert bool(lasso.push(w, state)[0].isfinite().all())
    assert bool(lasso.prox(w, state, lr=0.1)[0].isfinite().all())
    assert lasso.prox([w[0] + 1e-3], state, lr=0.1)[0][0].tolist() == [0.0] * 4
