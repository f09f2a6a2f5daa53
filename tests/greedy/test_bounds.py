"""Ratios by their definitions, and bounds that the exhaustive optimum never contradicts."""

import math
from itertools import combinations, product
from types import SimpleNamespace

import pytest
import torch

from sprig.core.errors import InputError
from sprig.greedy import (
    Coverage,
    LeastSquares,
    SetFunction,
    guarantees,
    maximise,
    ratios,
    subadditivity_ratio,
    submodularity_ratio,
)
from sprig.greedy.bounds import Ceiling, Factor
from sprig.greedy.record import Counted, Selection
from sprig.greedy.rules import spread

K = 3


def gamma_by_definition(case, picks, levels, k):
    lowest = 1.0
    for at in levels:
        rest = set(range(7)) - set(picks[:at])
        here = case.value(picks[:at])
        for m in range(1, k + 1):
            for s in combinations(sorted(rest), m):
                single = sum(case.value([*picks[:at], j]) - here for j in s)
                joint = case.value([*picks[:at], *s]) - here
                if joint > 1e-7:
                    lowest = min(lowest, single / joint)
    return lowest


def nu_by_definition(case, items):
    lowest = 1.0
    for sides in product([0, 1], repeat=len(items)):
        a = [i for i, side in zip(items, sides) if side]
        b = [i for i, side in zip(items, sides) if not side]
        whole = case.value(items)
        if whole > 0:
            lowest = min(lowest, (case.value(a) + case.value(b)) / whole)
    return lowest


def test_the_ratios_are_their_definitions(case):
    picks = maximise(case.objective, K).picks
    gamma = submodularity_ratio(case.objective, picks)
    assert gamma.exact
    assert gamma.value == pytest.approx(gamma_by_definition(case, picks, range(K), K), abs=1e-5)
    behind = submodularity_ratio(case.objective, picks, levels=(K,))
    assert behind.value == pytest.approx(gamma_by_definition(case, picks, (K,), K), abs=1e-5)
    nu = subadditivity_ratio(case.objective, picks)
    assert nu.exact and nu.pairs == 3
    assert nu.value == pytest.approx(nu_by_definition(case, picks), abs=1e-6)
    everywhere = subadditivity_ratio(case.objective, K)
    assert everywhere.exact and everywhere.pairs == 35 * 3
    lowest = min(nu_by_definition(case, s) for s in combinations(range(7), K))
    assert everywhere.value == pytest.approx(lowest, abs=1e-6)


@pytest.mark.parametrize("kind", ["coverage", "facility"])
def test_submodular_functions_have_both_ratios_at_one(make, kind):
    for seed in range(3):
        f = make(kind, seed).objective
        assert submodularity_ratio(f, maximise(f, 4).picks).value == pytest.approx(1, abs=1e-9)
        assert subadditivity_ratio(f, 4).value == pytest.approx(1, abs=1e-9)


def test_a_sampled_ratio_says_so_and_is_no_smaller(make):
    f = make("r2", seed=2).objective
    picks = maximise(f, 4).picks
    true, nu = submodularity_ratio(f, picks), subadditivity_ratio(f, 4)
    for seed in (1, 2):
        first, second = (torch.Generator().manual_seed(seed) for _ in range(2))
        drawn = submodularity_ratio(f, picks, most=40, generator=first)
        assert drawn == submodularity_ratio(f, picks, most=40, generator=second)
        assert not drawn.exact and 40 <= drawn.pairs <= 48
        assert drawn.value >= true.value - 1e-12
        some = subadditivity_ratio(f, 4, most=20, generator=first)
        assert not some.exact and some.pairs == 20 and some.value >= nu.value - 1e-12
        mine = subadditivity_ratio(f, picks, most=3, generator=first)
        assert not mine.exact and mine.pairs == 3
    for call in (submodularity_ratio, subadditivity_ratio):
        with pytest.raises(InputError, match=r"torch\.Generator"):
            call(f, picks, most=3)


@pytest.mark.parametrize("rule", ["exact", "swap", "beam"])
def test_the_optimum_is_never_outside_the_bounds(case, rule):
    found = maximise(case.objective, K, rule=rule)
    told, best = guarantees(case.objective, found), case.optimum(K)
    assert told.factors and told.optimum
    for factor in told.factors:
        assert factor.proved and not factor.expected
        assert found.value >= factor.value * best - 1e-8
    for ceiling in told.optimum:
        assert ceiling.proved
        assert best <= min(ceiling.value, ceiling.limit) + 1e-6
        assert ceiling.share <= found.value / best + 1e-6


def test_the_distributed_bound_holds_in_the_mean_over_all_partitions(make):
    for kind in ("r2", "table", "coverage"):
        case = make(kind, seed=1, size=5)
        f, best, worth, gamma = case.objective, case.optimum(K), [], 1.0
        for code in product([0, 1], repeat=4):  # the first item's part is a name only
            found = spread(Counted(f), K, torch.tensor([0, *code]), parts=2)
            picks = found.trail.picks
            worth.append(-found.trail.values[-1])
            selection = Selection(
                "distributed", picks, (0.0, worth[-1]), 0, 0, 0, found.sets, {"parts": 2}
            )
            told = guarantees(f, selection)
            gamma = min(gamma, told.gamma.value)
            assert told.factors[0].expected and told.nu is not None
        bound = told.nu.value / 2 * (1 - math.exp(-gamma))
        assert sum(worth) / len(worth) >= bound * best
        assert told.factors[0].formula == "nu/2 (1 - e^-gamma)"


