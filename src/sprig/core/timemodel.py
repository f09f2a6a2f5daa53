"""Milliseconds as a function of the numbers of kept units: a latency table read between its points.

Between two grid points the time is linear in the *effective* width: a width inside a step of 16 channels stands where
the measured steps of its kind of layer put it, so what computes whole vectors is not smoothed into a slope.
"""

from collections.abc import Sequence

import numpy as np

from sprig.core.errors import InputError
from sprig.core.plan import Plan
from sprig.core.timelayers import PERIOD, Width
from sprig.core.timetable import LayerTime, TimeTable
from sprig.core.types import Graph

STRAIGHT = tuple(r / PERIOD for r in range(PERIOD + 1))
GAIN = 0.01  # a size is worth offering when it makes the layers that it touches so much faster


class LatencyModel:
    """Same interface as `CostModel`; not multilinear."""

    def __init__(self, graph: Graph, table: TimeTable) -> None:
        if table.graph != graph.fingerprint:
            raise InputError(
                f"the latency table belongs to another model: its graph is {table.graph[:12]}, this model's is "
                f"{graph.fingerprint[:12]}; measure this model"
            )
        self.table, self.groups = table, len(graph.groups)
        self.sizes = np.array([g.size for g in graph.groups], dtype=float)
        self.channels = np.array([max(1.0, g.channels / g.size) for g in graph.groups])
        rows = table.layers
        self.inside = _Side(
            [r.inside for r in rows],
            [r.grid_in for r in rows],
            self._steps(rows, "in"),
            self.groups,
        )
        outside, points = [r.outside for r in rows], [r.grid_out for r in rows]
        self.outside = _Side(outside, points, self._steps(rows, "out"), self.groups)
        deep, wide = self.inside.grid.shape[1], self.outside.grid.shape[1]
        self.ms = np.stack([_filled(np.array(r.ms) * r.factor, deep, wide) for r in rows])
        self.least = 0.25 * self.ms.min(axis=(1, 2))
        touch = (self.inside.slope != 0) | (self.outside.slope != 0)
        self.pair_layer, self.pair_group = np.nonzero(touch)

    def _steps(self, rows: Sequence[LayerTime], side: str) -> np.ndarray:
        return np.array([self.table.steps.get(f"{r.family} {side}", STRAIGHT) for r in rows])

    def __call__(self, kept: np.ndarray) -> float:
        """Milliseconds when group g keeps kept[g] units."""
        return float(self.layers(kept).sum() + self.table.overhead) * self.table.level

    def layers(self, kept: np.ndarray) -> np.ndarray:
        """Milliseconds of each layer of the table, inside the network."""
        every = np.arange(len(self.ms))
        kept = np.asarray(kept, dtype=float)
        return self._times(every, self.inside.widths(kept), self.outside.widths(kept))

    def gradient(self, kept: np.ndarray) -> np.ndarray:
        """Milliseconds per unit that each group gives on the way down by a quarter, steps inside averaged."""
        kept = np.asarray(kept, dtype=float)
        stride = np.maximum(np.maximum(1.0, PERIOD / self.channels), 0.25 * kept)
        stride = np.minimum(stride, np.maximum(kept - 1.0, 0.5))
        layer, group = self.pair_layer, self.pair_group
        inside, outside = self.inside.widths(kept), self.outside.widths(kept)
        now = self._times(np.arange(len(self.ms)), inside, outside)
        then = self._times(
            layer,
            inside[layer] - self.inside.slope[layer, group] * stride[group],
            outside[layer] - self.outside.slope[layer, group] * stride[group],
        )
        gain = np.bincount(group, weights=now[layer] - then, minlength=self.groups)
        return gain / stride * self.table.level

    def offered(self, group: int, sizes: np.ndarray) -> np.ndarray:
        """The sizes worth choosing from: each makes the group's layers faster than the next larger one offered.

        The other groups are at half their width. Aligned sizes and the smallest are offered in any case: a table
        that was measured on a busy machine must not bar the way down.
        """
        kept = 0.5 * self.sizes
        mine = self.pair_layer[self.pair_group == group]
        base_in, base_out = self.inside.widths(kept)[mine], self.outside.widths(kept)[mine]
        times = np.array(
            [
                self._times(
                    mine,
                    base_in + self.inside.slope[mine, group] * (n - kept[group]),
                    base_out + self.outside.slope[mine, group] * (n - kept[group]),
                ).sum()
                for n in sizes
            ]
        )
        chosen, fastest = [len(sizes) - 1], times[-1]
        for i in range(len(sizes) - 2, -1, -1):
            aligned = round(sizes[i] * self.channels[group]) % PERIOD == 0 or i == 0
            if aligned or times[i] < (1 - GAIN) * fastest:
                chosen.append(i)
                fastest = min(fastest, times[i])
        return sizes[chosen[::-1]]

    def _times(self, layer: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        i, a = self.inside.place(layer, inside)
        o, b = self.outside.place(layer, outside)
        found = self._between(layer, i, o, a, b)
        below = (a < 0) | (b < 0)
        if below.any():  # narrower than the narrowest that was measured: never slower than that
            at = self._between(layer, i, o, np.maximum(a, 0.0), np.maximum(b, 0.0))
            found = np.where(below, np.minimum(found, at), found)
        return np.maximum(found, self.least[layer])

    def _between(
        self, layer: np.ndarray, i: np.ndarray, o: np.ndarray, a: np.ndarray, b: np.ndarray
    ) -> np.ndarray:
        ms = self.ms
        low = (1 - b) * ms[layer, i, o] + b * ms[layer, i, o + 1]
        high = (1 - b) * ms[layer, i + 1, o] + b * ms[layer, i + 1, o + 1]
        return (1 - a) * low + a * high


class _Side:
    """Widths of all layers on one side, and where they lie on their grids."""

    def __init__(
        self, widths: Sequence[Width], grids: Sequence[tuple[int, ...]], steps: np.ndarray, groups: int
    ) -> None:  # fmt: skip
        self.full = np.array([w.full for w in widths], dtype=float)
        self.base = np.array([w.base for w in widths])
        self.slope = np.zeros((len(widths), groups))
        for row, width in enumerate(widths):
            for group, slope in width.slopes:
                self.slope[row, group] = slope
        deep = max(2, max(map(len, grids)))
        self.grid = np.array([_padded(g, deep) for g in grids])
        self.inner = np.full((len(grids), deep), np.inf)
        for row, points in enumerate(grids):
            self.inner[row, : max(0, len(points) - 2)] = points[1:-1]
        self.steps = steps

    def widths(self, kept: np.ndarray) -> np.ndarray:
        return self.base + self.slope @ kept

    def place(self, layer: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interval on the grid, and how far inside it (below 0 or above 1: beyond the grid)."""
        width = np.maximum(width, 0.0)
        low = np.floor(width / PERIOD) * PERIOD
        rest = width - low
        k = np.minimum(rest.astype(int), PERIOD - 1)
        part = rest - k
        share = (1 - part) * self.steps[layer, k] + part * self.steps[layer, k + 1]
        full = self.full[layer]
        effective = np.where(width >= full - 1e-9, full, np.minimum(low + PERIOD * share, full))
        i = (effective[:, None] >= self.inner[layer]).sum(axis=1)
        start, end = self.grid[layer, i], self.grid[layer, i + 1]
        return i, (effective - start) / (end - start)


def _padded(points: tuple[int, ...], length: int) -> list[float]:
    end = float(points[-1])
    return [*map(float, points), *(end + 1.0 + j for j in range(length - len(points)))]


def _filled(ms: np.ndarray, deep: int, wide: int) -> np.ndarray:
    """The table with its last row and column repeated: nothing changes beyond them."""
    return np.pad(ms, ((0, deep - ms.shape[0]), (0, wide - ms.shape[1])), mode="edge")


def kept_of(plan: Plan, graph: Graph) -> np.ndarray:
    """Units kept per group."""
    return np.array([len(plan.keep.get(g.name, range(g.size))) for g in graph.groups], dtype=float)
