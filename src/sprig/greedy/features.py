"""Set functions of features: what items hold of each concept is joined, and more of the same counts less and less.

f(S) = sum over concepts u of w_u h(c_u),   c = all of S joined, h a curve that rises ever more slowly.
 - sqrt, log, linear: c_u = sum of m_u(j), h the root, log(1 + c), or c itself (no saturation: items are judged alone);
 - or: c_u = 1 - product of (1 - m_u(j)), the chance that one of S covers u; with m of 0 and 1 it is `Coverage`;
 - max: c_u = largest m_u(j); with the m as similarities to clients it is `FacilityLocation`.
All of them are monotone with diminishing returns for m >= 0 (or: m <= 1) and w >= 0.

Every curve also speaks of a soft set, a share s_j in [0, 1] of each item: `gather` joins the shares, `rise` is what a
whole item more brings. At shares of 0 and 1 both are those of the set. `unfolded.py` walks them.
Letters: m (items, concepts) features, w (concepts,) weights, s (items,) shares, c (concepts,) what is joined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.greedy.covers import table

EPS = 1e-6  # the root has no slope at 0: it starts this far to the right


@dataclass(frozen=True)
class Curve:
    """A way to join features and to value what is joined; `...` are batch dimensions."""

    gather: Callable[[Tensor, Tensor], Tensor]  # s (..., N), m (..., N, U): c (..., U)
    join: Callable[[Tensor, Tensor], Tensor]  # c (..., U), m (..., U) of one more item: c
    rise: Callable[
        [Tensor, Tensor], Tensor
    ]  # c (..., 1, U), m (..., N, U): (..., N, U) h(c with m) - h(c)
    height: Callable[[Tensor], Tensor]  # c: h(c)
    most: float = float("inf")  # features are at most this


def _sum(s: Tensor, m: Tensor) -> Tensor:
    return torch.einsum("...n,...nu->...u", s, m)


def _root_rise(c: Tensor, m: Tensor) -> Tensor:
    return m / ((c + m + EPS).sqrt() + (c + EPS).sqrt())  # a difference without cancellation


CURVES: Mapping[str, Curve] = MappingProxyType(
    {
        "sqrt": Curve(_sum, torch.add, _root_rise, lambda c: c / ((c + EPS).sqrt() + EPS**0.5)),
        "log": Curve(_sum, torch.add, lambda c, m: torch.log1p(m / (1 + c)), torch.log1p),
        "linear": Curve(_sum, torch.add, lambda c, m: m.clone(), torch.clone),
        "or": Curve(
            lambda s, m: 1 - (1 - s[..., None] * m).prod(-2),
            lambda c, m: 1 - (1 - c) * (1 - m),
            lambda c, m: (1 - c) * m,
            torch.clone,
            1.0,
        ),
        "max": Curve(
            lambda s, m: (s[..., None] * m).amax(-2),
            torch.maximum,
            lambda c, m: (m - c).clamp_min(0),
            torch.clone,
        ),
    }
)


def curve_of(name: str) -> Curve:
    """The curve of that name."""
    if name not in CURVES:
        raise InputError(f"unknown curve {name!r}; known: {', '.join(CURVES)}")
    return CURVES[name]


class FeatureCoverage:
    """f(S) = sum over concepts of weight times h(what S holds of it), for `maximise` and its rules.

    features: (items, concepts), at least 0; weights: (concepts,), at least 0, 1 each if left out; curve: a name in
    `CURVES`.

    >>> from sprig.greedy import FeatureCoverage, maximise
    >>> words = torch.tensor([[4.0, 0.0], [3.9, 0.0], [0.0, 1.0]])
    >>> maximise(FeatureCoverage(words), 2).picks, maximise(FeatureCoverage(words, curve="linear"), 2).picks
    ((0, 2), (0, 1))
    """

    diminishing = True

    def __init__(
        self, features: Tensor, weights: Tensor | None = None, *, curve: str = "sqrt"
    ) -> None:
        self.curve = curve_of(curve)
        self.features = table(features, "what the items hold")
        self.size, concepts = self.features.shape
        if float(self.features.max()) > self.curve.most:
            raise InputError(
                f"the curve {curve!r} is for features of at most {self.curve.most:g}, "
                f"found {float(self.features.max()):.6g}"
            )
        given = torch.ones(concepts) if weights is None else torch.as_tensor(weights)
        if given.shape != (concepts,):
            raise InputError(
                f"{concepts} concepts need as many weights, found {tuple(given.shape)}"
            )
        self.weights = table(given[None], "weights")[0]
        self.ceiling = self.value(self.of(range(self.size)))

    def start(self) -> Tensor:
        return torch.zeros_like(self.weights)

    def gains(self, state: Tensor, candidates: Tensor) -> Tensor:
        return self.curve.rise(state[None], self.features[candidates]) @ self.weights

    def add(self, state: Tensor, pick: int) -> Tensor:
        return self.curve.join(state, self.features[pick])

    def value(self, state: Tensor) -> float:
        return float(self.curve.height(state) @ self.weights)

    def of(self, items: Sequence[int]) -> Tensor:
        """The state of a set."""
        shares = torch.zeros(self.size, dtype=torch.float64)
        shares[torch.as_tensor(list(items), dtype=torch.int64)] = 1
        return self.curve.gather(shares, self.features)
