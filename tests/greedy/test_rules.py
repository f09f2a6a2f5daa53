"""Every rule on every objective against brute force, where the two must agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprig.core.errors import DivergenceError, InputError
from sprig.greedy import (
    RULES,
    Coverage,
    FacilityLocation,
    LeastSquares,
    SetFunction,
    maximise,
    sample_size,
)
from sprig.greedy.record import Counted
from sprig.greedy.rules import spread

ADDING = ("exact", "stochastic", "distributed", "swap", "beam")


def suppressors(seed: int) -> LeastSquares:
    """Two pairs of a noisy signal and its noise, which says nothing alone; eight weak copies of the target."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    y = torch.zeros(60, dtype=torch.float64)
    for low, high in ((0, 1), (2, 3)):
        signal = x[:, low].clone()
        x[:, low] = signal + x[:, high]
        y += signal
    decoys = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    x[:, 4:] = 0.25 * y[:, None] + decoys
    return LeastSquares(x, y + 0.1 * torch.randn(60, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_values_are_those_of_the_picks_and_everything_is_taken_in_the_end(case, rule):
    options = {"force": True} if rule == "lazy" else {}
    for k in (0, 1, 3, 7):
        found = maximise(case.objective, k, rule=rule, **options)
        assert (found.rule, len(set(found.picks)), len(found.picks)) == (rule, k, k)
        assert found.values[0] == 0.0 and len(found.values) == k + 1
        for m in range(k + 1):
            assert found.values[m] == pytest.approx(case.value(found.picks[:m]), abs=1e-8)
        assert found.value == found.values[-1] and sum(found.gains) == pytest.approx(found.value)
        assert found.critical <= found.evaluations


@pytest.mark.parametrize("rule", ["exact", "distributed", "swap", "beam", "lazy"])
def test_one_pick_is_the_best_item(case, rule):
    options = {"force": True} if rule == "lazy" else {}
    found = maximise(case.objective, 1, rule=rule, **options)
    assert found.value == pytest.approx(case.optimum(1), abs=1e-8)


def test_exact_is_greedy_as_one_would_write_it_down(case):
    found = maximise(case.objective, 4)
    assert list(found.picks) == case.naive(4)
    assert found.evaluations == found.critical == 7 + 6 + 5 + 4
    assert found.sets == (found.picks,)


def test_a_stochastic_step_takes_the_best_of_its_sample(case):
    found = maximise(case.objective, 3, rule="stochastic", seed=5, delta=0.4)
    many = math.ceil(7 / 3 * math.log(1 / 0.4))
    assert many == 3 and found.evaluations == 9
    generator, picks = torch.Generator().manual_seed(5), []
    for _ in range(3):
        left = [i for i in range(7) if i not in picks]
        drawn = torch.randperm(len(left), generator=generator)[:many].tolist()
        sample = sorted(left[i] for i in drawn)
        worth = [case.value([*picks, i]) for i in sample]
        picks.append(next(i for i, w in zip(sample, worth) if w >= max(worth) - 1e-7))
    assert list(found.picks) == picks
    again = maximise(case.objective, 3, rule="stochastic", seed=5, delta=0.4)
    assert again == found
    everything = maximise(case.objective, 4, rule="stochastic", delta=1e-9)
    assert everything.picks == maximise(case.objective, 4).picks  # a sample of all is no sample


def test_the_size_of_a_sample_at_its_edges():
    assert sample_size(1000, 75, 0.001) == 93 and sample_size(1000, 75, 0.5) == 10
    assert sample_size(5000, 10, 0.001) == 3454
    assert sample_size(1000, 75, 1 - 1e-12) == 1  # never none
    assert sample_size(10, 0, 0.5) == 7
    for bad in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(InputError, match="delta is a probability"):
            sample_size(10, 2, bad)


def test_distributed_is_greedy_in_parts_and_on_their_picks(case):
    for seed in range(3):
        found = maximise(case.objective, 3, rule="distributed", parts=3, seed=seed)
        part = torch.randint(3, (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        local = [case.naive(3, [i for i in range(7) if part[i] == p]) for p in range(3)]
        union = case.naive(3, sorted({i for picks in local for i in picks}))
        assert {frozenset(s) for s in found.sets} == {frozenset(s) for s in (union, *local)}
        assert len(found.sets) == 4 and found.sets[0] == found.picks
        best = max(case.value(s) for s in (union, *local))
        assert found.value == pytest.approx(best, abs=1e-8)
        costs = [sum(max(len_ - i, 0) for i in range(3)) for len_ in map(part.count, range(3))]
        size = sum(map(len, local))
        on_top = sum(max(size - i, 0) for i in range(min(3, size)))
        assert found.evaluations == sum(costs) + on_top
        assert found.critical == max(costs) + on_top


def test_distributed_with_one_part_is_exact(case):
    for k in (2, 5):
        one = maximise(case.objective, k, rule="distributed", parts=1, seed=3)
        exact = maximise(case.objective, k)
        assert one.picks == exact.picks
        assert one.values == pytest.approx(exact.values, abs=1e-12)


def test_the_best_part_counts_even_where_it_beats_the_union():
    worth = {(): 0, (0,): 2, (1,): 3, (2,): 2, (0, 2): 9, (0, 1): 4, (1, 2): 4, (0, 1, 2): 10}
    f = SetFunction(3, lambda s: worth[s])
    found = spread(Counted(f), 2, torch.tensor([0, 1, 0]), parts=2)
    assert found.trail.picks == (0, 2)  # the union's greedy starts with 1 and ends at 4
    assert found.sets == ((0, 2), (1, 0), (1,))


def test_an_item_that_greedy_left_out_may_go(case):
    """What the proof about parts needs of ties: without an item not picked, the picks are the same."""
    picks = maximise(case.objective, 3).picks
    for gone in set(range(7)) - set(picks):
        among = torch.tensor([0 if i != gone else 1 for i in range(7)])
        assert spread(Counted(case.objective), 3, among, parts=2).sets.count(picks) >= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=2, max_size=12), st.data()
)
def test_lazy_is_exact_where_gains_never_grow_ties_included(rows, data):
    cover = Coverage(torch.tensor(rows))
    k = data.draw(st.integers(0, len(rows)))
    quick, exact = maximise(cover, k, rule="lazy"), maximise(cover, k)
    assert (quick.picks, quick.values) == (exact.picks, exact.values)
    assert quick.evaluations <= max(exact.evaluations, len(rows))


def test_lazy_saves_evaluations(generator):
    near = FacilityLocation(torch.rand(60, 40, generator=generator) ** 4)
    quick, exact = maximise(near, 12, rule="lazy"), maximise(near, 12)
    assert quick.picks == exact.picks
    assert quick.evaluations < exact.evaluations / 2


@pytest.mark.parametrize("kind", ["r2", "logistic", "table"])
def test_lazy_is_refused_where_gains_may_grow(make, kind):
    with pytest.raises(InputError, match="does not declare that"):
        maximise(make(kind).objective, 3, rule="lazy")


def test_lazy_sees_through_a_false_declaration():
    liar = suppressors(0)
    liar.diminishing = True
    with pytest.raises(InputError, match=r"item \d+ brings .* but .* after"):
        maximise(liar, 5, rule="lazy")
    with pytest.raises(InputError, match="never grow"):  # caught on the way, if not before
        maximise(liar, 10, rule="lazy", trials=0)


def test_forced_laziness_loses_on_suppressors():
    """R2 with suppressors: the stale bounds are wrong, and the picks worse, most of the time."""
    lost = []
    for seed in range(20):
        problem = suppressors(seed)
        exact = maximise(problem, 5)
        forced = maximise(problem, 5, rule="lazy", force=True)
        lost.append(exact.value - forced.value)
        assert forced.evaluations < exact.evaluations
    assert sum(loss > 1e-6 for loss in lost) >= 12
    assert sum(lost) / len(lost) > 0.02


def test_backward_takes_out_what_is_missed_least(case):
    found = maximise(case.objective, 4, rule="backward")
    left, gone = list(range(7)), []
    while left:
        missed = [case.value(left) - case.value([j for j in left if j != i]) for i in left]
        low = min(missed)
        gone.append(max(i for i, m in zip(left, missed) if m <= low + 1e-7))
        left.remove(gone[-1])
    assert list(found.picks) == gone[::-1][:4]
    assert found.evaluations == sum(range(1, 8))
    assert found.sets == ()


@pytest.mark.parametrize("rule", RULES)
def test_where_items_do_not_interact_every_rule_finds_the_best(rule):
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(30, 9)) - 0.0)[0]
    weights = np.array([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6, 0.5])
    f = LeastSquares(torch.from_numpy(x), torch.from_numpy(x @ weights), center=False)
    options = {"lazy": {"force": True}, "stochastic": {"delta": 1e-9}}.get(rule, {})
    found = maximise(f, 4, rule=rule, **options)
    assert found.picks == (1, 3, 5, 7)
    assert found.value == pytest.approx(
        sum(w**2 for w in (0.9, 0.8, 0.7, 0.6)) / (weights**2).sum()
    )