def test_the_stochastic_bounds_hold_in_the_mean_over_draws(make):
    for kind in ("r2", "table", "facility"):
        case = make(kind, seed=4)
        worth, bounds = [], []
        for seed in range(40):
            found = maximise(case.objective, 2, rule="stochastic", delta=0.3, seed=seed)
            worth.append(found.value)
            bounds.append([f.value for f in guarantees(case.objective, found).factors[:2]])
        best, mean = case.optimum(2), sum(worth) / len(worth)
        for bound in zip(*bounds):
            assert mean >= min(bound) * best
        assert all(sharp >= plain for plain, sharp in bounds)


def test_eigenvalues_bound_what_enumeration_finds(make):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 7, generator=generator)
    f = LeastSquares(x, x @ torch.randn(7, generator=generator))
    low, part = f.spectral()
    gram = torch.corrcoef(x.double().T)
    values = torch.linalg.eigvalsh(gram)
    assert low == pytest.approx(float(values[0]), abs=1e-9) and 0 < low < 1
    assert part == pytest.approx(float(values[0] / values[-1]), abs=1e-9)
    assert submodularity_ratio(f, maximise(f, K).picks).value >= low
    assert subadditivity_ratio(f, K).value >= part
    assert make("r2").objective.spectral() == (0.0, 0.0)  # columns depend on each other
    assert make("r2 wide").objective.spectral() == (0.0, 0.0)


def test_a_bound_that_says_nothing_says_vacuous(make):
    f = make("r2").objective
    told = guarantees(f, maximise(f, K))
    eigen = [x for x in (*told.factors, *told.optimum) if x.basis == "eigenvalues"]
    assert len(eigen) == 2 and all(x.vacuous and "vacuous" in str(x) for x in eigen)
    assert math.isinf(told.optimum[1].value)
    reached = f"(eigenvalues); no set is worth more than 1, of which the picks reach {told.optimum[1].share:.4f}"
    assert str(told.optimum[1]).endswith(reached)
    assert str(Ceiling(math.inf, math.inf, 0.5, "sampled")) == "optimum: vacuous (sampled)"
    careless = maximise(f, K, rule="stochastic", delta=0.9)
    assert guarantees(f, careless).factors[0].vacuous
    assert not guarantees(f, careless).factors[1].vacuous
    for rule, options in (("backward", {}), ("lazy", {"force": True})):
        (none, *_) = guarantees(f, maximise(f, K, rule=rule, **options)).factors
        assert none.vacuous and not none.proved and f"for {rule} picks: vacuous" in str(none)


def test_a_gain_that_appears_from_nothing_makes_gamma_vacuous():
    both = SetFunction(4, lambda s: float({0, 1} <= set(s)))
    told = guarantees(both, maximise(both, 2, rule="backward"))
    assert submodularity_ratio(both, (2, 3)).value == 0.0
    assert told.optimum[0].value == 1.0 and not told.optimum[0].vacuous  # nothing is left to gain
    lost = Selection("exact", (2, 3), (0.0, 0.0, 0.0), 0, 0, 0, ((2, 3),))
    assert guarantees(both, lost).factors[0].vacuous
    assert (
        str(guarantees(both, lost)).count("vacuous") == 2
    )  # {0, 1} is worth 1, {2, 3} and its gains 0


def test_what_is_known_reads_as_a_sentence():
    assert str(Factor("1 - e^-gamma", 0.5, "enumerated")).endswith(
        "at least 0.5000 of the optimum (enumerated)"
    )
    assert "in the mean over the draws (sampled, an estimate)" in str(
        Factor("x", 0.5, "sampled", True)
    )
    ceiling = Ceiling(0.8, 1.0, 0.6, "sampled")
    assert not ceiling.vacuous and not ceiling.proved
    assert str(ceiling).endswith("the picks reach 0.7500 (sampled, an estimate)")
    assert Ceiling(1.2, 1.0, 0.6, "declared").vacuous
    assert Ceiling(1.2, 1.0, 0.6, "declared").share == 0.6
    assert Ceiling(math.inf, math.inf, 0.6, "sampled").share == 0.0
    cover = Coverage(torch.eye(5))
    told = guarantees(cover, maximise(cover, 2, rule="distributed"))
    assert told.factors[0].value == pytest.approx((1 - math.exp(-1)) / 2)
    assert told.factors[0].basis == "declared" and told.nu.value == 1.0


def test_sets_of_a_large_ground_set_are_not_counted_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers of sets with hundreds of digits took a sixth of a whole run."""
    asked: list[int] = []

    def comb(n: int, k: int) -> int:
        asked.append(n)
        return math.comb(n, k)

    monkeypatch.setattr(ratios, "math", SimpleNamespace(comb=comb))
    found = ratios.weakest_ratio(
        lambda beginning: lambda chosen: (1.0, 2.0), range(900), size=2000, most=16,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (found.value, found.exact, found.pairs) == (0.5, False, 16)
    assert len(asked) == 1
    for most, exact in (
        (34, True),
        (33, False),
    ):  # 20 + 10 + 4 sets of two or three behind 0, 1 and 2 of five
        few = ratios.weakest_ratio(
            lambda beginning: lambda chosen: (1.0, 2.0), range(3), size=5, most=most,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert few.exact is exact and few.pairs == (34 if exact else 33)
