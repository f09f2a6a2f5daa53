"""What the parts of `sprig.greedy` pass to each other: a set function, what a rule found, what it cost.

A set function f is worth something, more is better, and is worth 0 when the set is empty. The engine underneath
(`core/greedy.py`) speaks of errors; `Counted` stands between the two and counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sprig.core.greedy import Trail, exact, gains_of
from sprig.core.ranks import ALONE, Ranks

TIE = 1e-9  # gains that are closer than this, relative to the larger, are equal: rounding must not order items


class Worth(Protocol):
    """A set function over the items 0..size-1, evaluated along a growing set. f of the empty set is 0.

    It may also offer, and rules and guarantees then use it:
     - `of(items)`: the state of a set, cheaper than adding its items one by one;
     - `eliminate(items)`: an `Elimination`, for taking items out;
     - `ceiling`: a number that no set is worth more than.
    """

    size: int
    diminishing: bool  # declared: the gain of an item never grows as others are added (submodular)

    def start(self) -> Any:
        """The state of the empty set."""

    def gains(self, state: Any, candidates: Tensor) -> Tensor:
        """(c,) f(S + j) - f(S) of each candidate j, exactly; -inf where it cannot be added."""

    def add(self, state: Any, pick: int) -> Any:
        """The state with `pick` added; the state given may be used up."""

    def value(self, state: Any) -> float:
        """f of the set."""


@runtime_checkable
class Elimination(Protocol):
    """A shrinking set: what each item would be missed by, and the set without it."""

    items: Tensor  # (t,) what is left, in rising order

    def losses(self) -> Tensor:
        """(t,) f(S) - f(S - j) of each item left, exactly."""

    def drop(self, item: int) -> None:
        """Take an item out."""


class Counted:
    """A set function as the engine wants it (an error, lower is better); counts the evaluations of f."""

    def __init__(self, worth: Worth, ranks: Ranks = ALONE) -> None:
        """ranks: the processes that a rule may share its work with."""
        self.worth, self.size, self.diminishing = worth, worth.size, worth.diminishing
        self.evaluations, self.ranks = 0, ranks

    def start(self) -> Any:
        return self.worth.start()

    def gains(self, state: Any, candidates: Tensor) -> Tensor:
        self.evaluations += len(candidates)
        return self.worth.gains(state, candidates)

    def add(self, state: Any, pick: int) -> Any:
        return self.worth.add(state, pick)

    def value(self, state: Any) -> float:
        return -self.worth.value(state)

    def checked(self, state: Any, candidates: Tensor) -> Tensor:
        """The gains, checked to be numbers."""
        return gains_of(self, state, candidates)

    def of(self, items: Sequence[int]) -> Any:
        """The state of a set."""
        if hasattr(self.worth, "of"):
            return self.worth.of(items)
        state = self.worth.start()
        for item in items:
            state = self.worth.add(state, int(item))
        return state

    def worth_of(self, items: Sequence[int]) -> float:
        """f of a set."""
        return float(self.worth.value(self.of(items)))

    def eliminate(self, items: Sequence[int]) -> Elimination:
        """For taking items out of a set, by the set function's own down-dates where it has them."""
        if hasattr(self.worth, "eliminate"):
            found = self.worth.eliminate(items)
            assert isinstance(found, Elimination)
            return found
        return _Rebuilt(self, items)

    def losses(self, elimination: Elimination) -> Tensor:
        """What each item left would be missed by; counted."""
        self.evaluations += len(elimination.items)
        return elimination.losses()


class _Rebuilt:
    """Taking items out where the set function has no way of its own: every smaller set from scratch."""

    def __init__(self, counted: Counted, items: Sequence[int]) -> None:
        self.counted = counted
        self.items = torch.tensor(sorted(int(i) for i in items), dtype=torch.int64)

    def losses(self) -> Tensor:
        left = self.items.tolist()
        whole = self.counted.worth_of(left)
        without = [self.counted.worth_of(left[:at] + left[at + 1 :]) for at in range(len(left))]
        return torch.tensor([whole - value for value in without], dtype=torch.float64)

    def drop(self, item: int) -> None:
        self.items = self.items[self.items != item]


@dataclass(frozen=True)
class Found:
    """What a rule hands to `maximise`."""

    trail: Trail  # values are negated worths
    sets: tuple[
        tuple[int, ...], ...
    ]  # greedy sets that the rule's guarantee speaks of; the picks first
    critical: int | None = None  # evaluations one after another; None: all of them


@dataclass(frozen=True)
class Selection:
    """The outcome of `maximise`."""

    rule: str
    picks: tuple[int, ...]  # in order; what stands first was worth most, given those before
    values: tuple[float, ...]  # f of the empty set and after each pick: one more than picks
    evaluations: int  # of f, in all; single additions or removals count one each
    critical: int  # ... one after another, if the parts of a distributed run work side by side
    seed: int
    sets: tuple[tuple[int, ...], ...]  # greedy sets that the rule's guarantee speaks of
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """f of all picks."""
        return self.values[-1]

    @property
    def gains(self) -> tuple[float, ...]:
        """What each pick brought."""
        return tuple(b - a for a, b in zip(self.values, self.values[1:]))


def retrace(worth: Worth, picks: Sequence[int]) -> Trail:
    """The trail of given picks in their order; not counted, nothing is compared."""
    return exact(Counted(worth), len(picks), start=picks)
