"""Swaps against the generic engine, floors and ratios against all subsets."""

from itertools import combinations, pairwise

import pytest
import torch

from sprig.core import greedy
from sprig.core.errors import InputError
from sprig.core.stats import Moments
from sprig.methods.greedy import exchange
from sprig.methods.greedy.bounds import _largest, floor, reach, submodularity_ratio
from sprig.methods.greedy.exchange import swap
from sprig.methods.greedy.problem import ConsumerProblem
from sprig.methods.greedy.pursuit import RefitObjective, path, value

SIZE = 7
KINDS = ("plain", "correlated", "deficient", "dead")


def pair(layer, kind, block, *, outputs=4, seed=0):
    return [
        layer(kind, size=SIZE, block=block, seed=seed, outputs=outputs, metric=True),
        layer(kind, size=SIZE, block=2, base=3, outputs=2, seed=seed + 1, own=False, scale=0.5),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_swap_is_the_generic_search(layer, lstsq, kind, block, n):
    layers = pair(layer, kind, block)
    problems = [lay.problem for lay in layers]
    fast = swap(problems, range(n), size=SIZE)
    slow = greedy.swap(RefitObjective(problems, SIZE), range(n))
    assert fast.picks == slow.picks
    assert fast.before == pytest.approx(lstsq(layers, range(n), 1e-3), abs=1e-9)
    assert fast.after == pytest.approx(lstsq(layers, fast.picks, 1e-3), abs=1e-9)
    assert fast.after == pytest.approx(slow.values[-1], abs=1e-10)
    assert fast.after <= fast.before
    kept = list(range(n))
    for out, new in fast.moves:
        kept = [*(i for i in kept if i != out), new]
    assert tuple(kept) == fast.picks


def test_swaps_can_beat_greedy_and_more_tries_never_do_worse(layer):
    better = 0
    for seed in range(30):
        problems = [layer("correlated", size=SIZE, seed=seed, outputs=3).problem]
        picks = path(problems, SIZE, steps=3).picks
        once, more = (swap(problems, picks, size=SIZE, tries=t) for t in (1, 3))
        assert more.after <= once.after + 1e-12 <= once.before + 2e-12
        best = min(value(problems, s, size=SIZE) for s in combinations(range(SIZE), 3))
        assert more.after >= best - 1e-12
        better += more.after < more.before - 1e-9
        assert swap(problems, picks, size=SIZE, rounds=0).picks == picks
    assert better


def test_many_swaps_stay_exact(layer, monkeypatch):
    monkeypatch.setattr(exchange, "REFRESH", 3)
    lay = layer("correlated", size=30, block=2, outputs=8, n=300)
    found = swap([lay.problem], range(12), size=30, tries=4)
    assert len(found.moves) > 4
    assert found.after == pytest.approx(value([lay.problem], found.picks, size=30), abs=1e-11)
    monkeypatch.setattr(exchange, "REFRESH", 10_000)
    assert swap([lay.problem], range(12), size=30, tries=4).moves == found.moves


def test_partly_dependent_blocks_survive_swapping_without_ridge(layer, lstsq):
    lay = layer(size=5, block=2, shuffle=False)
    lay.x[:, 3] = lay.x[:, 0]  # half of unit 1 repeats half of unit 0
    lay.y = lay.x @ lay.problem.own.T
    lay.problem = ConsumerProblem(
        Moments.from_rows(lay.x), lay.problem.columns, own=lay.problem.own
    )
    found = swap([lay.problem], [0, 4], size=5, ridge=0.0, tries=2)
    assert found.after == pytest.approx(lstsq([lay], found.picks, 0.0), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("outputs", [2, 12])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_no_subset_is_below_the_floor(layer, kind, block, outputs, ridge):
    problems = [lay.problem for lay in pair(layer, kind, block, outputs=outputs)]
    best = [
        min(value(problems, s, size=SIZE, ridge=ridge) for s in combinations(range(SIZE), n))
        for n in range(SIZE + 1)
    ]
    for removal in (True, False):
        low = floor(problems, SIZE, ridge=ridge, removal=removal)
        assert all(f <= b + 1e-10 for f, b in zip(low, best, strict=True))
        assert all(a >= b for a, b in pairwise(low))
        assert low[0] == pytest.approx(best[0], abs=1e-9) and low[SIZE] <= best[SIZE] + 1e-10
    if ridge and kind != "dead":  # leaving one out is bounded exactly
        assert floor(problems, SIZE, ridge=ridge)[SIZE - 1] == pytest.approx(
            best[SIZE - 1], abs=1e-9
        )


def test_the_rank_floor_is_reached_where_units_are_the_principal_directions():
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(40, 5, generator=g, dtype=torch.float64)).Q
    y = q * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    problem = ConsumerProblem(Moments.from_rows(q, y), torch.arange(5), centred=False)
    low = floor([problem], 5, ridge=0.0, removal=False)
    assert low == pytest.approx(path([problem], 5, ridge=0.0).values, abs=1e-10)
    assert low == pytest.approx([1, 30 / 55, 14 / 55, 5 / 55, 1 / 55, 0], abs=1e-10)


def test_the_largest_eigenvalue_is_never_underestimated():
    for seed in range(20):
        x = torch.randn(9, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        true = float(torch.linalg.eigvalsh(x @ x.T)[-1])
        assert true <= _largest(x @ x.T) <= 1.3 * true


def ratio_by_definition(problems, picks):
    lowest = 1.0
    for at in range(len(picks)):
        here = list(picks[:at])
        base = value(problems, here, size=SIZE)
        rest = [i for i in range(SIZE) if i not in here]
        for m in range(2, min(len(picks), len(rest)) + 1):
            for s in combinations(rest, m):
                joint = base - value(problems, [*here, *s], size=SIZE)
                single = sum(base - value(problems, [*here, i], size=SIZE) for i in s)
                if joint > 1e-9:
                    lowest = min(lowest, single / joint)
    return lowest


@pytest.mark.parametrize("kind", ["plain", "correlated"])
@pytest.mark.parametrize("block", [1, 2])
def test_the_ratio_is_its_definition_and_gives_the_guarantee(layer, kind, block):
    problems = [lay.problem for lay in pair(layer, kind, block)]
    trail = path(problems, SIZE, steps=3)
    ratio = submodularity_ratio(problems, trail.picks, size=SIZE)
    assert ratio.exact and ratio.pairs == sum((21 + 35, 15 + 20, 10 + 10))
    assert ratio.value == pytest.approx(ratio_by_definition(problems, trail.picks), abs=1e-7)
    best = min(value(problems, s, size=SIZE) for s in combinations(range(SIZE), 3))
    gained, possible = trail.values[0] - trail.values[-1], trail.values[0] - best
    assert gained >= (1 - torch.exp(torch.tensor(-ratio.value))) * possible


@pytest.mark.parametrize("kind", ["plain", "correlated"])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("picks", [(0, 1, 2), (4, 5), None])
def test_no_set_of_its_size_explains_more_than_the_ceiling(layer, kind, block, picks):
    problems = [lay.problem for lay in pair(layer, kind, block)]
    picks = path(problems, SIZE, steps=3).picks if picks is None else picks
    n, empty = len(picks), value(problems, (), size=SIZE)
    known = reach(problems, picks, size=SIZE)
    assert known.reached == pytest.approx(empty - value(problems, picks, size=SIZE))
    assert known.whole == pytest.approx(empty - value(problems, range(SIZE), size=SIZE))
    singles = [value(problems, picks, size=SIZE) - value(problems, [*picks, i], size=SIZE)
               for i in range(SIZE) if i not in picks]  # fmt: skip
    assert known.further == pytest.approx(sum(sorted(singles)[-n:]), rel=1e-6)
    behind = submodularity_ratio(problems, picks, size=SIZE, levels=(n,))
    best = max(empty - value(problems, s, size=SIZE) for s in combinations(range(SIZE), n))
    assert behind.exact and known.reached - 1e-9 <= best <= known.ceiling(behind.value) + 1e-9
    assert known.ceiling(0.0) == known.whole
    everyone = reach(problems, range(SIZE), size=SIZE)
    assert everyone.ceiling(1.0) == pytest.approx(everyone.whole)


def test_a_sampled_ratio_says_so_and_is_no_smaller(layer):
    problems = [lay.problem for lay in pair(layer, "correlated", 1)]
    picks = path(problems, SIZE, steps=4).picks
    true = submodularity_ratio(problems, picks, size=SIZE)
    drawn = [
        submodularity_ratio(
            problems, picks, size=SIZE, most=40, generator=torch.Generator().manual_seed(s)
        )
        for s in (1, 1, 2)
    ]
    assert not drawn[0].exact and drawn[0] == drawn[1]
    assert drawn[0].pairs == 40
    assert all(r.value >= true.value - 1e-12 for r in drawn)
    assert submodularity_ratio(problems, picks[:1], size=SIZE).value == 1.0


def test_what_does_not_fit_is_refused(layer):
    problem = layer(size=SIZE).problem
    for picks in ([0, 0], [SIZE], [-1]):
        with pytest.raises(InputError, match="distinct units"):
            swap([problem], picks, size=SIZE)
    with pytest.raises(InputError, match="depend on each other"):
        swap([layer("deficient", size=SIZE).problem], range(SIZE), size=SIZE, ridge=0.0)
    with pytest.raises(InputError, match="Generator"):
        submodularity_ratio([problem], range(4), size=SIZE, most=3)
