"""What penalties have in common, as interfaces that settings are built on: a fixed pull, and units to act on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.listwise import State, check, check_mode
from sprig.methods.penalties.units import Units, units_of

Self = TypeVar("Self", bound="OnUnits")


class Pull(Protocol):
    """A pull on weights that does not change: through the gradient ("push") or after the step ("prox"); no state."""

    @property
    def strength(self) -> float: ...
    @property
    def mode(self) -> Literal["push", "prox"]: ...

    def __post_init__(self) -> None:
        check_mode(self.mode, ("push", "prox"))
        check(strength=(self.strength, self.strength >= 0, "at least 0"))

    @property
    def pushes(self) -> bool:
        return self.mode == "push"

    @property
    def proximal(self) -> bool:
        return self.mode == "prox"

    def init(self, weights: Sequence[Tensor]) -> State:
        return {}

    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        return state


@dataclass(frozen=True)
class OnUnits(Protocol):
    """A penalty on the graph's own units: bound to them before it is used."""

    units: Any = field(
        default=None, repr=False, compare=False, kw_only=True, metadata={"runtime": True}
    )

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self: Self, units: Units) -> Self:
        """The same penalty on these units."""
        return replace(self, units=units)


class Rising(Protocol):
    """A factor on its way up."""

    @property
    def step(self) -> float: ...
    @property
    def every(self) -> int: ...
    @property
    def ceiling(self) -> float: ...


def risen(rising: Rising, *, steps: float, force: float) -> float:
    """1 where a factor comes to its ceiling in so many steps; else the share that it takes off a weight until then."""
    top = steps / rising.every * rising.step
    return 1.0 if top >= rising.ceiling * (1 - 1e-6) else steps * force * top / 2
