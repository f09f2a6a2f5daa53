"""Inputs on which a selection, a bound or an error once was wrong: offsets, saturation, constraints, ties."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.errors import DivergenceError, InputError
from sprig.core.greedy import exact
from sprig.greedy import (
    Coverage,
    ForwardSelector,
    GreedyNetwork,
    LeastSquares,
    LogLikelihood,
    SetFunction,
    guarantees,
    maximise,
    unfold,
)
from sprig.greedy.record import Counted
from sprig.methods.greedy.bounds import Reach


def drawn(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


# ---- objectives ------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [1e6, 1e8, 1e9])
def test_a_column_may_stand_far_from_zero(offset):
    x = drawn(200, 4)
    label = x[:, 0] + x[:, 1] + drawn(200, seed=1) > 0
    far = x.clone()
    far[:, 0] += offset
    for objective in (
        lambda t: LogLikelihood(t, label),
        lambda t: LeastSquares(t, x[:, 0] - x[:, 1] + drawn(200, seed=2)),
    ):
        near, moved = maximise(objective(x), 3), maximise(objective(far), 3)
        assert moved.picks == near.picks
        assert moved.values == pytest.approx(near.values, abs=1e-6)


def test_a_constant_column_far_from_zero_brings_nothing():
    x = drawn(60, 3)
    label = x[:, 1] > 0
    x[:, 2] = 1e8
    found = maximise(LogLikelihood(x, label), 3)
    assert (
        found.picks[0] == 1
        and found.picks[-1] == 2
        and found.gains[-1] == pytest.approx(0, abs=1e-12)
    )


def test_a_fit_that_cannot_be_solved_says_so(monkeypatch):
    x = drawn(60, 3)
    objective = LogLikelihood(x, x[:, 1] > 0)
    monkeypatch.setattr(objective, "ridge", 0.0)
    monkeypatch.setattr(objective, "x", torch.zeros(60, 3, dtype=torch.float64))
    with pytest.raises(DivergenceError, match="have not settled"):
        maximise(objective, 2)


@pytest.mark.parametrize("scale", [1e160, 1e-170])
def test_numbers_of_any_size_are_regressed(scale):
    x = drawn(20, 3)
    want = maximise(LeastSquares(x, x[:, 0]), 2).values
    assert want[1] == pytest.approx(1)
    assert maximise(LeastSquares(x, x[:, 0] * scale), 2).values == pytest.approx(want)
    assert maximise(LeastSquares(x * scale, x[:, 0]), 2).values == pytest.approx(want)


def test_after_a_perfect_fit_the_lowest_numbers_follow():
    x = drawn(50, 12)
    for seed in range(4):
        rows = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
        y = x[:, 7] - x[:, 3]
        picks = maximise(LeastSquares(x[rows], y[rows]), 6).picks
        assert set(picks[:2]) == {3, 7} and picks[2:] == (0, 1, 2, 4)
    weak = maximise(LeastSquares(x, x[:, 7] - x[:, 3] + 1e-8 * x[:, 9]), 3)
    assert weak.picks[2] == 9  # small, but no rounding


def test_rounding_of_a_plain_function_is_no_gain():
    noise = {(): 0.0}

    def full(items):
        jitter = 1e-16 * (hash(tuple(items)) % 7 - 3)
        return 1.0 + jitter if items else noise[()]

    assert maximise(SetFunction(6, full), 4).picks == (0, 1, 2, 3)


def test_labels_and_tensors_that_cannot_serve_are_refused():
    with pytest.raises(InputError, match="y holds values"):
        LogLikelihood(drawn(4, 2), torch.tensor([0.0, 0.0, 0.0, math.nan]))
    x = drawn(20, 3).requires_grad_()
    for objective in (LeastSquares(x, x[:, 0]), LogLikelihood(x, x[:, 0] > 0), Coverage(x.abs())):
        assert len(maximise(objective, 2, rule="beam").picks) == 2


# ---- bounds ----------------------------------------------------------------------------------------
def test_no_ceiling_where_single_gains_are_nothing_and_pairs_are_much():
    f = SetFunction(5, lambda s: float({2, 3} <= set(s)))
    told = guarantees(f, maximise(f, 2))
    assert told.optimum[0].vacuous and math.isinf(told.optimum[0].value)
    assert Reach(0.2, 0.9, 0.0).ceiling(0.0) == 0.9 and Reach(0.2, 0.9, 0.0).ceiling(0.5) == 0.2


@pytest.mark.parametrize("rule", ["exact", "stochastic", "distributed", "swap", "beam"])
def test_a_proved_ceiling_is_above_the_optimum_of_any_monotone_function(rule):
    for seed in range(25):
        draw = torch.Generator().manual_seed(seed)
        worth = {
            s: float(torch.rand((), generator=draw))
            for m in range(1, 7)
            for s in combinations(range(6), m)
        }
        f = SetFunction(6, lambda s, worth=worth: max((worth[t] for m in range(1, len(s) + 1)
                                                       for t in combinations(s, m)), default=0.0))  # fmt: skip
        best = max(f.value(s) for s in combinations(range(6), 3))
        found = maximise(f, 3, rule=rule, seed=seed)
        told = guarantees(f, found)
        for ceiling in told.optimum:
            assert not ceiling.proved or best <= ceiling.value + 1e-9
        for factor in told.factors:
            assert not factor.proved or found.value >= factor.value * best - 1e-9


def test_the_mean_over_draws_is_not_proved_by_one_draw():
    f = SetFunction(6, lambda s: float(len(s)) + 0.5 * float({1, 2} <= set(s)))
    for rule in ("stochastic", "distributed"):
        told = guarantees(f, maximise(f, 3, rule=rule))
        assert told.factors and all(x.expected and not x.proved for x in told.factors)
        assert "one draw, an estimate" in str(told.factors[0])
        declared = Coverage(torch.eye(6))
        assert guarantees(declared, maximise(declared, 3, rule=rule)).factors[0].proved
    assert guarantees(f, maximise(f, 3)).factors[0].proved


def test_nothing_is_claimed_of_a_function_that_falls():
    arcs = [
        (i, j, 0.1 + 0.07 * ((3 * i + 5 * j) % 11)) for i in range(6) for j in range(6) if i != j
    ]
    cut = SetFunction(
        6, lambda s: sum(w for i, j, w in arcs if i in s and j not in s), diminishing=True
    )
    for k in range(1, 6):
        told = guarantees(cut, maximise(cut, k))
        assert all(x.vacuous and not x.proved for x in (*told.factors, *told.optimum))
        assert "f falls" in str(told)
    x = drawn(30, 6)
    base = LeastSquares(x, x[:, 0] + 0.3 * x[:, 4] + 2 * drawn(30, seed=3))
    dear = SetFunction(6, lambda s: base.worth(s) - 0.2 * len(s))
    assert not guarantees(dear, maximise(dear, 3)).optimum[0].proved


# ---- items that cannot be added --------------------------------------------------------------------
class Limited(SetFunction):
    """At most one item of each group of four."""

    def gains(self, state, candidates):
        out = super().gains(state, candidates)
        taken = {i // 4 for i in state}
        return torch.where(torch.tensor([int(c) // 4 in taken for c in candidates]), -math.inf, out)


def test_what_cannot_be_added_is_not_and_nothing_is_claimed():
    f = Limited(12, lambda s: float(len(s)), diminishing=True)
    for rule in ("exact", "lazy", "swap", "beam", "distributed"):
        found = maximise(f, 3, rule=rule)
        assert sorted(i // 4 for i in found.picks) == [0, 1, 2]
        told = guarantees(f, found)
        assert all(x.vacuous and not x.proved for x in (*told.factors, *told.optimum))
        assert "cannot be added" in str(told)
    for seed in range(20):  # a whole sample may be blocked
        assert len(maximise(f, 3, rule="stochastic", delta=0.5, seed=seed).picks) == 3
    with pytest.raises(InputError, match="backward rule begins with all items"):
        maximise(f, 3, rule="backward")
    with pytest.raises(InputError, match="item 1 cannot be added to"):
        exact(Counted(f), 3, start=(0, 1))


# ---- rules -----------------------------------------------------------------------------------------
def test_distributed_gives_as_many_as_are_asked_for():
    for seed in range(60):
        x, y = drawn(6, 20, seed=seed), drawn(6, seed=seed + 1000)
        found = maximise(LeastSquares(x, y), 12, rule="distributed", seed=seed)
        assert len(set(found.picks)) == 12 and found.values[-1] == pytest.approx(1)
        assert found.sets[0] == found.picks
    x = drawn(20, 6)
    x[:, 4], x[:, 5] = x[:, 0] - x[:, 1], x[:, 2]
    for seed in range(10):
        assert (
            len(
                maximise(LeastSquares(x, drawn(20, seed=5)), 5, rule="distributed", seed=seed).picks
            )
            == 5
        )


def test_beam_breaks_ties_by_number_whatever_the_order_of_rows():
    for seed in range(30):
        x = drawn(30, 8, seed=seed)
        x[:, 5], x[:, 6], x[:, 7] = x[:, 2], x[:, 0], x[:, 1]
        y = x[:, :4].sum(1) + drawn(30, seed=seed + 500)
        rows = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        picks = {frozenset(maximise(LeastSquares(a, b), 4, rule="beam").picks)
                 for a, b in ((x, y), (x[rows], y[rows]))}  # fmt: skip
        assert len(picks) == 1
        assert not picks.pop() & {5, 6, 7}


@pytest.mark.parametrize(
    "rule", ["exact", "lazy", "backward", "beam", "distributed", "stochastic", "swap"]
)
@pytest.mark.parametrize("k", [2.5, None, "3", float("nan")])
def test_a_number_of_picks_is_whole(rule, k):
    with pytest.raises(InputError, match="k is a whole number"):
        maximise(Coverage(torch.eye(5)), k, rule=rule)
    assert len(maximise(Coverage(torch.eye(5)), np.int64(2), rule=rule).picks) == 2


def test_odd_calls_are_refused_in_words():
    cover = Coverage(torch.eye(5))
    for rule, options, text in [
        ("distributed", {"parts": 2.5}, "parts is a whole number"),
        ("beam", {"width": 2.5}, "width is a whole number"),
        ("stochastic", {"delta": None}, "delta is a probability"),
    ]:
        with pytest.raises(InputError, match=text):
            maximise(cover, 2, rule=rule, **options)
    with pytest.raises(InputError, match="SetFunction"):
        maximise(len, 2)
    with pytest.raises(InputError, match="parts is a whole number"):
        ForwardSelector(2, rule="distributed", parts=2.5).fit(drawn(9, 4).numpy(), drawn(9).numpy())

    class Plain(SetFunction):
        def gains(self, state, candidates):
            return super().gains(state, candidates).numpy()

    class Short(SetFunction):
        def gains(self, state, candidates):
            return super().gains(state, candidates)[:1]

    assert maximise(Plain(4, len), 2).picks == (0, 1)
    with pytest.raises(InputError, match="need as many gains"):
        maximise(Short(4, len), 2)


# ---- the unfolded walk -----------------------------------------------------------------------------
@pytest.mark.parametrize("tau", [1e-3, 1e-5, 1e-7])
def test_every_step_hands_out_one_item_however_cold(tau):
    for seed in range(20):
        m = 3 * torch.rand(1, 8, 5, generator=torch.Generator().manual_seed(seed))
        m[:, 1] = m[:, 0]
        for curve in ("sqrt", "log", "linear"):
            steps = unfold(m, 4, curve=curve, temperature=tau).steps
            assert torch.allclose(steps.sum(-1), torch.ones(1, 4), atol=1e-5)
            assert float(steps.min()) >= 0


def test_a_mask_of_numbers_is_refused_everywhere():
    torch.manual_seed(0)
    x, real = torch.randn(1, 5, 4), torch.tensor([[True, True, True, False, False]])
    net = GreedyNetwork(nn.Linear(4, 3), 3).eval()
    assert net.objectives(x, mask=real)[0].size == 3
    for call in (lambda m: net.objectives(x, mask=m), lambda m: net.train()(x, budgets=2, mask=m)):
        with pytest.raises(InputError, match="True for items"):
            call(real.long())


def test_a_first_batch_that_is_no_number_settles_nothing():
    torch.manual_seed(0)
    x = torch.randn(1, 5, 4)
    net, bad = GreedyNetwork(nn.Linear(4, 3), 3), x.clone()
    bad[0, 0, 0] = math.nan
    with pytest.raises(InputError, match="finite numbers"):
        net(bad, budgets=2)
    assert not bool(net.settled)
    assert bool(net(x, budgets=2).worth.isfinite().all()) and bool(net.settled)
