"""From error curves, measured harm and exact costs to the number of units that each group keeps.

Minimise the summed harm under every budget. The curves are replaced by their lower convex hulls; units leave the
group whose next hull step adds the least harm per unit of cost saved, the cost being multilinear in all sizes. What
is left of the budget is filled again, unit by unit, so that it is missed by less than the cheapest unit.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from sprig.core.cost import CostModel, cost
from sprig.core.errors import InputError
from sprig.core.ladder import Choice, Ladder, hull
from sprig.core.types import Budget, Graph

FIELDS = ("macs", "params", "bytes")
LATENCY = "latency_ms"
WAYS = (LATENCY, "macs")  # ways down to a budget of time
ROUNDS, TRIED = 3, 32  # over all groups, sizes of each, in search of the fastest
EXPECTED = "give a fraction in (0, 1] or an absolute number"


def timed(budget: Budget) -> bool:
    """Whether a budget speaks of time."""
    return budget.latency is not None or budget.latency_ms is not None


def targets(budget: Budget, graph: Graph, *, dense_ms: float | None = None) -> dict[str, float]:
    """Absolute limits per unit of account; refuses what makes no sense. `dense_ms`: the dense network's latency."""
    dense = cost(graph)
    out: dict[str, float] = {}
    for unit in FIELDS:
        value = getattr(budget, unit)
        if value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.number)
            or not np.isfinite(value)
        ):
            raise InputError(f"budget {unit}={value!r} is not a number; {EXPECTED}")
        if value <= 0:
            raise InputError(f"budget {unit}={value} is not positive; {EXPECTED}")
        if 1 < value < 100:
            raise InputError(
                f"budget {unit}={value}: fractions lie in (0, 1], absolute numbers are far larger "
                f"(the dense network has {dense[unit]:,})"
            )
        out[unit] = value * dense[unit] if value <= 1 else float(value)
    found = latency_limit(budget, dense_ms)
    if found is not None:
        out[LATENCY] = found
    if not out:
        raise InputError(
            "the budget names no limit; give at least one of macs=, params=, bytes=, latency=, latency_ms="
        )
    return out


def latency_limit(budget: Budget, dense_ms: float | None) -> float | None:
    """Milliseconds that a budget allows, the smaller of fraction and absolute number; None: it allows any."""
    limits = []
    for name, what in (
        (
            "latency",
            "give a fraction in (0, 1] of the dense latency, or milliseconds as latency_ms=",
        ),
        ("latency_ms", "give milliseconds, or a fraction of the dense latency as latency="),
    ):
        value = getattr(budget, name)
        if value is None:
            continue
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not np.isfinite(value):
            raise InputError(f"budget {name}={value!r} is not a number; {what}")
        if value <= 0:
            raise InputError(f"budget {name}={value} is not positive; {what}")
        if name == "latency" and value > 1:
            raise InputError(f"budget latency={value} is not a fraction; {what}")
        if dense_ms is not None:
            limits.append(value * dense_ms if name == "latency" else float(value))
    if timed(budget) and dense_ms is None:
        raise InputError(
            "a budget of latency needs times measured on this machine: give timing=sprig.Timing(...) to prune or "
            "search, or a table of sprig.measure(...) to path.at"
        )
    return min(limits) if limits else None


class Model(Protocol):
    """A cost as a function of the numbers of kept units."""

    def __call__(self, kept: np.ndarray) -> float:
        """The cost."""

    def gradient(self, kept: np.ndarray) -> np.ndarray:
        """What one unit of each group costs around there."""


