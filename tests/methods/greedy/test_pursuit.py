"""Exact block pursuit against plain least squares on the rows, set by set and pick by pick."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp_gram

from sprig.core.errors import InputError
from sprig.core.stats import Moments
from sprig.methods.greedy import pursuit
from sprig.methods.greedy.elimination import Elimination, prepare
from sprig.methods.greedy.problem import ConsumerProblem, columns_of, system
from sprig.methods.greedy.pursuit import RefitObjective, backward, path, solve, value

KINDS = ("plain", "correlated", "deficient", "dead")
SIZE = 6


def consumers(layer, kind, block, **extra):
    """Two consumers of one group: different widths, base columns, scales, outputs; one with a foreign target."""
    return [
        layer(kind, block=block, seed=1, metric=True, **extra),
        layer(kind, block=2, base=3, outputs=2, seed=2, own=False, scale=0.5, **extra),
        layer(kind, block=1, base=0, outputs=9, seed=3, centred=False, scale=2.0, **extra),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_path_is_the_brute_force_path(layer, lstsq, kind, block, ridge):
    layers = consumers(layer, kind, block)
    trail = path([lay.problem for lay in layers], SIZE, ridge=ridge)
    assert sorted(trail.picks) == list(range(SIZE))
    assert trail.values[0] == pytest.approx(lstsq(layers, [], ridge), abs=1e-9)
    for n, pick in enumerate(trail.picks):
        here = trail.picks[:n]
        errors = {i: lstsq(layers, [*here, i], ridge) for i in range(SIZE) if i not in here}
        assert errors[pick] == pytest.approx(min(errors.values()), abs=1e-9)
        assert trail.values[n + 1] == pytest.approx(errors[pick], abs=1e-9)
        assert trail.gains[n] == pytest.approx(trail.values[n] - trail.values[n + 1], abs=1e-9)
    assert all(a >= b - 1e-12 for a, b in zip(trail.values, trail.values[1:], strict=False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 2])
def test_gains_of_every_candidate_are_differences_of_values(layer, lstsq, kind, block):
    layers = consumers(layer, kind, block)
    objective = RefitObjective([lay.problem for lay in layers], SIZE, ridge=1e-3)
    state, picks = objective.start(), []
    for pick in (4, 0, 5):
        rest = torch.tensor([i for i in range(SIZE) if i not in picks])
        here = lstsq(layers, picks, 1e-3)
        true = [here - lstsq(layers, [*picks, int(i)], 1e-3) for i in rest]
        np.testing.assert_allclose(objective.gains(state, rest), true, atol=1e-9)
        state = objective.add(state, pick)
        picks.append(pick)


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_panels_and_compaction_change_nothing(layer, monkeypatch, block, dtype):
    problem = layer("correlated", size=60, block=block, base=4, outputs=30, n=700).problem
    h, t, _, _ = system(problem, 1e-3)
    begin = prepare(h, t, problem.units(60), dtype=dtype)
    picks = {}
    for panel in (1, 7, 10_000):  # every pick flushed, some, none
        part = Elimination(begin._replace(p=begin.p.clone(), q=begin.q.clone()), 60, panel=panel)
        picks[panel], gains = [], torch.zeros(60, dtype=dtype)
        for _ in range(60):
            gains.fill_(-1)[part.units] = part.gains()
            gains[picks[panel]] = -1
            picks[panel].append(int(gains.argmax()))
            taken = part.take(picks[panel][-1])
            assert taken == pytest.approx(
                float(gains.max()), rel=1e-6 if dtype == torch.float64 else 0.05, abs=1e-6
            )
    assert picks[1][:40] == picks[7][:40] == picks[10_000][:40]
    if dtype == torch.float64:
        assert picks[1] == picks[7] == picks[10_000]
        assert tuple(picks[7]) == path([problem], 60).picks


def test_units_may_have_different_widths_and_miss_consumers(layer, lstsq):
    one, two = layer(size=6, block=1), layer(size=3, block=1, seed=4)
    wide = columns_of([[0], [1, 2], [], [3, 5, 4]], 6)
    narrow = columns_of([[2], [0], [1], []], 3)
    one.problem = ConsumerProblem(one.problem.moments, wide, own=one.problem.own)
    two.problem = ConsumerProblem(two.problem.moments, narrow, own=two.problem.own)
    trail = path([one.problem, two.problem], 4)
    for n in range(5):
        assert trail.values[n] == pytest.approx(lstsq([one, two], trail.picks[:n], 1e-3), abs=1e-10)


def test_renumbering_units_and_columns_renumbers_the_picks(layer):
    lay = layer("correlated", size=8, block=2, outputs=5)
    p = lay.problem
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    names = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    moved = ConsumerProblem(
        Moments.from_rows(lay.x[:, order]), names[p.columns[order]], own=p.own[:, order]
    )
    a, b = path([p], 8), path([moved], 8)
    assert b.picks == tuple(int(names[i]) for i in a.picks)
    assert b.values == pytest.approx(a.values, abs=1e-12)


def test_dead_units_come_last_and_equal_ones_in_order(layer):
    lay = layer("dead", size=6, shuffle=False)  # units 0 and 5 never vary
    trail = path([lay.problem], 6, ridge=0.0)
    assert trail.picks[4:] == (0, 5)
    assert trail.gains[4:] == (0.0, 0.0) and trail.values[4] == pytest.approx(0, abs=1e-12)
    zero = ConsumerProblem(lay.problem.moments, lay.problem.columns, own=torch.zeros(4, 6))
    flat = path([zero], 6)
    assert flat.picks == tuple(range(6)) and set(flat.values) == {0.0}


def test_copies_are_not_picked_while_anything_else_helps(layer):
    lay = layer(size=6, shuffle=False)
    lay.x[:, 3:] = lay.x[:, :3]
    problem = ConsumerProblem(Moments.from_rows(lay.x), lay.problem.columns, own=lay.problem.own)
    trail = path([problem], 6, ridge=0.0)
    assert {i % 3 for i in trail.picks[:3]} == {0, 1, 2}
    assert trail.gains[3:] == (0.0, 0.0, 0.0)
    assert trail.picks[3:] == tuple(sorted(trail.picks[3:]))


def test_start_and_steps(layer, lstsq):
    lay = layer("correlated")
    free = path([lay.problem], SIZE)
    last = free.picks[-1]
    forced = path([lay.problem], SIZE, steps=3, start=[last])
    assert forced.picks[0] == last and len(forced.picks) == 3
    assert forced.values[1] == pytest.approx(lstsq([lay], [last], 1e-3), abs=1e-10)
    assert path([lay.problem], SIZE, steps=2).values == free.values[:3]


def test_rechecks_agree_with_the_running_sum(layer, monkeypatch):
    lay = layer("correlated", size=20, outputs=3, n=200)
    plain = path([lay.problem], 20)
    monkeypatch.setattr(pursuit, "RECHECK", 1)
    assert path([lay.problem], 20).values == pytest.approx(plain.values, abs=1e-11)
    monkeypatch.setattr(pursuit, "value", lambda *a, **k: 0.25)
    assert path([lay.problem], 20).values[1:] == pytest.approx(
        [0.25] * 20
    )  # the fresh value counts


@pytest.mark.parametrize("kind", ["plain", "correlated", "dead"])
@pytest.mark.parametrize("block", [1, 2])
def test_backward_removes_the_cheapest_every_time(layer, lstsq, kind, block):
    layers = consumers(layer, kind, block)
    trail = backward([lay.problem for lay in layers], SIZE, ridge=1e-3)
    for n in range(SIZE, 0, -1):
        here = trail.picks[:n]
        errors = {i: lstsq(layers, [j for j in here if j != i], 1e-3) for i in here}
        assert errors[here[-1]] == pytest.approx(min(errors.values()), abs=1e-9)
        assert trail.values[n - 1] == pytest.approx(errors[here[-1]], abs=1e-9)
        assert trail.gains[n - 1] == pytest.approx(trail.values[n - 1] - trail.values[n], abs=1e-12)
    assert trail.values[SIZE] == pytest.approx(lstsq(layers, range(SIZE), 1e-3), abs=1e-9)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_solve_is_least_squares_with_a_bias(layer, lstsq, kind, own, centred):
    lay = layer(kind, block=2, base=2, own=own, centred=centred, metric=True)
    keep = (lay.problem.columns < 3).numpy()
    solution = solve(lay.problem, torch.from_numpy(keep), ridge=0.0)
    x = lay.x.numpy()[:, keep]
    design = np.hstack([x, np.ones((len(x), 1))]) if centred else x
    fit = design @ np.linalg.lstsq(design, lay.y.numpy(), rcond=1e-10)[0]
    ours = lay.x @ solution.weight.T + solution.bias
    np.testing.assert_allclose(ours, fit, atol=1e-7)
    assert not solution.weight[:, ~torch.from_numpy(keep)].any()
    if not centred:
        assert not solution.bias.any()
    assert solution.error == pytest.approx(lstsq([lay], range(3), 0.0), abs=1e-9)
    # with ridge: the two errors are what they say they are, measured on the rows
    solution = solve(lay.problem, keep.nonzero()[0].tolist(), ridge=0.05)
    shift = lay.y.mean(0) if centred else 0
    weights = lay.problem.weights(4)
    rest = ((lay.x @ solution.weight.T + solution.bias - lay.y).square().mean(0) * weights).sum()
    total = ((lay.y - shift).square().mean(0) * weights).sum()
    assert solution.error == pytest.approx(float(rest / total), abs=1e-9)
    assert solution.ridge_error == pytest.approx(lstsq([lay], range(3), 0.05), abs=1e-9)
    assert value([lay.problem], range(3), size=6, ridge=0.05) == pytest.approx(solution.ridge_error)


def test_everything_kept_gives_the_weights_back(layer):
    lay = layer("correlated", block=2)
    solution = solve(lay.problem, range(12), ridge=0.0)
    torch.testing.assert_close(solution.weight, lay.problem.own, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        solution.bias, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_coefficients_and_order_of_scikit_learn(layer):
    """Orthogonal columns: matching pursuit and exact refit pick alike, and the coefficients are the same."""
    q = torch.linalg.qr(torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()).Q
    y = q @ torch.tensor([0.2, -3.0, 1.0, 0.5, -0.1, 2.0, 0.7], dtype=torch.float64)[:, None]
    problem = ConsumerProblem(Moments.from_rows(q, y), torch.arange(7), centred=False)
    trail = path([problem], 7, ridge=0.0)
    for n in range(1, 8):
        theirs = orthogonal_mp_gram((q.T @ q).numpy(), (q.T @ y).numpy().ravel(), n_nonzero_coefs=n)
        assert set(np.flatnonzero(theirs)) == set(trail.picks[:n])
        ours = solve(problem, trail.picks[:n], ridge=0.0).weight[0]
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_forward_is_optimal_where_order_cannot_matter(layer, lstsq):
    """With orthogonal units every order of adding gives a set its value: greedy is exhaustive search."""
    q = torch.linalg.qr(torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).double()).Q
    y = q @ torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    problem = ConsumerProblem(Moments.from_rows(q, y), torch.arange(5), centred=False)
    trail = path([problem], 5)
    for n in range(1, 5):
        every = [value([problem], list(s)[:n], size=5) for s in permutations(range(5))]
        assert trail.values[n] == pytest.approx(min(every), abs=1e-12)


def test_float32_agrees_to_its_precision(layer):
    lay = layer("correlated", size=40, block=2, outputs=12, n=900)
    a, b = path([lay.problem], 40), path([lay.problem], 40, dtype=torch.float32)
    assert b.picks[:20] == a.picks[:20]
    assert b.values == pytest.approx(a.values, abs=1e-4)


def test_what_does_not_fit_is_refused(layer):
    good = layer().problem

    def with_(**change):
        from dataclasses import replace

        return replace(good, **change)

    with pytest.raises(InputError, match="no consumer"):
        path([], 4)
    with pytest.raises(InputError, match="conv: no target"):
        path([with_(own=None)], 6)
    with pytest.raises(InputError, match="6 inputs need as many unit numbers"):
        path([with_(columns=torch.arange(5))], 6)
    with pytest.raises(InputError, match=r"unit numbers must be in -1\.\.3"):
        path([good], 4)
    with pytest.raises(InputError, match="scale 0 is not positive"):
        path([with_(scale=0)], 6)
    for metric in (torch.ones(3), -torch.ones(4), torch.full((4,), float("nan"))):
        with pytest.raises(InputError, match="4 finite weights"):
            path([with_(metric=metric)], 6)
    for ridge in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be a number >= 0"):
            path([good], 6, ridge=ridge)
    with pytest.raises(InputError, match="mask over 6 columns"):
        solve(good, torch.ones(5, dtype=torch.bool))
    with pytest.raises(InputError, match=r"must be in 0\.\.5"):
        solve(good, [6])
    with pytest.raises(InputError, match="conv: no rows"):
        path([with_(moments=Moments.empty(6, name="conv"))], 6)
    with pytest.raises(InputError, match="depend on each other"):
        backward([layer("deficient", size=8, n=5).problem], 8, ridge=0.0)
