"""`ForwardSelector`: the rules as a feature selector of scikit-learn, which this file alone of `sprig.greedy` needs."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sprig.core.errors import InputError
from sprig.greedy.leastsquares import LeastSquares
from sprig.greedy.likelihood import LogLikelihood
from sprig.greedy.search import maximise

OBJECTIVES = ("r2", "logistic")


class ForwardSelector(SelectorMixin, BaseEstimator):
    """Choose features by forward selection on the training data, with exact refits and no cross-validation.

    n_features_to_select: how many; a float in (0, 1] is a share of them; None: half.
    objective: "r2", linear regression (y may have several columns), or "logistic", for two classes.
    rule: of `sprig.greedy.maximise`; delta, parts, width, rounds: options of the rules that have them, None: their own.
    fit_intercept: for "r2"; "logistic" has one always. ridge: of "logistic".
    random_state: of the stochastic and the distributed rule.

    After `fit`: `support_` (mask), `order_` (the features in order of picking), `scores_` (worth after each pick),
    `selection_` (the whole record), `n_features_in_`, `n_features_to_select_`.

    >>> from sprig.greedy import ForwardSelector
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 9))
    >>> selector = ForwardSelector(n_features_to_select=2).fit(x, x[:, 7] - 0.5 * x[:, 3])
    >>> selector.order_, selector.transform(x).shape
    (array([7, 3]), (60, 2))
    """

    def __init__(
        self,
        n_features_to_select: int | float | None = None,
        *,
        objective: str = "r2",
        rule: str = "exact",
        fit_intercept: bool = True,
        ridge: float = 1e-4,
        delta: float | None = None,
        parts: int | None = None,
        width: int | None = None,
        rounds: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.objective = objective
        self.rule = rule
        self.fit_intercept = fit_intercept
        self.ridge = ridge
        self.delta = delta
        self.parts = parts
        self.width = width
        self.rounds = rounds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "ForwardSelector":
        """Select. X: (n, d); y: (n,), or (n, m) for "r2"."""
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"unknown objective {self.objective!r}; known: {', '.join(OBJECTIVES)}"
            )
        numeric = self.objective == "r2"
        X, y = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=numeric,
            y_numeric=numeric,
            ensure_min_samples=2,
        )
        self.n_features_to_select_ = self._count()
        table = torch.from_numpy(np.array(X))
        if numeric:
            target = torch.from_numpy(np.array(y, dtype=np.float64))
            objective: LeastSquares | LogLikelihood = LeastSquares(
                table, target, center=self.fit_intercept
            )
        else:
            _, codes = np.unique(y, return_inverse=True)
            objective = LogLikelihood(table, torch.from_numpy(codes.reshape(-1)), ridge=self.ridge)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        options = {
            name: getattr(self, name)
            for name in ("delta", "parts", "width", "rounds")
            if getattr(self, name) is not None
        }
        self.selection_ = maximise(
            objective, self.n_features_to_select_, rule=self.rule, seed=seed, **options
        )
        self.order_ = np.array(self.selection_.picks, dtype=np.int64)
        self.scores_ = np.array(self.selection_.values[1:])
        self.support_ = np.zeros(self.n_features_in_, dtype=bool)
        self.support_[self.order_] = True
        return self

    def _count(self) -> int:
        wanted, d = self.n_features_to_select, int(self.n_features_in_)
        if wanted is None:
            return max(1, d // 2)
        if isinstance(wanted, Integral) and not isinstance(wanted, bool) and 1 <= int(wanted) <= d:
            return int(wanted)
        if isinstance(wanted, Real) and not isinstance(wanted, Integral) and 0 < wanted <= 1:
            return max(1, int(wanted * d))
        raise InputError(
            f"n_features_to_select is a number of features from 1 to {d}, a share in (0, 1] or None; found {wanted!r}"
        )

    def _get_support_mask(self) -> Any:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = self.objective == "r2"
        return tags
