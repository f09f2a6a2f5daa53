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
    """Shrinks weights while they train; a frozen record of its settings. All that changes is in the state: a dict of
    numbers, tensors and lists of them, which a checkpoint can hold. The state given may be used up.

    At every step, with gradients g at weights w:  g += push(w);  advance(w);  w = step of the optimiser;  w = prox(w).
    """

    pushes: bool  # `push` is to be added to the gradients
    proximal: bool  # `prox` is to follow the step

    def init(self, weights: Sequence[Tensor]) -> dict[str, Any]:
        """The state at the start."""

    def push(self, weights: Sequence[Tensor], state: dict[str, Any]) -> list[Tensor]:
        """The gradient of `value` in the weights (zero where it has a kink)."""

    def prox(self, weights: Sequence[Tensor], state: dict[str, Any], *, lr: float) -> list[Tensor]:
        """The point x that minimises |x - w|^2 / (2 lr) + value(x), in new tensors."""

    def advance(
        self, weights: Sequence[Tensor], state: dict[str, Any], *, lr: float
    ) -> dict[str, Any]:
        """The penalty's own step, at the weights as they are before theirs."""

    def value(self, weights: Sequence[Tensor], state: dict[str, Any]) -> Tensor:
        """What is added to the loss."""


class Method(Protocol):
    """A way to choose what stays: (model, graph, data, budget) to an Outcome in the original shapes."""

    name: str
    config: type
    reference: str
    run: Callable[..., Any]
