"""Values, gains and losses of the ready objectives against a second way to compute them, on every small set."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sprig.core.errors import DivergenceError, InputError
from sprig.greedy import (
    Coverage,
    Elimination,
    ErrorFall,
    FacilityLocation,
    LeastSquares,
    LogLikelihood,
    SetFunction,
    maximise,
)
from sprig.greedy.record import Counted


def close(case, a: float, b: float) -> bool:
    return a == pytest.approx(b, abs=case.exact + 1e-12)


def test_values_and_gains_are_those_of_the_second_way(case):
    everyone = torch.arange(case.objective.size)
    for m in (0, 1, 2, 3, 5, 7):
        for items in list(combinations(range(7), m))[::3]:
            state = case.objective.start()
            for i in items:
                state = case.objective.add(state, i)
            here = case.value(items)
            assert close(case, case.objective.value(state), here)
            gains = case.objective.gains(state, everyone)
            assert gains.shape == (7,) and gains.dtype == torch.float64
            for i in set(range(7)) - set(items):
                assert close(case, float(gains[i]), case.value([*items, i]) - here)
            assert len(case.objective.gains(state, everyone[:0])) == 0


def test_a_set_at_once_is_the_set_one_by_one(case):
    counted = Counted(case.objective)
    everyone = torch.arange(7)
    for items in [(), (4,), (6, 2), (5, 0, 1), (1, 3, 5, 6), tuple(range(7))]:
        whole, state = counted.of(items), case.objective.start()
        for i in items:
            state = case.objective.add(state, i)
        assert close(case, case.objective.value(whole), case.objective.value(state))
        left = everyone[[i not in items for i in range(7)]]
        torch.testing.assert_close(
            case.objective.gains(whole, left),
            case.objective.gains(state, left),
            atol=case.exact + 1e-12,
            rtol=0,
        )
    assert counted.evaluations == 0


@pytest.mark.parametrize(
    "order", [(6, 5, 4, 3, 2, 1, 0), (0, 1, 2, 3, 4, 5, 6), (3, 0, 6, 1, 5, 2, 4)]
)
def test_losses_are_exact_while_items_leave(case, order):
    counted = Counted(case.objective)
    shrinking = counted.eliminate(range(7))
    assert isinstance(shrinking, Elimination)
    left = list(range(7))
    for item in order:
        assert shrinking.items.tolist() == left
        losses = counted.losses(shrinking)
        for i, loss in zip(left, losses.tolist()):
            missed = case.value(left) - case.value([j for j in left if j != i])
            assert close(case, loss, missed)
        shrinking.drop(item)
        left.remove(item)
    assert len(shrinking.items) == 0
    assert counted.evaluations == 28


def test_adding_back_what_left_brings_what_was_lost(case):
    """Backward then forward: the loss of j from S is the gain of j on S - j."""
    counted = Counted(case.objective)
    for items in ([0, 1, 2, 3], [0, 1, 3, 5], [2, 4, 5, 6], list(range(7))):
        losses = counted.eliminate(items).losses()
        for at, item in enumerate(items):
            state = counted.of([i for i in items if i != item])
            gain = float(case.objective.gains(state, torch.tensor([item]))[0])
            assert close(case, gain, float(losses[at]))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["r2", "r2 wide"]))
def test_regression_survives_any_mixture_of_columns(make, seed, kind):
    case = make(kind, seed)
    rng = np.random.default_rng(seed)
    items = rng.permutation(7)[: rng.integers(1, 8)].tolist()
    state = case.objective.start()
    for i in items:
        state = case.objective.add(state, i)
    assert case.objective.value(state) == pytest.approx(case.value(items), abs=1e-8)
    assert case.objective.worth(items) == pytest.approx(case.value(items), abs=1e-8)
    for loss, i in zip(case.objective.eliminate(items).losses().tolist(), sorted(items)):
        assert loss == pytest.approx(case.value(items) - case.value(set(items) - {i}), abs=1e-8)


def test_columns_that_are_almost_combinations_keep_their_digits():
    """Running differences lose what a fresh projection does not: columns 1e-5 apart."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(40, 3, generator=generator, dtype=torch.float64)).Q
    y = q[:, 0] + q[:, 1] + q[:, 2]
    x = torch.stack([q[:, 0], q[:, 0] + 1e-5 * q[:, 1], q[:, 2]], 1)
    objective = LeastSquares(x, y, center=False)
    state = objective.add(objective.start(), 0)
    # behind column 0 the second column is q1 alone, whatever its length
    assert objective.gains(state, torch.arange(3)).tolist() == pytest.approx(
        [0, 1 / 3, 1 / 3], abs=1e-10
    )
    assert objective.value(objective.add(state, 1)) == pytest.approx(2 / 3, abs=1e-10)


