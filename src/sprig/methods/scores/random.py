"""Channels drawn at random: the control."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.path import Path
from sprig.core.types import Group
from sprig.core.workbench import Workbench
from sprig.methods.scores.ranking import ranked, untouched

realise = untouched


@dataclass(frozen=True)
class RandomConfig:
    """No settings; the seed of the run draws."""


def search(bench: Workbench, config: RandomConfig) -> Path:
    """Rank by a permutation."""
    generator = bench.generator(7)

    def score(group: Group) -> Tensor:
        return torch.rand(group.size, generator=generator, dtype=torch.float64)

    return ranked(bench, "random", {}, score)