def test_after_swaps_no_single_exchange_helps(case):
    found = maximise(case.objective, 3, rule="swap")
    first = maximise(case.objective, 3)
    assert found.value >= first.value - 1e-12 and found.sets == (first.picks,)
    for leaves in found.picks:
        for enters in set(range(7)) - set(found.picks):
            changed = {enters, *found.picks} - {leaves}
            assert case.value(changed) <= found.value + 1e-8
    assert maximise(case.objective, 3, rule="swap", rounds=0).picks == first.picks


def test_swaps_leave_a_trap_that_greedy_walks_into():
    problems = [suppressors(seed) for seed in range(12)]
    gained = [maximise(p, 3, rule="swap").value - maximise(p, 3).value for p in problems]
    assert max(gained) > 0.01 and min(gained) >= -1e-12


def test_a_wide_beam_is_brute_force_and_a_narrow_one_is_greedy(case):
    wide = maximise(case.objective, 3, rule="beam", width=35)
    assert wide.value == pytest.approx(case.optimum(3), abs=1e-8)
    exact = maximise(case.objective, 4)
    assert maximise(case.objective, 4, rule="beam", width=1).picks == exact.picks
    for width in (2, 3):
        some = maximise(case.objective, 4, rule="beam", width=width)
        assert some.value >= exact.value - 1e-12
        assert some.sets == (exact.picks,)
    assert wide.evaluations == 7 + 7 * 6 + 21 * 5


