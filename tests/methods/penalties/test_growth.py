"""Factors that grow: when they choose, hold and remove; penalties on units that do nothing at strength zero."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.cost import cost
from sprig.core.tracing import trace
from sprig.methods.penalties.adaptive_lasso import AdaptiveLasso
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.cut import keep_units
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.increg import IncReg, increment
from sprig.methods.penalties.shrinker import Ramp, Shrinker
from sprig.testing.penalised import Residual, bound


@pytest.mark.parametrize(("target", "curve"), [(8, 0.25), (37, 0.25), (5, 0.1)])
def test_increments_of_increg(target, curve):
    at = lambda r: float(increment(torch.tensor(float(r)), target, step=2.0, curve=curve))  # noqa: E731
    centre = target * math.log(1 / curve) / math.log(2 / curve)
    assert at(0) == 2.0
    assert at(centre) == pytest.approx(2.0 * curve)
    assert at(target) == pytest.approx(0.0, abs=1e-12)
    assert at(1.5 * target) < at(1.2 * target) < 0
    values = [at(r) for r in range(2 * target)]
    assert values == sorted(values, reverse=True)
    if curve == 0.25:
        assert at(1.5 * target) == pytest.approx(-0.91 * 2.0, abs=0.02)
        assert at(2 * target) == pytest.approx(-3.5 * 2.0, abs=0.02)


def run_growth(penalty, residual, *, steps):
    penalty, weights, units = bound(penalty, residual)
    goal = [w.clone() for w in weights]
    state = penalty.init(weights)
    step = 0
    while step < steps:
        step += 1
        pushed = penalty.push(weights, state)
        state = penalty.advance(weights, state, lr=0.1)
        weights = [w - 0.1 * ((w - g) + p) for w, g, p in zip(weights, goal, pushed)]
        weights = penalty.prox(weights, state, lr=0.1)
        if penalty.finished(state):
            break
    return penalty, weights, units, state, step


def test_increg_removes_exactly_its_targets_and_releases_the_rest(residual):
    penalty, weights, units, state, _ = run_growth(
        IncReg(keep=0.5, step=0.02, ceiling=1.0), residual, steps=1500
    )
    assert penalty.finished(state)
    norms = units.norms(weights)
    for group, gone in zip(units.group.unique().tolist(), (2, 3)):
        assert int((norms[units.group == group] == 0).sum()) == gone
    state = penalty.advance(weights, state, lr=0.1)
    assert float(state["factors"][~state["gone"]].max()) == 0.0
    plan = keep_units(units, penalty.scores(weights, state))
    assert plan.cost["params"] < cost(units.graph)["params"]
    assert sorted(len(k) for k in plan.keep.values()) == [2, 3]


def test_increg_counts_the_running_mean_of_ranks(residual):
    penalty, weights, units = bound(IncReg(step=1e-6), residual)
    state = penalty.init(weights)
    seen = []
    for turn in range(4):
        wave = [torch.sin(torch.arange(w.numel()).double() + turn) for w in weights]
        moved = [w * (1 + 0.5 * v.reshape(w.shape)) for w, v in zip(weights, wave)]
        state = penalty.advance(moved, state, lr=0.1)
        mine = units.group == units.group[0]
        seen.append(units.sums(moved, torch.abs)[mine].argsort().argsort().double())
    torch.testing.assert_close(state["ranks"][mine], torch.stack(seen).mean(0))


@pytest.mark.parametrize("kind", [GReg1, GReg2])
def test_greg_grows_holds_and_removes(kind, residual):
    more = {"probe": 0.01, "probe_ceiling": 0.05} if kind is GReg2 else {}
    settings = {"keep": 0.5, "step": 0.1, "every": 2, "ceiling": 2.0, "hold": 10, **more}
    penalty, weights, units, state, step = run_growth(kind(**settings), residual, steps=500)
    assert penalty.finished(state)
    wait = 2 * 5 if kind is GReg2 else 0
    assert step == wait + 2 * 20 + 10
    gone = units.norms(weights) == 0
    assert torch.equal(gone, state["chosen"])
    assert int(gone.sum()) == 5


def test_greg2_ranks_after_all_have_shrunk():
    """Of two equal weights the one with the flatter loss shrinks more under the same factor, and is chosen."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).eval()
    graph = trace(net, (torch.randn(2, 1),))
    penalty = GReg2(keep=0.5, probe=0.05, probe_ceiling=0.5, every=5)
    units = penalty.members(graph, net, {"0.weight"})
    penalty = penalty.over(units)
    curvature = torch.tensor([[0.2], [5.0]])
    weights = [torch.tensor([[1.001], [1.0]])]  # by size alone the second would go
    state = penalty.init(weights)
    assert not bool(state["chosen"].any())
    for _ in range(60):
        pushed = penalty.push(weights, state)[0]
        state = penalty.advance(weights, state, lr=0.1)
        weights = [weights[0] - 0.1 * (curvature * (weights[0] - 1.0) + pushed)]
    assert state["chosen"].tolist() == [True, False]


