"""What HALO and its form for groups share: the coefficients' own part of the penalty, their best values, their step.

Everything is stated for a size r >= 0 (|w_j|, or the root mean square of a unit) and its coefficient l > 0:
xi r / l^2 + psi l + decay/2 l^2, times a multiplicity n that the step leaves out (n = 1 for a single weight).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sprig.methods.penalties.listwise import total

NEWTON = 12  # steps; the function is convex and the start lies above its root


class Law(Protocol):
    """The settings that these functions read."""

    @property
    def xi(self) -> float: ...
    @property
    def psi(self) -> float: ...
    @property
    def decay(self) -> float: ...
    @property
    def floor(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def budget(self) -> float: ...
    @property
    def square(self) -> bool: ...


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
    return found.clamp_min(law.floor)


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
    """One step of momentum SGD on the coefficients, in place; the sizes are used up."""
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_div_(sizes, coefficients)
    torch._foreach_mul_(velocity, law.momentum)
    torch._foreach_add_(velocity, sizes, alpha=-2 * law.xi)
    torch._foreach_add_(velocity, float(slope))
    if law.decay > 0:
        torch._foreach_add_(velocity, coefficients, alpha=law.decay)
    torch._foreach_add_(coefficients, velocity, alpha=-lr * law.rate)
    torch._foreach_clamp_min_(coefficients, law.floor)
