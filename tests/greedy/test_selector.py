"""`ForwardSelector`: scikit-learn's own checks, and its own selectors where the three must agree."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.linear_model import LinearRegression, LogisticRegression, OrthogonalMatchingPursuit
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import sprig.greedy
from sprig.core.errors import InputError
from sprig.greedy import ForwardSelector


@parametrize_with_checks([ForwardSelector(), ForwardSelector(1, rule="stochastic", random_state=0)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 12)) @ (np.eye(12) + 0.6 * rng.normal(size=(12, 12)))
    return x, x[:, ::2] @ rng.normal(size=6) + rng.normal(size=80)


def test_it_is_the_sequential_selector_that_scores_on_all_rows(data):
    """Same criterion, R2 on the training rows: they agree on any data without ties."""
    x, y = data
    rows = np.arange(len(x))
    for k in (1, 4, 7):
        other = SequentialFeatureSelector(
            LinearRegression(), n_features_to_select=k, scoring="r2", cv=[(rows, rows)]
        ).fit(x, y)
        mine = ForwardSelector(k).fit(x, y)
        assert (mine.get_support() == other.get_support()).all()
        score = LinearRegression().fit(mine.transform(x), y).score(mine.transform(x), y)
        assert mine.scores_[-1] == pytest.approx(score, abs=1e-10)


def test_without_an_intercept_too(data):
    x, y = data[0] + 2.0, data[1]
    rows = np.arange(len(x))
    other = SequentialFeatureSelector(
        LinearRegression(fit_intercept=False), n_features_to_select=4, cv=[(rows, rows)]
    ).fit(x, y)
    assert (ForwardSelector(4, fit_intercept=False).fit(x, y).support_ == other.support_).all()


def test_backward_is_the_sequential_selector_going_backward(data):
    x, y = data
    rows = np.arange(len(x))
    other = SequentialFeatureSelector(
        LinearRegression(), n_features_to_select=5, direction="backward", cv=[(rows, rows)]
    ).fit(x, y)
    assert (ForwardSelector(5, rule="backward").fit(x, y).support_ == other.support_).all()


def test_it_is_matching_pursuit_where_columns_are_orthogonal_and_on_the_first_pick(data):
    """Pursuit leaves out the length of what is left of a column: 1 for all where columns are orthogonal, and for the
    first pick after scaling. On correlated columns the two part, and forward selection fits better at that step.
    """
    rng = np.random.default_rng(1)
    x = np.linalg.qr(rng.normal(size=(60, 15)) - 0.0)[0]
    y = x @ rng.normal(size=15) + 0.1 * rng.normal(size=60)
    for k in (1, 5, 11):
        other = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False).fit(x, y)
        mine = ForwardSelector(k, fit_intercept=False).fit(x, y)
        assert set(mine.order_) == set(np.flatnonzero(other.coef_))
    x, y = data
    scaled = (x - x.mean(0)) / x.std(0)
    first = OrthogonalMatchingPursuit(n_nonzero_coefs=1).fit(scaled, y)
    assert ForwardSelector(1).fit(x, y).order_.tolist() == np.flatnonzero(first.coef_).tolist()


def test_both_find_strong_signals_among_many_weakly_correlated_columns():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 80))
    true = rng.permutation(80)[:6]
    y = x[:, true] @ rng.choice([-2.0, 2.0], 6) + 0.1 * rng.normal(size=300)
    other = OrthogonalMatchingPursuit(n_nonzero_coefs=6).fit(x, y)
    mine = ForwardSelector(6).fit(x, y)
    assert set(mine.order_) == set(np.flatnonzero(other.coef_)) == set(true)


def test_logistic_selection_is_the_sequential_selector_on_the_likelihood(data):
    x, labels = data[0], np.where(data[1] > 0, "yes", "no")
    rows = np.arange(len(x))
    mine = ForwardSelector(3, objective="logistic", ridge=1e-2).fit(x, labels)
    # scikit-learn's C weighs the summed loss against |w|^2 / 2
    model = LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-10, max_iter=1000)

    def penalised(fitted: Any, a: np.ndarray, b: np.ndarray) -> float:
        chance = np.log(fitted.predict_proba(a))[np.arange(len(b)), (b == "yes").astype(int)]
        return chance.mean() - 1e-2 / 2 * float((fitted.coef_**2).sum())

    other = SequentialFeatureSelector(
        model, n_features_to_select=3, scoring=penalised, cv=[(rows, rows)]
    ).fit(x, labels)
    assert (mine.get_support() == other.get_support()).all()


def test_it_selects_names_and_puts_zeros_back(data):
    x, y = data
    mine = ForwardSelector(3).fit(x, y)
    assert mine.transform(x).shape == (80, 3)
    back = mine.inverse_transform(mine.transform(x))
    assert (back[:, mine.support_] == x[:, mine.support_]).all()
    assert (back[:, ~mine.support_] == 0).all()
    named = [f"x{i}" for i in sorted(mine.order_)]
    assert mine.get_feature_names_out().tolist() == named
    assert make_pipeline(clone(mine), LinearRegression()).fit(x, y).score(x, y) > 0.3
    several = ForwardSelector(2).fit(x, np.c_[x[:, 3], 2 * x[:, 8]])
    assert set(several.order_) == {3, 8} and several.scores_[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("wanted", "count"), [(None, 6), (0.25, 3), (1.0, 12), (1, 1), (np.int64(4), 4), (0.01, 1)]
)
def test_how_many(data, wanted, count):
    assert ForwardSelector(wanted).fit(*data).n_features_to_select_ == count


def test_options_reach_their_rule_and_seeds_fix_the_draws(data):
    x, y = data

    def picks(**options: Any) -> list[int]:
        return ForwardSelector(4, **options).fit(x, y).order_.tolist()

    assert picks(rule="stochastic", delta=0.7, random_state=3) == picks(
        rule="stochastic", delta=0.7, random_state=3
    )
    drawn = {tuple(picks(rule="stochastic", delta=0.7, random_state=s)) for s in range(5)}
    assert len(drawn) > 1
    assert picks(rule="distributed", parts=1) == picks(rule="beam", width=1) == picks()
    assert picks(rule="swap", rounds=0) == picks()


def test_what_does_not_fit_is_refused(data):
    for wanted in (0, 13, -2, 0.0, 1.5, "all", True):
        with pytest.raises(InputError, match="n_features_to_select is a number of features from 1"):
            ForwardSelector(wanted).fit(*data)
    with pytest.raises(InputError, match="unknown objective 'auc'; known: r2, logistic"):
        ForwardSelector(objective="auc").fit(*data)
    with pytest.raises(InputError, match="does not declare that"):
        ForwardSelector(rule="lazy").fit(*data)
    with pytest.raises(InputError, match="needs one of two classes"):
        ForwardSelector(objective="logistic").fit(data[0], np.arange(80) % 3)


def test_the_rest_of_the_module_does_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import sprig, sprig.greedy\n"
        "try: sprig.greedy.ForwardSelector\n"
        "except sprig.InputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install 'torch-sprig[select]'" in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'BackwardSelector'"):
        sprig.greedy.BackwardSelector  # noqa: B018
