"""Channels with the largest weights stay (Li et al. 2017), summed over all producers of a group."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprig.core.path import Path
from sprig.core.types import Group
from sprig.core.workbench import Workbench
from sprig.methods.scores.ranking import ranked, untouched

realise = untouched


@dataclass(frozen=True)
class MagnitudeConfig:
    """`norm`: of a unit's weights, 1 or 2."""

    norm: Literal[1, 2] = 2


def search(bench: Workbench, config: MagnitudeConfig) -> Path:
    """Rank by the norm of the producing weights."""

    def score(group: Group) -> Tensor:
        total = torch.zeros(group.size, dtype=torch.float64)
        for slot in bench.graph.slots:
            here = slot.axis.group == group.index
            weight = bench.weights[slot.tensor]
            if slot.role != "producer" or not here.any() or weight.dim() < 2:
                continue
            rows = (
                weight.detach()
                .double()
                .movedim(slot.dim, 0)
                .flatten(1)
                .abs()
                .pow(config.norm)
                .sum(1)
                .cpu()
            )
            total.index_add_(
                0, torch.from_numpy(slot.axis.unit[here]), rows[torch.from_numpy(here)]
            )
        return total ** (1 / config.norm)

    return ranked(bench, "magnitude", dict(config.__dict__), score)
