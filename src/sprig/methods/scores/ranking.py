"""From one score per unit to a path: the same fraction of every group, best scores first."""

from collections.abc import Callable

import torch
from torch import Tensor

from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.types import Group, GroupPath, Outcome
from sprig.core.workbench import Workbench


def ranked(
    bench: Workbench, method: str, config: dict[str, object], score: Callable[[Group], Tensor]
) -> Path:
    """A path without harm: budgets are met by keeping one common fraction of all groups."""
    groups = {}
    for group in bench.graph.prunable:
        values = score(group)
        order = torch.sort(values, descending=True, stable=True).indices.tolist()
        gains = tuple(float(values[u]) for u in order)
        groups[group.name] = GroupPath(group.name, tuple(order), gains, errors=(), floor=())
    return Path(
        graph=bench.graph, groups=groups, harm={}, method=method, config=config, seed=bench.seed
    )


def untouched(bench: Workbench, plan: Plan, config: object) -> Outcome:
    """The plan with the weights as they are."""
    return Outcome(plan, {})
