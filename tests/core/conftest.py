"""Graphs made by hand, so that costs are known without tracing anything."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sprig.core.types import Axis, CostTerm, Graph, Group

Maker = Callable[..., Graph]


def whole(group: int, size: int, each: int = 1) -> Axis:
    """A dimension that belongs to one group, `each` entries per unit."""
    return Axis(np.full(size * each, group), np.repeat(np.arange(size), each))


def _made(
    sizes: Sequence[int], edges: Sequence[tuple[int, int, float]], *, fixed: float = 0.0
) -> Graph:
    """Groups of the given sizes; every edge (a, b, c) costs c MACs and 9 weights per pair of channels."""
    groups = tuple(
        Group(i, f"g{i}", s, (f"g{i}.weight",), (), (0,), s) for i, s in enumerate(sizes)
    )
    terms = [CostTerm("macs", fixed, (), "rest")]
    for a, b, c in edges:
        axes = (whole(a, sizes[a]), whole(b, sizes[b]))
        terms.append(CostTerm("macs", c, axes, f"{a}-{b}"))
        terms.append(CostTerm("params", 9.0, axes, f"{a}-{b}"))
        terms.append(CostTerm("bytes", 36.0, axes, f"{a}-{b}"))
    return Graph(groups, (), (), tuple(terms), (), {}, "made")


@pytest.fixture
def made_graph() -> Maker:
    return _made


@pytest.fixture
def large_graph() -> Graph:
    """As many groups, channels and layers as a ResNet-50 has."""
    sizes, edges, stream = [64], [], 0
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        sizes.append(4 * width)
        new = len(sizes) - 1
        edges.append((stream, new, float(side**2)))
        for block in range(blocks):
            sizes += [width, width]
            first, second = len(sizes) - 2, len(sizes) - 1
            source = stream if block == 0 else new
            edges += [
                (source, first, side**2),
                (first, second, 9.0 * side**2),
                (second, new, side**2),
            ]
        stream = new
    return _made(sizes, edges, fixed=118_013_952.0)
