"""GReg, growing regularisation (Wang et al., ICLR 2021): an L2 factor that grows until what it acts on is no more.

value = sum_u f_u / 2 |w_u|^2,  push = f_u w.  f_u → "factors", in the paper lambda; delta → step, tau → ceiling.

greg1: the units with the smallest L1 size are chosen at the start; their factor grows by `step` every `every` steps
to the ceiling, or until the mean size of the others is `ratio` times theirs; held for `hold` steps; they go.
greg2: first the factor of all units grows by `probe` to `probe_ceiling`, so that sizes separate by the loss's curvature
(w(f) = h w / (h + f)); then the smallest are chosen, and those that stay get -`step`, to undo their shrinking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import OnUnits
from sprig.methods.penalties.listwise import State, check
from sprig.methods.penalties.units import Units

PROBE, GROW, HOLD, DONE = range(-1, 3)  # what a unit's group is in


@dataclass(frozen=True)
class Growing(OnUnits, Protocol):
    """What both do once units are chosen: growth, holding and removal, group by group."""

    keep: float = 0.2  # share of every group's units that stays
    step: float = 1e-4  # growth of the factor
    every: int = 10  # steps between two growths
    ceiling: float = 1.0  # where growth ends
    ratio: float = 1000.0  # or when what stays is so many times larger
    hold: int = 10_000  # steps at the end, before removal

    def __post_init__(self) -> None:
        check(
            keep=(self.keep, 0 < self.keep <= 1, "in (0, 1]"),
            step=(self.step, self.step >= 0, "at least 0"),
            every=(self.every, self.every >= 1, "at least 1"),
            ceiling=(self.ceiling, self.ceiling > 0, "more than 0"),
            ratio=(self.ratio, self.ratio > 1, "more than 1"),
            hold=(self.hold, self.hold >= 0, "at least 0"),
        )

    @property
    def pushes(self) -> bool:
        return True

    @property
    def proximal(self) -> bool:
        return True  # removed units are held at zero

    def begin(self, weights: Sequence[Tensor]) -> State:
        """Nothing chosen, no factor."""
        factors = weights[0].new_zeros(self.units.total)
        return {
            "factors": factors,
            "chosen": torch.zeros_like(factors, dtype=torch.bool),
            "phase": torch.full_like(factors, PROBE, dtype=torch.int64),  # of each unit's group
            "since": torch.zeros_like(factors, dtype=torch.int64),  # the call when holding began
            "calls": 0,
        }

    def choose(self, weights: Sequence[Tensor], state: State) -> None:
        """The smallest of every group are to leave; growth begins."""
        state["chosen"] = smallest(self.units, weights, self.keep)
        state["phase"].fill_(GROW)

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        factors = self.units.spread(state["factors"].to(weights[0].dtype), weights, other=0.0)
        return [w * f for w, f in zip(weights, factors)]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        gone = (state["phase"] == DONE) & state["chosen"]
        if not bool(gone.any()):
            return list(weights)
        stay = (~gone).to(weights[0].dtype)
        return [w * f for w, f in zip(weights, self.units.spread(stay, weights, other=1.0))]

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        factors = state["factors"].to(weights[0].dtype)
        return (factors * self.units.sums(weights, torch.square)).sum() / 2

    def grow(self, weights: Sequence[Tensor], state: State, *, kept: float) -> None:
        """One step of growth; `kept`: the factor of what stays while the rest grows."""
        units, chosen, phase = self.units, state["chosen"], state["phase"]
        if state["calls"] % self.every == 0:
            growing = phase == GROW
            state["factors"][growing & chosen] += self.step
            state["factors"][growing & ~chosen] = kept
            means = units.sums(weights, torch.abs) / units.counts.to(weights[0].dtype).clamp_min(1)
            for group in units.group[growing].unique().tolist():
                mine = units.group == group
                out, stay = mine & chosen, mine & ~chosen
                full = not bool(out.any()) or (
                    float(state["factors"][out].max()) >= self.ceiling * (1 - 1e-6)
                )
                if full or float(means[stay].mean()) > self.ratio * float(means[out].mean()):
                    phase[mine] = HOLD
                    state["since"][mine] = state["calls"]
        over = (phase == HOLD) & (state["calls"] - state["since"] >= self.hold)
        if bool(over.any()):
            phase[over] = DONE
            state["factors"][over] = 0.0

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
class GReg1(Growing):
    """Chooses first, then shrinks what was chosen.

    >>> GReg1(keep=0.25).ceiling
    1.0
    """

    def init(self, weights: Sequence[Tensor]) -> State:
        state = self.begin(weights)
        self.choose(weights, state)
        return state

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        self.grow(weights, state, kept=0.0)
        return state


@dataclass(frozen=True)
class GReg2(Growing):
    """Shrinks all a little, chooses by what that did, then shrinks what was chosen.

    >>> GReg2(keep=0.25).probe_ceiling
    0.01
    """

    probe: float = 1e-5  # growth of every factor before the choice
    probe_ceiling: float = 1e-2  # where that ends

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            probe=(self.probe, self.probe > 0, "more than 0"),
            probe_ceiling=(self.probe_ceiling, self.probe_ceiling > 0, "more than 0"),
        )

    def init(self, weights: Sequence[Tensor]) -> State:
        return self.begin(weights)

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        if int(state["phase"][0]) != PROBE:
            self.grow(weights, state, kept=-self.step)
        elif state["calls"] % self.every == 0:
            state["factors"] += self.probe
            if float(state["factors"][0]) >= self.probe_ceiling * (1 - 1e-6):
                self.choose(weights, state)
        return state


@torch.no_grad()
def smallest(units: Units, weights: Sequence[Tensor], keep: float) -> Tensor:
    """Per group the units with the smallest L1 size; at least one stays."""
    sizes = units.sums(weights, torch.abs)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    for group in units.group.unique().tolist():
        mine = torch.nonzero(units.group == group)[:, 0]
        leave = len(mine) - max(1, round(keep * len(mine)))
        chosen[mine[sizes[mine].argsort(stable=True)[:leave]]] = True
    return chosen