def test_no_rule_beats_brute_force_on_twelve_items(make):
    for kind in ("r2", "facility"):
        case = make(kind, seed=3, size=12)
        best = case.optimum(3)
        for rule in RULES:
            options = {"force": True} if rule == "lazy" else {}
            assert maximise(case.objective, 3, rule=rule, **options).value <= best + 1e-8


def test_items_that_cannot_be_added_are_left_out():
    class Barred:
        """Items above 2 may not join."""

        size, diminishing = 6, True

        def start(self):
            return ()

        def gains(self, state, candidates):
            return torch.where(candidates > 2, -torch.inf, 1.0 + candidates)

        def add(self, state, pick):
            return (*state, pick)

        def value(self, state):
            return float(sum(1 + i for i in state))

    for rule in ("exact", "lazy", "beam", "distributed"):
        assert set(maximise(Barred(), 5, rule=rule).picks) == {0, 1, 2}, rule
    assert maximise(Barred(), 2, rule="swap").picks == (2, 1)


def test_what_cannot_be_asked_is_refused():
    f = Coverage(torch.eye(4))
    with pytest.raises(InputError, match="unknown rule 'lucky'; known: exact, stochastic"):
        maximise(f, 2, rule="lucky")
    for k in (-1, 5):
        with pytest.raises(InputError, match=f"{k} picks asked of 4 items"):
            maximise(f, k)
    with pytest.raises(
        InputError, match="stochastic rule has no option 'parts'; its options: delta"
    ):
        maximise(f, 2, rule="stochastic", parts=2)
    with pytest.raises(InputError, match="exact rule has no option 'delta'; it has none"):
        maximise(f, 2, delta=0.1)
    with pytest.raises(InputError, match="at least one part"):
        maximise(f, 2, rule="distributed", parts=0)
    with pytest.raises(InputError, match="at least one set"):
        maximise(f, 2, rule="beam", width=0)
    with pytest.raises(InputError, match="number of exchanges"):
        maximise(f, 2, rule="swap", rounds=-1)

    class Offset(Coverage):
        def value(self, state):
            return super().value(state) + 1.0

    with pytest.raises(InputError, match="empty set must be worth 0, found 1"):
        maximise(Offset(torch.eye(4)), 2)


@pytest.mark.parametrize("rule", ["exact", "beam", "lazy", "backward"])
def test_numbers_that_are_none_are_named(rule):
    f = SetFunction(4, lambda s: math.nan if 2 in s else float(len(s)), diminishing=True)
    with pytest.raises(DivergenceError, match=r"item [0-3]|after picking"):
        maximise(f, 3, rule=rule, **({"trials": 0} if rule == "lazy" else {}))


def test_sets_of_equal_worth_go_to_the_lowest_numbers():
    same = Coverage(torch.ones(5, 2))
    for rule in ("exact", "lazy", "backward", "swap", "beam", "distributed"):
        assert maximise(same, 1, rule=rule).picks == (0,), rule
    assert maximise(same, 3).picks == (0, 1, 2)