class Allocator:
    """All that budgets share. `sizes(budget)` is fast enough to be asked for many budgets.

    `more`: models of further units, e.g. milliseconds.
    """

    def __init__(
        self, graph: Graph, choices: Sequence[Choice], more: Mapping[str, Model] | None = None
    ) -> None:
        self.graph = graph
        self.choices = list(choices)
        self.models: dict[str, Model] = {unit: CostModel(graph, unit) for unit in FIELDS}
        self.models.update(more or {})
        self.full = np.array([g.size for g in graph.groups], dtype=float)
        self.descents: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
        self.hulls = [hull(c.harm, c.sizes) for c in self.choices]

    def least(self) -> np.ndarray:
        kept = self.full.copy()
        for choice in self.choices:
            kept[choice.all] = choice.sizes[0]
        return kept

    @cached_property
    def quickest(self) -> np.ndarray:
        """The sizes that are predicted to take the least time: the smallest, unless a table has narrow layers that
        are slower than wide ones. One group after the other, until nothing is gained.
        """
        model, kept = self.models[LATENCY], self.least()
        best = model(kept)
        for _ in range(ROUNDS):
            before = best
            for choice in self.choices:
                trial = kept.copy()
                for size in choice.sizes[1 :: max(1, len(choice.sizes) // TRIED)]:
                    trial[choice.all] = size
                    found = model(trial)
                    if found < best:
                        best, kept = found, trial.copy()
            if best == before:
                break
        return kept

    def floor(self, unit: str) -> float:
        """The least that can be had of a unit of account."""
        return float(self.models[unit](self.quickest if unit == LATENCY else self.least()))

    def sizes(self, limits: Mapping[str, float], way: str | None = None) -> dict[int, int]:
        """Units to keep per group index.

        Of time two descents are tried, by milliseconds saved and by multiply-adds saved, and the less harmful is taken:
        the times of a table are noisy and stepped, and what they say of a single unit may mislead. `way` asks for one.
        """
        self.reachable(limits)
        ways = WAYS if LATENCY in limits and way is None else (way,)
        found = [
            self._fill(self._along(w, limits) if w == "macs" else self._start(limits), limits)
            for w in ways
        ]
        within = [kept for kept in found if not self._over(kept, limits)]
        if not within and LATENCY in limits:  # both ways down end where narrow is slow
            within = [self._fill(self.quickest.copy(), limits)]
        kept = min(within or found, key=self.harm)
        return {g: int(kept[g]) for c in self.choices for g in c.all}

    def harm(self, kept: np.ndarray) -> float:
        """Summed harm of a choice of sizes."""
        return sum(
            float(c.harm[np.searchsorted(c.sizes, int(kept[c.group]))]) for c in self.choices
        )

    def even(self, limits: Mapping[str, float]) -> dict[int, int]:
        """The same fraction of every group, as large as the budget allows."""
        self.reachable(limits)

        def at(fraction: float) -> np.ndarray:
            kept = self.full.copy()
            for choice in self.choices:
                i = max(
                    0,
                    int(
                        np.searchsorted(
                            choice.sizes, fraction * choice.sizes[-1] + 1e-9, side="right"
                        )
                    )
                    - 1,
                )
                kept[choice.all] = choice.sizes[i]
            return kept

        low, high = 0.0, 1.0
        if not self._over(at(high), limits):
            low = high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self._over(at(middle), limits) else (middle, high)
        kept = self._fill(at(low), limits)
        return {g: int(kept[g]) for c in self.choices for g in c.all}

    def reachable(self, limits: Mapping[str, float]) -> None:
        for unit, limit in limits.items():
            low, dense = self.floor(unit), self.models[unit](self.full)
            if limit < low:
                form = ",.3g" if unit == LATENCY else ",.0f"
                raise InputError(
                    f"budget {unit}={limit:{form}} ({limit / dense:.1%} of the dense network) is below "
                    f"what is reachable: with one step left in every group it is {low:{form}} ({low / dense:.1%})"
                )

    def _over(self, kept: np.ndarray, limits: Mapping[str, float]) -> dict[str, float]:
        return {
            u: v for u, limit in limits.items() if (v := self.models[u](kept)) > limit * (1 + 1e-12)
        }

    def _start(self, limits: Mapping[str, float]) -> np.ndarray:
        """The first point of the descent within the limits; of a single unit's descent all points are kept."""
        if len(limits) > 1:
            return self._descend(limits)
        ((unit, limit),) = limits.items()
        costs, points = self._descent(unit)
        within = np.flatnonzero(costs <= limit * (1 + 1e-12))
        return points[within[0]].copy() if len(within) else self.least()

    def _descent(self, unit: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """All points on the way down by one unit of account, and what they cost in it."""
        if unit not in self.descents:
            points: list[np.ndarray] = []
            self._descend({unit: self.models[unit](self.least())}, points)
            costs = np.array([self.models[unit](kept) for kept in points])
            self.descents[unit] = (costs, points)
        return self.descents[unit]

    def _along(self, unit: str, limits: Mapping[str, float]) -> np.ndarray:
        """The first point on the way down by `unit` that is within limits of other units."""
        points = self._descent(unit)[1]
        low, high = -1, len(points) - 1  # the last point is the least that there is
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._over(points[middle], limits) else (low, middle)
        return points[high].copy()

    def _descend(
        self, limits: Mapping[str, float], trail: list[np.ndarray] | None = None
    ) -> np.ndarray:
        kept, ladder = self.full.copy(), Ladder(self.choices, self.hulls)
        if trail is not None:
            trail.append(kept.copy())
        while over := self._over(kept, limits):
            # saving of one unit of each group, in shares of what each exceeded budget still has to lose
            saving = np.zeros(len(kept))
            for unit, now in over.items():
                saving += self.models[unit].gradient(kept) / max(now - limits[unit], 1e-9 * now)
            best = ladder.cheapest(saving)
            if best is None:
                return self.least()
            choice = self.choices[best]
            kept[choice.all] = ladder.down(best)
            if trail is not None:
                trail.append(kept.copy())
        return kept

    def _fill(self, kept: np.ndarray, limits: Mapping[str, float]) -> np.ndarray:
        """Give back what fits: always the step that undoes the most harm per cost, until no step fits."""
        where = {c.group: int(np.searchsorted(c.sizes, kept[c.group])) for c in self.choices}
        blocked: set[int] = set()
        while True:
            spare = {u: limit - self.models[u](kept) for u, limit in limits.items()}
            slopes = {u: self.models[u].gradient(kept) for u in limits}
            best, best_rank = None, (-np.inf, 0.0)
            for choice in self.choices:
                g, i = choice.group, where[choice.group]
                if g in blocked or i + 1 >= len(choice.sizes):
                    continue
                step = choice.sizes[i + 1] - choice.sizes[i]
                cost_of = {u: slopes[u][choice.all].sum() * step for u in limits}
                price = max((c / max(limits[u], 1e-9) for u, c in cost_of.items()), default=0.0)
                if any(c > spare[u] for u, c in cost_of.items()):
                    trial = kept.copy()
                    trial[choice.all] = choice.sizes[i + 1]
                    if self._over(trial, limits):
                        blocked.add(g)
                        continue
                rate = (choice.harm[i] - choice.harm[i + 1]) / max(price, 1e-300)
                rank = (
                    rate,
                    -choice.sizes[i] / choice.sizes[-1],
                )  # among equals, the group that kept least
                if best is None or rank > best_rank:
                    best, best_rank = choice, rank
            if best is None:
                return kept
            trial = kept.copy()
            trial[best.all] = best.sizes[where[best.group] + 1]
            if self._over(trial, limits):  # the cost is not linear in this group's width
                blocked.add(best.group)
                continue
            kept = trial
            where[best.group] += 1


def steps(size: int, channels_per_unit: float, round_to: int) -> np.ndarray:
    """Sizes (in units) that leave a multiple of `round_to` channels, and the full size."""
    every = max(1, round(round_to / np.gcd(round_to, max(1, round(channels_per_unit)))))
    found = np.arange(every, size + 1, every)
    return np.unique(np.append(found, size)).astype(int)


def check_reachable(
    graph: Graph, limits: Mapping[str, float], more: Mapping[str, Model] | None = None
) -> None:
    """Refuse a budget that no sizes meet, before anything is searched."""
    choices = [Choice(g.index, np.array([1, g.size]), np.zeros(2)) for g in graph.prunable]
    if not choices:
        raise nothing_prunable(graph)
    Allocator(graph, choices, more).reachable(limits)


def nothing_prunable(graph: Graph) -> InputError:
    """What to raise where no group may be touched: with the reasons."""
    reasons = sorted({g.reason or "" for g in graph.groups})
    return InputError(f"nothing can be pruned in this model: {'; '.join(reasons[:3])}")
