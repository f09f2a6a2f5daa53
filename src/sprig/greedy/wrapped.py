"""Set functions made of something else: a plain Python function, an objective of the pruning methods."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sprig.core.contracts import Objective

ROUNDING = 8 * torch.finfo(torch.float64).eps


class SetFunction:
    """f(S) = function(S) - function(()), for a function of a tuple of item numbers in rising order.

    >>> from sprig.greedy import SetFunction, maximise
    >>> best = maximise(SetFunction(5, lambda items: sum(items) - len(items) ** 2 + 3), 2)
    >>> best.picks, best.values
    ((4, 3), (0.0, 3.0, 3.0))
    """

    def __init__(
        self, size: int, function: Callable[[tuple[int, ...]], float], *, diminishing: bool = False
    ) -> None:
        self.size, self.function, self.diminishing = size, function, diminishing
        self.nothing = float(function(()))

    def start(self) -> tuple[int, ...]:
        return ()

    def gains(self, state: tuple[int, ...], candidates: Tensor) -> Tensor:
        here = self.value(state)
        values = [self.value(self.add(state, int(i))) for i in candidates]
        after = torch.tensor(values, dtype=torch.float64)
        size = torch.maximum(after.abs(), torch.tensor(abs(here) + abs(self.nothing)))
        gains = after - here  # as exact as f: what is left of equal numbers is no gain
        return torch.where(gains.abs() <= ROUNDING * size, 0.0, gains)

    def add(self, state: tuple[int, ...], pick: int) -> tuple[int, ...]:
        return tuple(sorted({*state, pick}))

    def value(self, state: tuple[int, ...]) -> float:
        return float(self.function(state)) - self.nothing

    def of(self, items: Sequence[int]) -> tuple[int, ...]:
        """The state of a set."""
        return tuple(sorted(int(i) for i in items))


class ErrorFall:
    """f(S) = error of the empty set - error of S, for an objective as the pruning methods have them
    (`core/contracts.py`), such as the refit of a layer's readers: every rule and every guarantee then serves networks.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective, self.size = objective, objective.size
        self.diminishing = objective.diminishing
        self.nothing = objective.value(objective.start())
        self.ceiling = self.nothing  # errors are at least 0

    def start(self) -> Any:
        return self.objective.start()

    def gains(self, state: Any, candidates: Tensor) -> Tensor:
        return self.objective.gains(state, candidates)

    def add(self, state: Any, pick: int) -> Any:
        return self.objective.add(state, pick)

    def value(self, state: Any) -> float:
        return self.nothing - self.objective.value(state)