def test_greg1_chooses_when_it_begins(residual):
    """Not among the weights of the start, which a training of its own is to come before."""
    _, graph = residual
    torch.manual_seed(3)
    model = Residual()
    shrinker = Shrinker(model, GReg1(keep=0.5), graph=graph, ramp=Ramp(begin=2))
    first = shrinker.state["chosen"].clone()
    for step in range(4):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        if step == 2:
            with torch.no_grad():  # those that were small are large now
                scale = 1 + 9 * first.to(torch.float32)
                for w, f in zip(
                    shrinker.weights, shrinker.units.spread(scale, shrinker.weights, other=1.0)
                ):
                    w.mul_(f)
        shrinker.before_step(lr=0.1)
        shrinker.after_step(lr=0.1)
    sizes = shrinker.units.sums([w.detach() for w in shrinker.weights], torch.abs)
    for group in shrinker.units.group.unique().tolist():
        mine = shrinker.units.group == group
        chosen = shrinker.state["chosen"][mine]
        assert int(chosen.sum()) == int(mine.sum()) // 2
        assert float(sizes[mine][chosen].max()) < float(sizes[mine][~chosen].min())
    assert not torch.equal(shrinker.state["chosen"], first)


def test_units_and_factors_are_taken_when_the_penalty_begins():
    """From the weights as they are then, not from those before the training."""
    for penalty, key in ((AdaptiveLasso(strength=0.01), "factors"), (Halo(), "coefficients")):
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        shrinker = Shrinker(model, penalty, ramp=Ramp(begin=3))
        first = [f.clone() for f in shrinker.state[key]]
        for step in range(5):
            with torch.no_grad():
                model[0].weight.copy_(
                    torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
                )
            seen = model[0].weight.detach().clone()
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            shrinker.before_step(lr=0.1)
            shrinker.after_step(lr=0.1)
            if step == 3:
                begun = [f.clone() for f in shrinker.state[key]]
                expected = penalty.init([seen, model[2].weight.detach()])
        if key == "factors":
            assert not torch.equal(begun[0], first[0])
            assert torch.equal(begun[0], expected[key][0])
            assert torch.equal(shrinker.state[key][0], begun[0])  # and not again
        else:
            assert not torch.equal(shrinker.state[key][0], begun[0])  # its own steps go on


@pytest.mark.parametrize("kind", [GReg1, GReg2])
def test_greg_holds_once_all_groups_are_done_and_removes_them_together(kind, residual):
    """One group comes to its ratio at once, the other has to go all the way to the ceiling."""
    more = {"probe": 0.01, "probe_ceiling": 0.05, "kept": -0.02} if kind is GReg2 else {}
    settings = {"keep": 0.5, "step": 0.1, "every": 1, "ceiling": 2.0, "hold": 7, "ratio": 5.0}
    penalty, weights, units = bound(kind(**settings, **more), residual)
    stream = units.group == units.group[0]
    small = torch.zeros(units.total, dtype=torch.bool)
    small[:2] = True  # half of the stream is tiny from the start
    scale = torch.where(small, 1e-3, 1.0).double()
    weights = [w * f for w, f in zip(weights, units.spread(scale, weights, other=1.0))]
    state = penalty.init(weights)
    done = {}
    for step in range(1, 60):
        state = penalty.advance(weights, state, lr=0.1)  # weights stay: only factors and phases
        if step == 10:
            growing = 1.0 if kind is GReg1 else 0.55  # after the probe's 0.05
            held = 0.1 if kind is GReg1 else 0.15
            assert float(state["factors"][~stream].max()) == pytest.approx(growing)
            assert float(state["factors"][stream].max()) == pytest.approx(held)
            if kind is GReg2:
                stays = ~state["chosen"]
                assert state["factors"][stays].tolist() == pytest.approx([-0.02] * int(stays.sum()))
        for name, mine in (("stream", stream), ("inner", ~stream)):
            if name not in done and int(state["phase"][mine].min()) == 2:
                done[name] = step
    wait = 5 if kind is GReg2 else 0
    assert done == {"stream": wait + 20 + 7, "inner": wait + 20 + 7}


