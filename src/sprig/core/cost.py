"""What a plan costs, from the graph alone: parameters, multiply-adds, bytes. Exact, and fast for many sizes."""

from collections.abc import Mapping, Sequence

import numpy as np

from sprig.core.types import CostTerm, Graph

UNITS = ("macs", "params", "bytes")


def cost(graph: Graph, masks: Mapping[int, np.ndarray] | None = None) -> dict[str, int]:
    """Cost with the kept units in `masks` (group index -> boolean mask); equal to a recount on the shrunk model."""
    total = dict.fromkeys(UNITS, 0.0)
    for term in graph.terms:
        value = term.coefficient
        for axis in term.axes:
            value *= int(axis.keep(masks).sum()) if masks else len(axis)
        total[term.unit] += value
    return {unit: round(value) for unit, value in total.items()}


def prices(graph: Graph) -> dict[str, np.ndarray]:
    """Multiply-adds of one sample per weight, by tensor, one number for all weights of a row.

    What multiplies no weight (attention's own products) has no price: `cost` less all prices is what masks cannot save.
    """
    found: dict[str, np.ndarray] = {}
    for term in graph.terms:
        if term.unit == "macs" and term.weight:
            shape = graph.shapes[term.weight]
            start, stop = (0, shape[0]) if term.rows is None else term.rows
            price = found.setdefault(term.weight, np.zeros(shape[0]))
            whole = term.coefficient * float(np.prod([len(a) for a in term.axes]))
            price[start:stop] += whole / ((stop - start) * float(np.prod(shape[1:])))
    return found


class CostModel:
    """Cost of one unit of account as a multilinear function of the numbers of kept units.

    Exact while every unit of a group has as many entries in a dimension as the others; else the mean is used, and
    `cost` on the actual masks is the truth.
    """

    def __init__(self, graph: Graph, unit: str) -> None:
        self.groups = len(graph.groups)
        self.sizes = np.array([g.size for g in graph.groups], dtype=float)
        terms = [t for t in graph.terms if t.unit == unit]
        self.fixed = sum(
            t.coefficient * float(np.prod([len(a) for a in t.axes])) for t in terms if not _free(t)
        )
        live = [t for t in terms if _free(t)]
        self.coefficient = np.array([t.coefficient for t in live])
        width = max((len(t.axes) for t in live), default=0)
        self.base = np.ones((width, len(live)))
        self.slope = np.zeros((width, len(live), self.groups))
        self.others = [[b for b in range(width) if b != a] for a in range(width)]
        self.last: tuple[bytes, np.ndarray] = (b"", self.base)  # often asked again
        for j, term in enumerate(live):
            for a, axis in enumerate(term.axes):
                self.base[a, j] = (axis.group < 0).sum()
                for g in np.unique(axis.group[axis.group >= 0]):
                    self.slope[a, j, g] = (axis.group == g).sum() / self.sizes[g]

    def __call__(self, kept: np.ndarray) -> float:
        """Cost when group g keeps kept[g] units."""
        if not len(self.coefficient):
            return float(self.fixed)
        return float(self.fixed + self.coefficient @ self._dims(kept).prod(axis=0))

    def gradient(self, kept: np.ndarray) -> np.ndarray:
        """Cost of one more unit in each group, the others as they are (exact where a term is linear in the group)."""
        if not len(self.coefficient):
            return np.zeros(self.groups)
        dims = self._dims(kept)
        total = np.zeros(self.groups)
        for a, others in enumerate(self.others):
            total += (self.coefficient * dims[others].prod(axis=0)) @ self.slope[a]
        return total

    def _dims(self, kept: np.ndarray) -> np.ndarray:
        kept = np.asarray(kept, dtype=float)
        known = kept.tobytes()
        if self.last[0] != known:
            self.last = known, self.base + self.slope @ kept
        return self.last[1]


def _free(term: CostTerm) -> bool:
    return any((axis.group >= 0).any() for axis in term.axes)


def shares(graph: Graph, groups: Sequence[int] | None = None) -> dict[int, float]:
    """Share of the dense MACs that depends on each group's width."""
    total = cost(graph)["macs"] or 1
    out: dict[int, float] = {}
    for index in range(len(graph.groups)) if groups is None else groups:
        touched = 0.0
        for term in graph.terms:
            if term.unit == "macs" and any((axis.group == index).any() for axis in term.axes):
                part = max(float((axis.group == index).mean()) for axis in term.axes)
                touched += part * term.coefficient * float(np.prod([len(a) for a in term.axes]))
        out[index] = touched / total
    return out
