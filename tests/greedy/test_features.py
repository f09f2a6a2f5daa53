"""Feature-based set functions against a plain second way, on every small set; shares against their definition."""

from itertools import combinations

import numpy as np
import pytest
import torch

from sprig.core.errors import InputError
from sprig.greedy import (
    CURVES,
    Coverage,
    FacilityLocation,
    FeatureCoverage,
    guarantees,
    maximise,
)
from sprig.greedy.features import EPS


def plain(curve: str, m: np.ndarray, w: np.ndarray, shares: np.ndarray) -> float:
    """F of shares, written down once more: concept by concept, item by item."""
    total = 0.0
    for u in range(m.shape[1]):
        masses = [s * row[u] for s, row in zip(shares, m)]
        if curve == "or":
            missed = 1.0
            for mass in masses:
                missed *= 1 - mass
            total += w[u] * (1 - missed)
        elif curve == "max":
            total += w[u] * max(masses)
        else:
            c = sum(masses)
            h = {"sqrt": np.sqrt(c + EPS) - np.sqrt(EPS), "log": np.log1p(c), "linear": c}
            total += w[u] * h[curve]
    return float(total)


def data(seed: int = 0, items: int = 6, concepts: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    m = rng.random((items, concepts)) * (rng.random((items, concepts)) < 0.6)
    return m, rng.random(concepts) + 0.1


@pytest.mark.parametrize("curve", CURVES)
def test_every_small_set_is_worth_what_the_second_way_says(curve):
    m, w = data()
    f = FeatureCoverage(torch.from_numpy(m), torch.from_numpy(w), curve=curve)
    for size in range(5):
        for items in combinations(range(6), size):
            here = plain(curve, m, w, np.isin(range(6), items))
            state = f.start()
            for i in items:
                state = f.add(state, i)
            assert f.value(state) == pytest.approx(here, abs=1e-12)
            assert f.value(f.of(items)) == pytest.approx(here, abs=1e-12)
            gains = f.gains(state, torch.arange(6))
            for i in set(range(6)) - set(items):
                there = plain(curve, m, w, np.isin(range(6), (*items, i)))
                assert float(gains[i]) == pytest.approx(there - here, abs=1e-12)
    assert f.ceiling == pytest.approx(plain(curve, m, w, np.ones(6)))


@pytest.mark.parametrize("curve", CURVES)
def test_shares_are_joined_as_defined_and_a_whole_item_more_adds_what_it_adds(curve):
    m, w = data(1)
    shares = np.random.default_rng(2).random(6)
    shares[0], shares[1] = 0.0, 1.0
    features, weights = torch.from_numpy(m), torch.from_numpy(w)
    c = CURVES[curve].gather(torch.from_numpy(shares), features)
    here = plain(curve, m, w, shares)
    assert float(CURVES[curve].height(c) @ weights) == pytest.approx(here, abs=1e-12)
    gains = CURVES[curve].rise(c[None], features) @ weights
    for j in range(6):  # a seventh item like item j, wholly in
        more = plain(curve, np.r_[m, m[j : j + 1]], w, np.r_[shares, 1.0])
        assert float(gains[j]) == pytest.approx(more - here, abs=1e-12)


def test_chances_of_0_and_1_are_coverage_and_the_largest_is_facility_location():
    m, w = data(3, items=9)
    features, weights = torch.from_numpy(m), torch.from_numpy(w)
    held = (features > 0).double()
    for f, known in [
        (FeatureCoverage(held, weights, curve="or"), Coverage(held, weights)),
        (FeatureCoverage(features, curve="max"), FacilityLocation(features.T)),
    ]:
        for rule in ("exact", "swap", "backward"):
            ours, theirs = maximise(f, 4, rule=rule), maximise(known, 4, rule=rule)
            assert ours.picks == theirs.picks
            assert ours.values == pytest.approx(theirs.values, abs=1e-12)


@pytest.mark.parametrize("curve", CURVES)
def test_lazy_is_right_and_greedy_keeps_its_promise(curve):
    for seed in range(3):
        m, w = data(seed, items=8)
        f = FeatureCoverage(torch.from_numpy(m), torch.from_numpy(w), curve=curve)
        found = maximise(f, 3)
        assert maximise(f, 3, rule="lazy").picks == found.picks
        best = max(plain(curve, m, w, np.isin(range(8), s)) for s in combinations(range(8), 3))
        told = guarantees(f, found)
        assert told.factors[0].proved
        assert found.value >= told.factors[0].value * best - 1e-12
        assert told.factors[0].value == pytest.approx(1 - np.exp(-1))
        if curve == "linear":
            assert found.value == pytest.approx(best)


def test_the_same_again_is_worth_less_unless_nothing_saturates():
    twice = torch.tensor([[0.5], [0.5]])
    for curve in CURVES:
        first, second = maximise(FeatureCoverage(twice, curve=curve), 2).gains
        if curve == "linear":
            assert second == pytest.approx(first)
        else:
            assert second < 0.9 * first, curve


def test_wrong_features_are_refused():
    ok = torch.rand(3, 2)
    with pytest.raises(InputError, match="unknown curve 'cube'; known: sqrt"):
        FeatureCoverage(ok, curve="cube")
    with pytest.raises(InputError, match="what the items hold is a table"):
        FeatureCoverage(ok[0])
    with pytest.raises(InputError, match="at least 0"):
        FeatureCoverage(-ok)
    with pytest.raises(InputError, match="features of at most 1, found 3"):
        FeatureCoverage(ok + torch.tensor([3.0, 0.0]) - ok * 1, curve="or")
    with pytest.raises(InputError, match="2 concepts need as many weights"):
        FeatureCoverage(ok, torch.ones(3))
    with pytest.raises(InputError, match="weights holds finite"):
        FeatureCoverage(ok, torch.tensor([1.0, -1.0]))