def test_what_stays_over_what_leaves_is_a_running_mean(residual):
    """0.9 of what it was and 0.1 of what it is: one lucky step does not end the growth."""
    penalty, weights, units = bound(
        GReg1(keep=0.5, step=0.01, every=1, ceiling=50.0, ratio=20.0), residual
    )
    state = penalty.init(weights)
    state = penalty.advance(weights, state, lr=0.1)
    before = state["ratios"].clone()
    shrunk = torch.where(state["chosen"], 1e-2, 1.0).double()
    moved = [w * f for w, f in zip(weights, units.spread(shrunk, weights, other=1.0))]
    state = penalty.advance(moved, state, lr=0.1)
    torch.testing.assert_close(state["ratios"], 0.9 * before + 0.1 * 100 * before)
    assert bool((100 * before > 20).all())
    assert not bool((state["phase"] == 1).any())
    for _ in range(5):
        state = penalty.advance(moved, state, lr=0.1)
    assert bool((state["phase"] == 1).all())


ZERO = [
    GroupLasso(strength=0.0),
    GroupLasso(strength=0.0, mode="push"),
    SparseGroupLasso(strength=0.0),
    SparseGroupLasso(strength=0.0, mode="push"),
    GroupHalo(xi=0.0),
    GroupHalo(xi=0.0, mode="joint"),
    GroupHalo(xi=0.0, mode="closed"),
    BnSlimming(strength=0.0),
    BnSlimming(strength=0.0, mode="prox"),
    IncReg(step=0.0),
    GReg1(step=0.0),
    GReg2(step=0.0, probe=0.0),
]


@pytest.mark.parametrize(
    "penalty", ZERO, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'mode', '')}"
)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_strength_zero_is_plain_training_bit_for_bit(penalty, make, residual):
    _, graph = residual
    ends = []
    for attached in (False, True):
        torch.manual_seed(1)
        twin = Residual()
        more = {"momentum": 0.9} if make is torch.optim.SGD else {}
        optimizer = make(twin.parameters(), lr=0.05, **more)
        if attached:
            shrinker = Shrinker(twin, penalty, graph=graph)
            shrinker.attach(optimizer, tell=lambda text: None)
        for _ in range(12):
            x, y = torch.randn(16, 1, 5, 5), torch.randint(0, 3, (16,))
            optimizer.zero_grad()
            F.cross_entropy(twin(x), y).backward()
            optimizer.step()
        ends.append(twin.state_dict())
    assert shrinker.step == 12
    assert all(torch.equal(v, ends[1][n]) for n, v in ends[0].items())


def test_statistics_of_growth_name_factors_and_removals(residual):
    for penalty in (
        IncReg(keep=0.5, step=0.4, ceiling=1.0),
        GReg1(keep=0.5, step=0.5, every=1, ceiling=1.0, hold=1),
    ):
        _, graph = residual
        torch.manual_seed(1)
        twin = Residual()
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
        shrinker = Shrinker(twin, penalty, graph=graph).attach(optimizer)
        rows = [shrinker.statistics()]
        for _ in range(40):
            optimizer.zero_grad()
            twin(torch.randn(4, 1, 5, 5)).square().mean().backward()
            optimizer.step()
            rows.append(shrinker.statistics())
        assert [rows[0][f"factor_{k}"] for k in ("lowest", "median", "highest")] == [0.0] * 3
        assert rows[1]["factor_highest"] > rows[1]["factor_lowest"] >= 0
        assert (rows[0]["removed"], rows[-1]["removed"]) == (0, 5)
