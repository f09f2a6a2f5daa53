"""What HALO and its form for groups share: the coefficients' own part of the penalty, their best values, their step.

Everything is stated for a size r >= 0 (|w_j|, or the root mean square of a unit) and its coefficient l > 0:
xi r / l^2 + psi l + decay/2 l^2, times a multiplicity n that the step leaves out (n = 1 for a single weight).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.idle import path
from sprig.methods.penalties.listwise import State, check, check_mode, idle, precision, total

PULL = 0.1  # the largest pull on a weight, where no least coefficient is given
NEWTON = 12  # steps; the function is convex and the start lies above its root


@dataclass(frozen=True)
class Law(Protocol):
    """The settings of both, and what follows from them alone."""

    xi: float = 1e-4  # of the weights' part
    psi: float = 1e-4  # of the coefficients' part
    decay: float = 0.0  # weight decay of the coefficients
    start: float = 1.0  # first coefficient of each
    floor: float | None = None  # least coefficient; none: where the pull xi / l^2 is 0.1
    rate: float = 200.0  # learning rate of the coefficients, in those of the weights
    momentum: float = 0.9  # of the coefficients
    mode: Literal["joint", "closed", "proximal"] = "joint"  # as published, by formula, exact zeros
    budget: float = 0.0  # mean coefficient to stay near; 0: none
    square: bool = False  # budget by the squared distance

    def __post_init__(self) -> None:
        check_mode(self.mode, ("joint", "closed", "proximal"))
        check(
            xi=(self.xi, self.xi >= 0, "at least 0"),
            psi=(self.psi, self.psi >= 0, "at least 0"),
            decay=(self.decay, self.decay >= 0, "at least 0"),
            start=(self.start, self.start > 0, "more than 0"),
            floor=(
                self.floor,
                self.floor is None or 0 < self.floor <= self.start,
                f"in (0, {self.start}], the start, or none",
            ),
            rate=(self.rate, self.rate >= 0, "at least 0"),
            momentum=(self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            budget=(self.budget, self.budget >= 0, "at least 0"),
        )
        if self.mode == "closed":
            plain = self.budget == 0 and not self.square
            check(
                budget=(self.budget, plain, "0 without square in mode closed: there is no formula"),
                psi=(self.psi, self.psi + self.decay > 0, "psi or decay above 0 in mode closed"),
            )
            idle(self, "start", "rate", "momentum", where="in mode closed, which takes no steps")

    @property
    def least(self) -> float:
        """The least coefficient. Without a bound, a weight that comes near zero is thrown far beyond it."""
        if self.floor is not None:
            return self.floor
        return min(self.start, max(1e-6, (self.xi / PULL) ** 0.5))

    @property
    def pushes(self) -> bool:
        return self.mode != "proximal"

    @property
    def proximal(self) -> bool:
        return self.mode == "proximal"

    def begin(self, likes: Sequence[Tensor]) -> State:
        """The first coefficients, one for every entry of tensors like these."""
        if self.mode == "closed":
            return {}
        kinds = [precision([like]) for like in likes]  # bfloat16 has no place for small steps
        first = [torch.full_like(w, self.start, dtype=kind) for w, kind in zip(likes, kinds)]
        return {"coefficients": first, "velocity": [torch.zeros_like(c) for c in first]}

    remedy: ClassVar[str] = (
        "raise xi and psi, the rate of the coefficients or the weight decay on them"
    )

    def worn(self, size: float, *, steps: float, lr: float, boost: float) -> float:
        """Share of this size that a weight loses in so many steps when only the penalty acts."""
        if size == 0:
            return 1.0
        if self.mode == "closed":
            passed = [float(best(torch.tensor(size, dtype=torch.float64), self))]
        else:
            passed = path(
                lambda at: self._slope(at, size),
                start=self.start,
                least=self.least,
                length=steps * lr * self.rate / (1 - self.momentum),
            )
        pull = self.xi * sum(at**-2 for at in passed) / len(passed)
        return steps * lr * boost * pull / size

    def _slope(self, at: float, size: float) -> float:
        """Of the penalty in a coefficient, where all are alike."""
        away = at - self.budget
        own = self.psi
        if self.square:
            own *= 2 * away
        elif self.budget > 0:
            own *= (away > 0) - (away < 0)
        return own + self.decay * at - 2 * self.xi * size / at**3


def best(size: Tensor, law: Law) -> Tensor:
    """The coefficient that makes the penalty of a weight of this size least: root of decay l^4 + psi l^3 = 2 xi r."""
    goal = 2 * law.xi * size
    found = torch.full_like(goal, torch.inf)
    if law.psi > 0:
        found = torch.minimum(found, (goal / law.psi).pow(1 / 3))
    if law.decay > 0:
        found = torch.minimum(found, (goal / law.decay).pow(1 / 4))
    if law.psi > 0 and law.decay > 0:
        for _ in range(NEWTON):
            rest = law.decay * found**4 + law.psi * found**3 - goal
            slope = 4 * law.decay * found**3 + 3 * law.psi * found**2
            found = torch.where(slope > 0, found - rest / slope, found)
    return found.clamp_min(law.least)


def hyper_value(coefficients: Sequence[Tensor], law: Law, counts: Tensor | None = None) -> Tensor:
    """The coefficients' own part; `counts`: weights behind each, when that is not one."""
    many = [c if counts is None else c * counts for c in coefficients]
    number = sum(c.numel() for c in coefficients) if counts is None else float(counts.sum())
    spread = total(many)
    if law.square:
        own = law.psi * number * (spread / number - law.budget).square()
    else:
        own = law.psi * (spread - law.budget * number).abs()
    if law.decay == 0:
        return own
    return own + law.decay / 2 * total([m * c for m, c in zip(many, coefficients)])


def hyper_slope(
    coefficients: Sequence[Tensor], law: Law, counts: Tensor | None = None
) -> float | Tensor:
    """The slope of the own part without decay, the same for all coefficients, per weight behind them."""
    if law.budget == 0 and not law.square:
        return law.psi
    if counts is None:
        number: float = sum(c.numel() for c in coefficients)
        mean = total(coefficients) / number
    else:
        mean = total([c * counts for c in coefficients]) / counts.sum()
    away = mean - law.budget
    return 2 * law.psi * away if law.square else law.psi * away.sign()


def descend(
    coefficients: list[Tensor],
    velocity: list[Tensor],
    sizes: list[Tensor],
    law: Law,
    *,
    slope: float | Tensor,
    lr: float,
) -> None:
    """One step of momentum SGD on the coefficients, in place; the sizes are used up.

    A departure: a coefficient at most doubles or halves in a step. Where it is small its slope is so steep that a plain
    step leads far beyond the best value, and then takes ages to come back.
    """
    sizes = [s.to(c.dtype) for s, c in zip(sizes, coefficients)]
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_mul_(velocity, law.momentum)
    torch._foreach_add_(velocity, sizes, alpha=-2 * law.xi)
    torch._foreach_add_(velocity, float(slope))
    if law.decay > 0:
        torch._foreach_add_(velocity, coefficients, alpha=law.decay)
    step = lr * law.rate
    if step == 0:
        return
    torch._foreach_copy_(sizes, coefficients)
    torch._foreach_mul_(sizes, 0.5 / step)
    torch._foreach_clamp_max_(velocity, sizes)
    torch._foreach_mul_(sizes, -2.0)
    torch._foreach_clamp_min_(velocity, sizes)
    torch._foreach_add_(coefficients, velocity, alpha=-step)
    torch._foreach_clamp_min_(coefficients, law.least)
