"""What may be chosen for each group, and the way down over the convex hulls of all curves at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What may be chosen for one group, or for several that keep as many each: sizes ascending, the harm at each."""

    group: int
    sizes: np.ndarray
    harm: np.ndarray
    tied: tuple[int, ...] = ()  # the other groups

    @property
    def all(self) -> list[int]:
        """The numbers of all its groups."""
        return [self.group, *self.tied]


def hull(harm: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Positions of the lower convex hull of (size, harm), from the largest size down."""
    points = list(range(len(sizes)))
    kept: list[int] = []
    for i in points:
        while len(kept) >= 2:
            a, b = kept[-2], kept[-1]
            cross = (sizes[b] - sizes[a]) * (harm[i] - harm[a]) - (harm[b] - harm[a]) * (
                sizes[i] - sizes[a]
            )
            if cross > 0:
                break
            kept.pop()
        kept.append(i)
    return np.array(kept[::-1])


class Ladder:
    """Where every choice stands on its hull, and what its next step down would do; all choices at once."""

    def __init__(self, choices: Sequence[Choice], hulls: Sequence[np.ndarray]) -> None:
        self.choices, self.hulls = choices, hulls
        self.at = [0] * len(choices)
        self.first = np.array([c.group for c in choices])
        self.tied = [j for j, c in enumerate(choices) if c.tied]
        self.units, self.harm = np.ones(len(choices)), np.zeros(len(choices))
        self.open = np.ones(len(choices), dtype=bool)
        for j in range(len(choices)):
            self._look(j)

    def _look(self, j: int) -> None:
        points, choice = self.hulls[j], self.choices[j]
        self.open[j] = self.at[j] + 1 < len(points)
        if self.open[j]:
            here, there = points[self.at[j]], points[self.at[j] + 1]
            self.units[j] = choice.sizes[here] - choice.sizes[there]
            self.harm[j] = choice.harm[there] - choice.harm[here]

    def cheapest(self, saving: np.ndarray) -> int | None:
        """The choice whose next step adds the least harm for what it saves; None: no step saves anything."""
        saved = saving[self.first]
        for j in self.tied:
            saved[j] = saving[self.choices[j].all].sum()
        useful = self.open & (saved > 0)
        rate = np.full(len(saved), np.inf)
        np.divide(self.harm, self.units * saved, out=rate, where=useful)
        best = int(np.argmin(rate)) if len(rate) else 0
        return best if len(rate) and rate[best] < np.inf else None

    def down(self, j: int) -> int:
        """Take that step; the size after it."""
        self.at[j] += 1
        self._look(j)
        return int(self.choices[j].sizes[self.hulls[j][self.at[j]]])
