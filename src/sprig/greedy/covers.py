"""Set functions with diminishing returns: coverage and facility location; both with exact removal.

Coverage: items hold elements, f(S) = weight of the elements that some item of S holds.
Facility location: f(S) = sum over clients of the largest similarity to an item of S, 0 for none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError


def table(values: Tensor, what: str) -> Tensor:
    """As float64, checked: two dimensions, finite, non-negative."""
    out = torch.as_tensor(values).detach().to(torch.float64)
    if out.ndim != 2 or 0 in out.shape:
        raise InputError(f"{what} is a table with rows and columns, found shape {tuple(out.shape)}")
    if not bool(out.isfinite().all()) or float(out.min()) < 0:
        raise InputError(f"{what} holds finite numbers of at least 0, found others")
    return out


class Coverage:
    """f(S) = weight of the elements that some item of S holds.

    holds: (items, elements), whatever is not 0 is held; weights: (elements,), 1 each if left out.
    """

    diminishing = True

    def __init__(self, holds: Tensor, weights: Tensor | None = None) -> None:
        self.holds = table(holds, "what the items hold") > 0
        self.size, elements = self.holds.shape
        given = torch.ones(elements) if weights is None else torch.as_tensor(weights)
        if given.shape != (elements,):
            raise InputError(
                f"{elements} elements need as many weights, found {tuple(given.shape)}"
            )
        self.weights = table(given[None], "weights")[0]
        self.ceiling = float(self.weights[self.holds.any(0)].sum())

    def start(self) -> Tensor:
        return torch.zeros(len(self.weights), dtype=torch.bool)

    def gains(self, state: Tensor, candidates: Tensor) -> Tensor:
        return self.holds[candidates].to(torch.float64) @ (self.weights * ~state)

    def add(self, state: Tensor, pick: int) -> Tensor:
        return state | self.holds[pick]

    def value(self, state: Tensor) -> float:
        return float(self.weights[state].sum())

    def of(self, items: Sequence[int]) -> Tensor:
        """The state of a set."""
        return self.holds[torch.as_tensor(list(items), dtype=torch.int64)].any(0)

    def eliminate(self, items: Sequence[int]) -> "_Uncover":
        """For taking items out: an item is missed by what it alone holds."""
        kept = torch.as_tensor(sorted(items), dtype=torch.int64)
        return _Uncover(self, kept, self.holds[kept].sum(0))


@dataclass
class _Uncover:
    cover: Coverage
    items: Tensor
    holders: Tensor  # (elements,) how many items left hold each

    def losses(self) -> Tensor:
        alone = self.cover.weights * (self.holders == 1)
        return self.cover.holds[self.items].to(torch.float64) @ alone

    def drop(self, item: int) -> None:
        self.holders = self.holders - self.cover.holds[item].to(self.holders)
        self.items = self.items[self.items != item]


class FacilityLocation:
    """f(S) = sum over clients of the largest similarity to an item of S; 0 for the empty set.

    similarity: (clients, items), at least 0.
    """

    diminishing = True

    def __init__(self, similarity: Tensor) -> None:
        self.similarity = table(similarity, "similarity")
        self.size = self.similarity.shape[1]
        self.ceiling = float(self.similarity.amax(1).sum())

    def start(self) -> Tensor:
        return torch.zeros(len(self.similarity), dtype=torch.float64)

    def gains(self, state: Tensor, candidates: Tensor) -> Tensor:
        return (self.similarity[:, candidates] - state[:, None]).clamp_min(0).sum(0)

    def add(self, state: Tensor, pick: int) -> Tensor:
        return torch.maximum(state, self.similarity[:, pick])

    def value(self, state: Tensor) -> float:
        return float(state.sum())

    def of(self, items: Sequence[int]) -> Tensor:
        """The state of a set."""
        chosen = torch.as_tensor(list(items), dtype=torch.int64)
        return self.similarity[:, chosen].amax(1) if len(chosen) else self.start()

    def eliminate(self, items: Sequence[int]) -> "_Close":
        """For taking items out: an item is missed by those it serves, down to their second choice."""
        return _Close(self.similarity, torch.as_tensor(sorted(items), dtype=torch.int64))


@dataclass
class _Close:
    similarity: Tensor
    items: Tensor

    def losses(self) -> Tensor:
        served = self.similarity[:, self.items]
        best = served.argmax(1)
        first, second = served.amax(1), torch.zeros(len(served), dtype=torch.float64)
        if len(self.items) > 1:
            second = served.scatter(1, best[:, None], -1.0).amax(1)
        return torch.zeros(len(self.items), dtype=torch.float64).index_add(0, best, first - second)

    def drop(self, item: int) -> None:
        self.items = self.items[self.items != item]
