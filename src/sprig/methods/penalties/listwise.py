"""Operations on lists of tensors, fused over the list where torch can (foreach): the arithmetic of penalties."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sprig.core.errors import InputError

State = dict[str, Any]


def precision(weights: Sequence[Tensor]) -> torch.dtype:
    """What sums over weights, and numbers kept beside them, are held in: float32, or more where the weights are more.

    >>> precision([torch.zeros(1, dtype=torch.bfloat16)])
    torch.float32
    """
    found = torch.float32
    for weight in weights:
        found = torch.promote_types(found, weight.dtype)
    return found


def soft(weights: Sequence[Tensor], threshold: float | Sequence[Tensor]) -> list[Tensor]:
    """sign(w) max(|w| - t, 0), with one t or one per weight.

    >>> soft([torch.tensor([3.0, -0.5])], 1.0)
    [tensor([2., -0.])]
    """
    size = torch._foreach_abs(list(weights))
    torch._foreach_sub_(size, threshold if isinstance(threshold, float) else list(threshold))
    torch._foreach_clamp_min_(size, 0.0)
    return [torch.copysign(s, w) for s, w in zip(size, weights)]


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the sums."""
    kind = precision(parts)
    return torch.stack([part.sum(dtype=kind) for part in parts]).sum()


def least(
    weight: Tensor, candidates: Sequence[Tensor], cost: Callable[[Tensor], Tensor], *, lr: float
) -> Tensor:
    """Entry by entry the candidate x >= 0 with the least (x - |w|)^2 / 2 + lr cost(x), with the sign of w."""
    size = weight.abs()
    tried = torch.stack(list(candidates))
    harm = (tried - size).square() / 2 + lr * cost(tried)
    best = tried.gather(0, harm.argmin(0, keepdim=True))[0]
    return torch.copysign(best, weight)


def quartiles(name: str, values: Sequence[Tensor]) -> dict[str, float]:
    """Lowest, median and highest of all entries, for a log.

    >>> quartiles("x", [torch.tensor([3.0, 1.0]), torch.tensor([2.0])])
    {'x_lowest': 1.0, 'x_median': 2.0, 'x_highest': 3.0}
    """
    ordered = torch.cat([v.flatten() for v in values]).sort().values
    if not len(ordered):
        return {}
    at = {"lowest": 0, "median": len(ordered) // 2, "highest": len(ordered) - 1}
    return {f"{name}_{which}": float(ordered[i]) for which, i in at.items()}


def check(**found: tuple[Any, bool, str]) -> None:
    """Refuse a setting: name=(value, whether it is fine, what was expected).

    >>> check(lr=(0.1, True, "positive"))
    """
    for name, (value, fine, wanted) in found.items():
        if not fine:
            raise InputError(f"{name} is {value!r}, expected {wanted}")


def check_mode(mode: str, known: Sequence[str]) -> None:
    """Refuse an unknown mode."""
    check(mode=(mode, mode in known, " or ".join(known)))


def idle(settings: Any, *names: str, where: str) -> None:
    """Refuse settings that say nothing where they are, unless they are as by default."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and value != field.default:
            raise InputError(f"{field.name} is {value!r}, which says nothing {where}; leave it out")
