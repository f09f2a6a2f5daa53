"""A made-up machine for tests of latency budgets: its times are worked out from a table, not measured."""

import numpy as np
import torch
from torch import nn

from sprig.core.plan import Plan
from sprig.core.timemodel import LatencyModel, kept_of
from sprig.core.timetable import TimeTable
from sprig.core.types import Graph


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Machine:
    """The real thing: what the table predicts, bent, and with a part that does not shrink."""

    def __init__(
        self, graph: Graph, table: TimeTable, *, bend: float = 1.0, fixed: float = 0.0
    ) -> None:
        self.graph, self.model = graph, LatencyModel(graph, table)
        self.bend, self.fixed = bend, fixed
        self.dense = self.time(self.model.sizes)
        self.seen: list[Plan] = []

    def time(self, kept: np.ndarray) -> float:
        whole = self.model(self.model.sizes)
        return float(whole * ((self.model(kept) / whole) ** self.bend + self.fixed))

    def __call__(self, plan: Plan) -> dict[str, float]:
        self.seen.append(plan)
        ms = self.time(kept_of(plan, self.graph))
        ratio = ms / self.dense
        return {
            "dense_ms": self.dense, "small_ms": ms, "ratio": ratio, "low": ratio, "high": ratio, "pairs": 9
        }  # fmt: skip
