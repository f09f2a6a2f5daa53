"""GReg, growing regularisation (Wang et al., ICLR 2021): an L2 factor that grows until what it acts on is no more.

value = sum_u f_u / 2 |w_u|^2,  push = f_u w.  f_u → "factors", in the paper lambda; delta → step, tau → ceiling.

greg1: the units with the smallest L1 size are chosen at the start; their factor grows by `step` every `every` steps
to the ceiling, or until the mean size of the others is `ratio` times theirs; held for `hold` steps; they go.
greg2: first the factor of all units grows by `probe` to `probe_ceiling`, so that sizes separate by the loss's curvature
(w(f) = h w / (h + f)); then the smallest are chosen, and those that stay get -`step`, to undo their shrinking.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.types import Graph
from sprig.methods.penalties.listwise import State, check
from sprig.methods.penalties.units import Units, units_of

GROW, HOLD, DONE = (
    0,
    1,
    2,
)  # what a unit's group is in; before them, in greg2, everything is in PROBE
PROBE = -1


@dataclass(frozen=True)
class GReg1:
    """Chooses first, then shrinks what was chosen.

    >>> GReg1(keep=0.25).rising
    False
    """

    keep: float = 0.2  # share of every group's units that stays
    step: float = 1e-4  # growth of the factor
    every: int = 10  # steps between two growths
    ceiling: float = 1.0  # where growth ends
    ratio: float = 1000.0  # or when what stays is so many times larger
    hold: int = 10_000  # steps at the end, before removal
    units: Any = field(default=None, repr=False, compare=False, metadata={"runtime": True})

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rising(self) -> bool:
        return False

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return True

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self, units: Units) -> "GReg1":
        """The same penalty on these units."""
        return replace(self, units=units)

    def init(self, weights: Sequence[Tensor]) -> State:
        state = _begin(self.units, weights)
        state["chosen"] = _smallest(self.units, weights, self.keep)
        state["phase"].fill_(GROW)
        return state

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return _push(self.units, weights, state)

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return _prox(self.units, weights, state)

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        _grow(self, weights, state, kept=0.0)
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return _value(self.units, weights, state)

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """L1 size; what is chosen to leave comes last."""
        return self.units.sums(weights, torch.abs) * ~state["chosen"]

    def finished(self, state: State) -> bool:
        """Whether all that was chosen is removed."""
        return bool((state["phase"] == DONE).all())

    def drift(self, *, steps: int, lr: float) -> float:
        """How far a factor could come on its way to the ceiling."""
        return steps / self.every * self.step / self.ceiling


@dataclass(frozen=True)
class GReg2:
    """Shrinks all a little, chooses by what that did, then shrinks what was chosen.

    >>> GReg2(keep=0.25).rising
    True
    """

    keep: float = 0.2  # share of every group's units that stays
    step: float = 1e-4  # growth of the factor
    every: int = 10  # steps between two growths
    ceiling: float = 1.0  # where growth ends
    ratio: float = 1000.0  # or when what stays is so many times larger
    hold: int = 10_000  # steps at the end, before removal
    probe: float = 1e-5  # growth of every factor before the choice
    probe_ceiling: float = 1e-2  # where that ends
    units: Any = field(default=None, repr=False, compare=False, metadata={"runtime": True})

    def __post_init__(self) -> None:
        _check(self)
        check(
            probe=(self.probe, self.probe > 0, "more than 0"),
            probe_ceiling=(self.probe_ceiling, self.probe_ceiling > 0, "more than 0"),
        )

    @property
    def rising(self) -> bool:
        return True

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return True

    def members(self, graph: Graph, model: nn.Module, allowed: Collection[str]) -> Units:
        """The units that this penalty shrinks."""
        return units_of(graph, model, allowed)

    def over(self, units: Units) -> "GReg2":
        """The same penalty on these units."""
        return replace(self, units=units)

    def init(self, weights: Sequence[Tensor]) -> State:
        return _begin(self.units, weights)

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        return _push(self.units, weights, state)

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        return _prox(self.units, weights, state)

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        if int(state["phase"][0]) != PROBE:
            _grow(self, weights, state, kept=-self.step)
        elif state["calls"] % self.every == 0:
            state["factors"] += self.probe
            if float(state["factors"][0]) >= self.probe_ceiling * (1 - 1e-6):
                state["chosen"] = _smallest(self.units, weights, self.keep)
                state["phase"].fill_(GROW)
        return state

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return _value(self.units, weights, state)

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """L1 size; what is chosen to leave comes last."""
        return self.units.sums(weights, torch.abs) * ~state["chosen"]

    def finished(self, state: State) -> bool:
        """Whether all that was chosen is removed."""
        return bool((state["phase"] == DONE).all())

    def drift(self, *, steps: int, lr: float) -> float:
        """How far a factor could come on its way to the ceiling."""
        return steps / self.every * self.step / self.ceiling


def _check(law: "GReg1 | GReg2") -> None:
    check(
        keep=(law.keep, 0 < law.keep <= 1, "in (0, 1]"),
        step=(law.step, law.step >= 0, "at least 0"),
        every=(law.every, law.every >= 1, "at least 1"),
        ceiling=(law.ceiling, law.ceiling > 0, "more than 0"),
        ratio=(law.ratio, law.ratio > 1, "more than 1"),
        hold=(law.hold, law.hold >= 0, "at least 0"),
    )


def _begin(units: Units, weights: Sequence[Tensor]) -> State:
    factors = weights[0].new_zeros(units.total)
    return {
        "factors": factors,
        "chosen": torch.zeros_like(factors, dtype=torch.bool),
        "phase": torch.full_like(factors, PROBE, dtype=torch.int64),  # of each unit's group
        "since": torch.zeros_like(factors, dtype=torch.int64),  # the call at which holding began
        "calls": 0,
    }


@torch.no_grad()
def _smallest(units: Units, weights: Sequence[Tensor], keep: float) -> Tensor:
    """Per group the units with the smallest L1 size; at least one stays."""
    sizes = units.sums(weights, torch.abs)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    for group in units.group.unique().tolist():
        mine = torch.nonzero(units.group == group)[:, 0]
        leave = len(mine) - max(1, round(keep * len(mine)))
        chosen[mine[sizes[mine].argsort(stable=True)[:leave]]] = True
    return chosen


def _push(units: Units, weights: Sequence[Tensor], state: State) -> list[Tensor]:
    factors = units.spread(state["factors"].to(weights[0].dtype), weights, other=0.0)
    return [w * f for w, f in zip(weights, factors)]


def _prox(units: Units, weights: Sequence[Tensor], state: State) -> list[Tensor]:
    gone = (state["phase"] == DONE) & state["chosen"]
    if not bool(gone.any()):
        return list(weights)
    stay = (~gone).to(weights[0].dtype)
    return [w * f for w, f in zip(weights, units.spread(stay, weights, other=1.0))]


def _value(units: Units, weights: Sequence[Tensor], state: State) -> Tensor:
    factors = state["factors"].to(weights[0].dtype)
    return (factors * units.sums(weights, torch.square)).sum() / 2


def _grow(law: "GReg1 | GReg2", weights: Sequence[Tensor], state: State, *, kept: float) -> None:
    """Growth, holding and removal, group by group."""
    units, chosen, phase = law.units, state["chosen"], state["phase"]
    due = state["calls"] % law.every == 0
    if due:
        growing = phase == GROW
        state["factors"][growing & chosen] += law.step
        state["factors"][growing & ~chosen] = kept
        means = units.sums(weights, torch.abs) / units.counts.to(weights[0].dtype).clamp_min(1)
        for group in units.group[growing].unique().tolist():
            mine = units.group == group
            out, stay = mine & chosen, mine & ~chosen
            apart = bool(out.any()) and float(means[stay].mean()) > law.ratio * float(means[out].mean())  # fmt: skip
            full = not bool(out.any()) or float(state["factors"][out].max()) >= law.ceiling * (1 - 1e-6)  # fmt: skip
            if apart or full:
                phase[mine] = HOLD
                state["since"][mine] = state["calls"]
    over = (phase == HOLD) & (state["calls"] - state["since"] >= law.hold)
    if bool(over.any()):
        phase[over] = DONE
        state["factors"][over] = 0.0
