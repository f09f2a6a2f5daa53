"""Which units leave when tracing tries what it found: patterns that a wrong guess would not survive."""

from collections.abc import Iterator, Sequence

import numpy as np

from sprig.core.types import Graph

FEW = 3  # units, of which half is one


def half_masks(
    graph: Graph, indices: Sequence[int], *, few: int | None = None
) -> dict[int, np.ndarray]:
    """Keep an irregular part of each group, half of it or more; neighbours of one size keep unlike counts.

    Two groups that hang on one number of a module are found out only so. few: those of two or three units lose one or
    none in turn; 1: the first loses none.
    """
    masks, seen = {}, dict[int, int]()
    for group in graph.groups:
        size, turn = group.size, seen.get(group.size, 0)
        seen[size] = turn + 1
        least = max(1, size // 2)
        count = least + turn % max(1, size - least)
        if few is not None and 1 < size <= FEW:
            count = size - (turn + 1 + few) % 2
        keep = np.zeros(size, dtype=bool)
        keep[np.random.default_rng(group.index).permutation(size)[:count]] = True
        if group.index in indices:
            masks[group.index] = keep
    return masks


def range_masks(graph: Graph, indices: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
    """Cuts inside of the first range of every group alone, then beside it alone; then so of the second, and on."""
    inside: dict[int, list[np.ndarray]] = {}
    for axis in graph.ranges:
        for index in {int(g) for g in axis.group} & set(indices):
            held = np.zeros(graph.groups[index].size, dtype=bool)
            held[axis.unit[axis.group == index]] = True
            if not any(np.array_equal(held, h) for h in inside.setdefault(index, [])):
                inside[index].append(held)
    for turn in range(max(map(len, inside.values()), default=0)):
        for within in (True, False):
            masks = {}
            for index, ranges in inside.items():
                free = np.flatnonzero(ranges[min(turn, len(ranges) - 1)] == within)
                free = np.random.default_rng(index).permutation(free)
                mask = np.ones(graph.groups[index].size, dtype=bool)
                mask[free[: min(max(1, len(free) // 2), len(mask) - 1)]] = False
                masks[index] = mask
            yield masks
