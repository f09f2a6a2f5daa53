"""A budget in time, confirmed end to end: plan by the table, measure, correct the aim, plan again.

A plan is confirmed on a plain shrunk copy: how long a network takes does not depend on the values of its weights, so
nothing needs to be fitted to know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sprig.core.allocate import (
    LATENCY,
    Allocator,
    Choice,
    latency_limit,
    nothing_prunable,
    steps,
    targets,
)
from sprig.core.errors import InputError
from sprig.core.example import Example
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.surgery import shrink
from sprig.core.timemodel import LatencyModel, kept_of
from sprig.core.timerun import compare, runnable
from sprig.core.timetable import TimeTable
from sprig.core.timing import Call, Timing, brief, threads
from sprig.core.types import Budget, Graph
from sprig.core.workbench import Progress, Workbench

OVER, UNDER = 1.02, 0.95  # a plan is taken when what it takes lies so near the limit
AIM = 0.99  # where a correction aims, in shares of the limit
TRIES = 5
PUSH = 0.85

Pair = Callable[[Plan], Mapping[str, float]]  # a plan -> both networks measured in turn


@dataclass(frozen=True)
class Target:
    """What a budget allows in time."""

    latency: float | None
    latency_ms: float | None

    def excess(self, seen: Mapping[str, float]) -> float:
        """What was measured over what is allowed; the stricter of the two."""
        found = [seen["ratio"] / self.latency] if self.latency is not None else []
        if self.latency_ms is not None:
            found.append(seen["small_ms"] / self.latency_ms)
        return max(found)

    def dense(self, seen: Mapping[str, float]) -> float:
        """The same for the dense network."""
        return self.excess({"ratio": 1.0, "small_ms": seen["dense_ms"]})

    def words(self) -> str:
        parts = [f"latency={self.latency:g}"] if self.latency is not None else []
        parts += [f"latency_ms={self.latency_ms:g}"] if self.latency_ms is not None else []
        return ", ".join(parts)


def target_of(budget: Budget) -> Target | None:
    """The part of a budget that speaks of time."""
    latency_limit(budget, 1.0)  # refuses what makes no sense
    if budget.latency is None and budget.latency_ms is None:
        return None
    return Target(budget.latency, budget.latency_ms)


def pairing(bench: Workbench, example: Example, timing: Timing) -> Pair:
    """How a plan is measured: on a plain shrunk copy, beside the dense network, which is made ready once."""
    ready: list[Call] = []

    def pair(plan: Plan) -> Mapping[str, float]:
        if not ready:
            with threads(timing.threads):
                ready.append(runnable(bench.model, example, timing))
        small = shrink(bench.model, plan, bench.graph)
        return compare(bench.model, small, example, timing, ready=ready[0])

    return pair


def smallest(graph: Graph, table: TimeTable, round_to: int = 1) -> list[tuple[Plan, float]]:
    """The network that the table says to be fastest and the one that keeps least, which are mostly one; each with what
    the table says of it."""
    if not graph.prunable:
        raise nothing_prunable(graph)
    model = LatencyModel(graph, table)
    choices = []
    for g in graph.prunable:
        sizes = model.offered(g.index, steps(g.size, g.channels / g.size, round_to))
        choices.append(Choice(g.index, sizes, np.zeros(len(sizes))))
    allocator = Allocator(graph, choices, {LATENCY: model})
    found = {}
    for kept in (allocator.quickest, allocator.least()):
        keep = {g.name: tuple(range(int(kept[g.index]))) for g in graph.prunable}
        plan = Plan(keep, {g.name: g.size for g in graph.prunable}, graph.fingerprint)
        found[plan.hash] = (plan, model(kept_of(plan, graph)))
    return list(found.values())


def check_time(
    graph: Graph, table: TimeTable, target: Target, pair: Pair, round_to: int = 1
) -> dict[str, float]:
    """Measure the fastest network there is, before anything is searched; refuse a target below it."""
    found: list[dict[str, float]] = []
    for plan, predicted in smallest(graph, table, round_to):
        seen = pair(plan)
        found.append({**seen, "predicted_ms": predicted})
        if target.excess(seen) <= OVER:
            return found[-1]
    seen = min(found, key=target.excess)
    left = "one unit left" if round_to == 1 else f"as little left as --round-to {round_to} allows"
    raise InputError(
        f"budget {target.words()} is below what is reachable: with {left} in every group the network takes "
        f"{seen['small_ms']:.3g} ms of {seen['dense_ms']:.3g} ms ({seen['ratio']:.1%}), "
        f"{brief(table.setting)}"
    )


def confirm(
    path: Path, budget: Budget, target: Target, pair: Pair, least: Mapping[str, float],
    progress: Progress,
) -> tuple[Plan, list[dict[str, Any]]]:  # fmt: skip
    """The plan whose measured time meets the target, and all trials, the chosen one last.

    What the table predicts is held against what is measured at known points (the dense network, the smallest one, the
    trials); the line between the two nearest says where to aim next.
    """
    clock = path.clock
    dense = clock.models[LATENCY](clock.full)
    floor = clock.floor(LATENCY) * (1 + 1e-9)
    ends = [(dense, target.dense(least)), (least["predicted_ms"], target.excess(least))]
    plain = replace(budget, latency=None, latency_ms=None)
    other = targets(plain, path.graph) if plain != Budget() else {}
    tried: dict[str, tuple[Plan, dict[str, Any]]] = {}
    every: dict[str, list[dict[str, Any]]] = {}
    push = 1.0  # where the line leads to the same plan again and again: further the same way
    for number in range(TRIES):
        progress("confirming the latency", number, TRIES)
        points = [(row["predicted_ms"], row["excess"]) for _, row in tried.values()]
        # first by the table alone: at the smallest widths, far from any plan, it is at its worst
        wanted = _aim([*ends, *points]) if points else dense * AIM / ends[0][1]
        aim = max(floor, min(dense, push * wanted))
        plan = path.within({**other, LATENCY: aim})
        predicted = clock.models[LATENCY](kept_of(plan, path.graph))
        seen = dict(pair(plan))
        if all(len(kept) == plan.sizes[name] for name, kept in plan.keep.items()):
            seen |= {
                "ratio": 1.0,
                "small_ms": seen["dense_ms"],
            }  # nothing leaves: whatever noise says
        row: dict[str, Any] = {
            **seen,
            "predicted_ms": predicted,
            "excess": target.excess(seen),
            "plan": plan.hash,
        }
        again = every.setdefault(plan.hash, [])
        if again:
            push *= PUSH if row["excess"] > OVER else 1 / PUSH
        again.append(
            row
        )  # of a plan that comes up again the lower median counts: one hiccup does not
        row = sorted(again, key=lambda r: r["excess"])[(len(again) - 1) // 2]
        tried[plan.hash] = plan, row
        bound = (
            predicted < UNDER * aim or aim >= dense
        )  # another limit binds, or nothing has to leave
        if row["excess"] <= OVER and (row["excess"] >= UNDER or bound):
            break
    progress("confirming the latency", TRIES, TRIES)
    within = [t for t in tried.values() if t[1]["excess"] <= OVER]
    if within:
        chosen = max(within, key=lambda t: t[1]["excess"])
    else:  # missed: the claim that is made from the last measurement will say so
        chosen = min(tried.values(), key=lambda t: t[1]["excess"])
    rest = [row for plan, row in tried.values() if plan is not chosen[0]]
    return chosen[0], [*rest, chosen[1]]


def _aim(points: list[tuple[float, float]]) -> float:
    """Predicted milliseconds at which the measured excess is expected to be `AIM`.

    The line through the two points nearest to it, as long as it stays between the points that enclose it.
    """
    below = [p for p in points if p[1] <= AIM]
    above = [p for p in points if p[1] > AIM]
    near = sorted(points, key=lambda p: abs(p[1] - AIM))[:2]
    if not below or not above:
        return _line(*near)
    left, right = max(below, key=lambda p: p[1]), min(above, key=lambda p: p[1])
    margin = 0.1 * (right[0] - left[0])
    found = _line(*near)
    if min(left[0], right[0]) + abs(margin) <= found <= max(left[0], right[0]) - abs(margin):
        return found
    return _line(left, right)


def _line(one: tuple[float, float], two: tuple[float, float]) -> float:
    rise = two[1] - one[1]
    if abs(rise) < 1e-9 or (two[0] - one[0]) * rise <= 0:  # noise turned them round
        return one[0] * AIM / max(one[1], 1e-9)
    return one[0] + (AIM - one[1]) * (two[0] - one[0]) / rise
