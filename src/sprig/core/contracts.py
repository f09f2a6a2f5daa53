"""What a method looks like from the ground floor: four small interfaces, no base class to inherit from."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class Objective(Protocol):
    """Measures a set of items. A rule and an objective meet only through `gains` and `add`.

    `gains` of a candidate is the exact fall of `value` if it alone were added now (value is an error: lower is better).
    """

    size: int  # number of items
    diminishing: bool  # declared: the gain of an item never grows as others are added

    def start(self) -> Any:
        """The state of the empty set."""

    def gains(self, state: Any, candidates: Tensor) -> Tensor:
        """How much each candidate would lower the value; -inf where it cannot be added."""

    def add(self, state: Any, pick: int) -> Any:
        """The state with `pick` added; the state given may be used up."""

    def value(self, state: Any) -> float:
        """The error of the set."""


class Rule(Protocol):
    """Chooses the next pick from gains; ties go to the lowest index."""

    def __call__(self, objective: Objective, steps: int) -> Any:  # core.greedy.Trail
        """Pick `steps` items."""


class Penalty(Protocol):
    """Shrinks weights while they train."""

    def init(self, weights: Sequence[Tensor]) -> Any: ...
    def push(self, weights: Sequence[Tensor], state: Any) -> Sequence[Tensor]: ...
    def prox(self, weights: Sequence[Tensor], state: Any, lr: float) -> Sequence[Tensor]: ...
    def advance(self, state: Any) -> Any: ...
    def value(self, weights: Sequence[Tensor], state: Any) -> Tensor: ...


class Method(Protocol):
    """A way to choose what stays: (model, graph, data, budget) to an Outcome in the original shapes."""

    name: str
    config: type
    reference: str
    run: Callable[..., Any]
