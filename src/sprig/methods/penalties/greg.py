"""GReg, growing regularisation (Wang et al., ICLR 2021): an L2 factor that grows until what it acts on is no more.

value = sum_u f_u / 2 |w_u|^2,  push = f_u w.  f_u → "factors", in the paper lambda; delta → step, tau → ceiling.

greg1: the units with the smallest L1 size are chosen when the penalty begins; their factor grows by `step` every
`every` steps to the ceiling, or until the mean size of the others is `ratio` times theirs (a running mean: 0.9 of what
it was, 0.1 of what it is). Where all groups are done growing it is held for `hold` steps; then all that was chosen
goes.
greg2: first the factor of all units grows by `probe` to `probe_ceiling`, so that sizes separate by the loss's curvature
(w(f) = h w / (h + f)); then the smallest are chosen, and those that stay get the factor `kept`, below zero, to undo
their shrinking.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.kinds import OnUnits, risen
from sprig.methods.penalties.listwise import State, check, precision, quartiles
from sprig.methods.penalties.units import Units

PROBE, GROW, HOLD, DONE = range(-1, 3)  # what a unit's group is in
MEMORY = 0.9  # of the running mean of what stays over what leaves


@dataclass(frozen=True)
class Growing(OnUnits, Protocol):
    """What both do once units are chosen: growth, holding and removal, group by group."""

    keep: float = 0.2  # share of every group's units that stays
    step: float = 1e-4  # growth of the factor
    every: int = 10  # steps between two growths
    ceiling: float = 1.0  # where growth ends
    ratio: float = 1000.0  # or when what stays is so many times larger
    hold: int = 10_000  # steps at the end, before removal
    remedy: ClassVar[str] = "raise its step"
    rest: ClassVar[str] = "what it had chosen by then is cut as it is"

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
        factors = weights[0].new_zeros(self.units.total, dtype=precision(weights))
        return {
            "factors": factors,
            "chosen": torch.zeros_like(factors, dtype=torch.bool),
            "phase": torch.full_like(factors, PROBE, dtype=torch.int64),  # of each unit's group
            "ratios": torch.zeros_like(factors, dtype=torch.float64),  # of each unit's group
            "since": -1,  # the call when all groups were done growing
            "calls": 0,
        }

    def choose(self, weights: Sequence[Tensor], state: State) -> None:
        """The smallest of every group are to leave; growth begins."""
        state["chosen"] = smallest(self.units, weights, self.keep)
        state["phase"].fill_(GROW)

    def push(self, weights: Sequence[Tensor], state: State) -> list[Tensor]:
        factors = self.units.spread(state["factors"], weights, other=0.0)
        return [w * f for w, f in zip(weights, factors)]

    def prox(self, weights: Sequence[Tensor], state: State, *, lr: float) -> list[Tensor]:
        gone = (state["phase"] == DONE) & state["chosen"]
        if not bool(gone.any()):
            return list(weights)
        stay = (~gone).to(precision(weights))
        return [w * f for w, f in zip(weights, self.units.spread(stay, weights, other=1.0))]

    def value(self, weights: Sequence[Tensor], state: State) -> Tensor:
        return (state["factors"] * self.units.sums(weights, torch.square)).sum() / 2

    def grow(self, weights: Sequence[Tensor], state: State, *, kept: float) -> None:
        """One step of growth; `kept`: the factor of what stays while the rest grows."""
        phase = state["phase"]
        if state["calls"] % self.every == 0:
            growing = phase == GROW
            state["factors"][growing & state["chosen"]] += self.step
            state["factors"][growing & ~state["chosen"]] = kept
            sizes = self.units.sums(weights, torch.abs).double() / self.units.counts.clamp_min(1)
            for group in self.units.group[growing].unique().tolist():
                mine = self.units.group == group
                if self._grown(sizes, mine, state):
                    phase[mine] = HOLD
        if state["since"] < 0 and bool((phase == HOLD).all()):
            state["since"] = state["calls"]
        if state["since"] >= 0 and state["calls"] - state["since"] >= self.hold:
            phase.fill_(DONE)
            state["factors"].zero_()

    def _grown(self, sizes: Tensor, mine: Tensor, state: State) -> bool:
        """Whether the factors of a group grow no further."""
        out, stay = mine & state["chosen"], mine & ~state["chosen"]
        if not bool(out.any()):
            return True
        ratio = float(sizes[stay].mean()) / max(float(sizes[out].mean()), 1e-30)
        before = float(state["ratios"][out][0])
        if before > 0:
            ratio = MEMORY * before + (1 - MEMORY) * ratio
        state["ratios"][mine] = ratio
        full = float(state["factors"][out].max()) >= self.ceiling * (1 - 1e-6)
        return full or ratio > self.ratio

    def scores(self, weights: Sequence[Tensor], state: State) -> Tensor:
        """L1 size; what is chosen to leave comes last."""
        return self.units.sums(weights, torch.abs) * ~state["chosen"]

    def finished(self, state: State) -> bool:
        """Whether all that was chosen is removed."""
        return bool((state["phase"] == DONE).all())

    def watched(self, weights: Sequence[Tensor], state: State) -> dict[str, float]:
        """For the log: factors, and how many units are removed."""
        gone = (state["phase"] == DONE) & state["chosen"]
        return {**quartiles("factor", [state["factors"]]), "removed": int(gone.sum())}

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """All where factors come to their ceiling, else what an L2 factor on its way takes off; 0 if all stays."""
        if not bool(smallest(self.units, weights, self.keep).any()):
            return 0.0
        return risen(self, steps=steps, force=lr * boost)


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
    kept: float = -1e-4  # factor of what stays, while the rest grows

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            probe=(self.probe, self.probe >= 0, "at least 0"),
            probe_ceiling=(self.probe_ceiling, self.probe_ceiling > 0, "more than 0"),
            kept=(self.kept, self.kept <= 0, "at most 0"),
        )

    def init(self, weights: Sequence[Tensor]) -> State:
        return self.begin(weights)

    @torch.no_grad()
    def advance(self, weights: Sequence[Tensor], state: State, *, lr: float) -> State:
        state["calls"] += 1
        if int(state["phase"][0]) != PROBE:
            self.grow(weights, state, kept=self.kept)
        elif state["calls"] % self.every == 0:
            state["factors"] += self.probe
            if float(state["factors"][0]) >= self.probe_ceiling * (1 - 1e-6):
                self.choose(weights, state)
        return state

    def reach(
        self, weights: Sequence[Tensor], state: State, *, steps: float, lr: float, boost: float
    ) -> float:
        """As of GReg-1, after the probe."""
        probing = self.probe_ceiling / self.probe * self.every if self.probe > 0 else math.inf
        first = min(steps, probing)
        worn = first * lr * boost * (first / self.every * self.probe) / 2
        if first == steps:
            return worn
        return worn + super().reach(weights, state, steps=steps - first, lr=lr, boost=boost)


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
