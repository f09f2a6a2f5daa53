"""torch-pruning at its best on equal terms: its own pruner, bisected to the budget, its settings chosen on validation.

For each importance the candidates are local, global and isomorphic pruning of everything, and local and global
pruning of the interiors of the residual blocks. None is excluded by hand.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from fashion_setup import EXAMPLE, fresh, macs_of
from torch import nn

IMPORTANCES = {
    "tp-magnitude": tp.importance.MagnitudeImportance,  # L2 by default
    "tp-taylor": tp.importance.TaylorImportance,
}
VARIANTS = (  # all interiors are isomorphic, so that global and isomorphic are the same there
    ("local", "all"),
    ("global", "all"),
    ("isomorphic", "all"),
    ("local", "interiors"),
    ("global", "interiors"),
)
STEPS = 11  # of the bisection: finer than one channel of all


@dataclass(frozen=True, eq=False)
class Candidate:
    """One pruned network and the settings that made it."""

    model: nn.Module
    scope: str
    part: str
    ratio: float
    macs: int


def candidates(
    arm: str, dense: nn.Module, data: Iterable[tuple[Any, Any]], budget: int
) -> list[Candidate]:
    """Every variant of one importance, each the largest network within `budget` multiply-adds that bisection finds."""
    base = fresh(dense)
    if arm == "tp-taylor":
        gradients(base, data)
    found = []
    for scope, part in VARIANTS:
        best = bisect(lambda r, s=scope, p=part: prune(base, arm, r, scope=s, part=p), budget)
        if best is not None:
            ratio, model, macs = best
            found.append(Candidate(fresh(model), scope, part, ratio, macs))
    return found


def prune(base: nn.Module, arm: str, ratio: float, *, scope: str, part: str) -> nn.Module | None:
    """One cut by torch-pruning; None where it leaves a network that does not run."""
    model = copy.deepcopy(base)
    for ours, theirs in zip(model.parameters(), base.parameters(), strict=True):
        ours.grad = None if theirs.grad is None else theirs.grad.clone()
    ignored: list[nn.Module] = [model.fc]
    if part == "interiors":
        ignored += [m for n, m in model.named_modules() if n == "conv1" or "shortcut.0" in n]
        ignored += [m for n, m in model.named_modules() if n.endswith("conv2")]
    pruner = tp.pruner.BasePruner(
        model,
        EXAMPLE,
        importance=IMPORTANCES[arm](),
        global_pruning=scope != "local",
        isomorphic=scope == "isomorphic",
        pruning_ratio=ratio,
        ignored_layers=ignored,
    )
    pruner.step()
    try:
        macs_of(model)
    except (RuntimeError, ValueError):
        return None
    return model


def bisect(
    make: Callable[[float], nn.Module | None], budget: int
) -> tuple[float, nn.Module, int] | None:
    """The largest network within the budget, over the ratio of channels that leave."""
    low, high = 0.0, 1.0
    best: tuple[float, nn.Module, int] | None = None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        model = make(ratio)
        cost = 0 if model is None else macs_of(model)
        if cost > budget:
            low = ratio
            continue
        high = ratio
        if model is not None and (best is None or cost > best[2]):
            best = ratio, model, cost
    return best


def gradients(model: nn.Module, data: Iterable[tuple[Any, Any]]) -> None:
    """The gradient of the mean loss over the calibration data, with the labels, in evaluation mode."""
    batches = list(data)
    total = sum(len(y) for _, y in batches)
    model.zero_grad()
    for x, y in batches:
        (F.cross_entropy(model(x), y, reduction="sum") / total).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