def test_several_targets_count_by_their_variance():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(30, 5, generator=generator), torch.randn(30, 3, generator=generator)
    both = LeastSquares(x, y * torch.tensor([1.0, 2.0, 3.0]))
    power = (y - y.mean(0)).square().sum(0) * torch.tensor([1.0, 4.0, 9.0])
    single = torch.tensor([LeastSquares(x, y[:, i]).worth([0, 3]) for i in range(3)])
    assert both.worth([0, 3]) == pytest.approx(
        float((single * power).sum() / power.sum()), rel=1e-6
    )


def test_without_an_intercept_means_count():
    x = torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    y = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert LeastSquares(x, y).worth([0]) == 0.0
    assert LeastSquares(x, y, center=False).worth([0]) == pytest.approx(25 / 28)


def test_separable_classes_have_a_fit_and_scores_stay_below_the_ceiling():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 0.5]])
    objective = LogLikelihood(x, x[:, 0] > 0, ridge=1e-6)
    found = maximise(objective, 2)
    assert 0.95 * objective.ceiling < found.value < objective.ceiling
    with pytest.raises(DivergenceError, match="not settled after 1 Newton steps"):
        maximise(LogLikelihood(x, x[:, 0] > 0, steps=1), 1)


def test_labels_may_be_any_two_values():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0.3).long()
    a = maximise(LogLikelihood(x, y), 3)
    assert a.values == maximise(LogLikelihood(x, 7 * y - 3), 3).values
    assert a.values == maximise(LogLikelihood(x, y.bool()), 3).values


def test_an_objective_of_the_pruning_methods_is_a_set_function():
    class Missing:
        """Error: weight of what is not picked."""

        size, diminishing = 4, True
        weights = torch.tensor([0.1, 0.4, 0.3, 0.2])

        def start(self):
            return torch.zeros(4, dtype=torch.bool)

        def gains(self, state, candidates):
            return self.weights[candidates]

        def add(self, state, pick):
            state[pick] = True  # used up, as the contract allows
            return state

        def value(self, state):
            return float(self.weights[~state].sum())

    for rule in ("exact", "lazy", "backward", "swap", "beam"):
        found = maximise(ErrorFall(Missing()), 2, rule=rule)
        assert found.picks == (1, 2), rule
        assert found.values == pytest.approx((0, 0.4, 0.7))
    assert ErrorFall(Missing()).ceiling == pytest.approx(1.0)


def test_bad_tables_are_refused():
    ok = torch.ones(3, 2)
    for bad, text in [
        (torch.ones(3), "rows and columns"),
        (torch.ones(0, 2), "rows and columns"),
        (-ok, "at least 0"),
        (ok * torch.nan, "finite"),
    ]:
        with pytest.raises(InputError, match=text):
            Coverage(bad)
        with pytest.raises(InputError, match=text):
            FacilityLocation(bad)
    with pytest.raises(InputError, match="as many weights"):
        Coverage(ok, torch.ones(3))
    with pytest.raises(InputError, match="weights holds finite numbers"):
        Coverage(ok, torch.tensor([1.0, -1.0]))


def test_bad_regressions_are_refused():
    x, y = torch.randn(6, 3), torch.arange(6.0)
    for bad_x, bad_y, text in [
        (x[0], y, "x has shape"),
        (x, y[:, None, None], "y has shape"),
        (x, y[:4], "6 rows, y has 4"),
        (x * torch.nan, y, "x holds values that are not finite"),
        (x, torch.ones(6), "y is constant"),
    ]:
        with pytest.raises(InputError, match=text):
            LeastSquares(bad_x, bad_y)
    for bad_x, bad_y, ridge, text in [
        (x[0], y > 2, 1e-3, "x has shape"),
        (x, y, 1e-3, "6 different values"),
        (x, y[:4] > 2, 1e-3, r"shape \(4,\)"),
        (x, y > 2, 0.0, "ridge must be above 0"),
    ]:
        with pytest.raises(InputError, match=text):
            LogLikelihood(bad_x, bad_y, ridge=ridge)


def test_a_plain_function_is_taken_from_its_empty_set():
    f = SetFunction(3, lambda s: 5.0 + sum(s))
    assert f.value(f.start()) == 0.0
    assert f.gains(f.add(f.start(), 2), torch.arange(2)).tolist() == [0.0, 1.0]
