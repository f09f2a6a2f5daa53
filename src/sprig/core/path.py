"""What a search gives back: the order of every group, its harm at every size, and a plan for any budget."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from sprig.core.allocate import LATENCY, Allocator, Choice, nothing_prunable, steps, targets, timed
from sprig.core.cost import cost
from sprig.core.errors import InputError
from sprig.core.plan import Plan
from sprig.core.timemodel import LatencyModel
from sprig.core.timetable import TimeTable
from sprig.core.types import Budget, Graph, GroupPath


@dataclass(frozen=True, eq=False)
class Path:
    """The whole search. `at(budget)` costs almost nothing."""

    graph: Graph
    groups: Mapping[str, GroupPath]
    harm: Mapping[
        str, tuple[float, ...]
    ]  # per group: harm to the network's output with n units kept
    method: str = "refit"
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    round_to: int = 1
    alike: bool = False  # groups whose names differ in numbers only keep as many units each
    chosen: Mapping[str, int] = field(
        default_factory=dict
    )  # sizes that the method set itself, without a budget
    record: Mapping[str, float] = field(
        default_factory=dict
    )  # figures of the search itself, for people to read
    table: TimeTable | None = None  # measured times, for budgets of latency

    @cached_property
    def allocator(self) -> Allocator:
        """For budgets without a limit on time."""
        return Allocator(self.graph, self._choices())

    @cached_property
    def clock(self) -> Allocator:
        """For budgets with one: it chooses from sizes that the table shows to be faster than larger ones."""
        if self.table is None:
            raise InputError("this path has no table of measured times")
        model = LatencyModel(self.graph, self.table)
        choices = []
        for choice in self._choices():
            sizes = model.offered(choice.group, choice.sizes)
            at = np.searchsorted(choice.sizes, sizes)
            choices.append(replace(choice, sizes=sizes, harm=choice.harm[at]))
        return Allocator(self.graph, choices, {LATENCY: model})

    def _choices(self) -> list[Choice]:
        if self.round_to < 1:
            raise InputError(f"round_to={self.round_to}: must be at least 1")
        choices = []
        for group in self.graph.prunable:
            if group.name in self.groups:
                if self.harm:
                    harm = np.maximum.accumulate(np.array(self.harm[group.name])[::-1])[::-1]
                else:
                    harm = np.zeros(group.size + 1)
                sizes = steps(group.size, group.channels / group.size, self.round_to)
                choices.append(Choice(group.index, sizes, harm[sizes]))
        if not choices:
            raise nothing_prunable(self.graph)
        return self._tied(choices) if self.alike else choices

    def _tied(self, choices: Sequence[Choice]) -> list[Choice]:
        """One choice for each kind of group: the layers of a stack, whose harms add up."""
        kinds: dict[tuple[str, int], list[Choice]] = {}
        for choice in choices:
            group = self.graph.groups[choice.group]
            kinds.setdefault((re.sub(r"\d+", "#", group.name), group.size), []).append(choice)
        out = []
        for first, *rest in kinds.values():
            harm = first.harm + sum(c.harm for c in rest)
            out.append(replace(first, harm=harm, tied=tuple(c.group for c in rest)))
        return out

    def at(self, budget: Budget, table: TimeTable | None = None) -> Plan:
        """The plan for a budget; the budget is never exceeded. Of latency, what counts here is the prediction.

        `table`: times to go by, instead of those that the path carries.

        Raises:
            InputError: the budget is not positive, or below what is reachable (the message says what is), or of
                latency while there is no table.
        """
        if table is not None and table is not self.table:
            return replace(self, table=table).at(budget)
        slow = timed(budget)
        limits = targets(budget, self.graph, dense_ms=self.dense_ms if slow else None)
        return self.within(limits)

    @property
    def dense_ms(self) -> float | None:
        """Predicted latency of the dense network; None without a table."""
        return None if self.table is None else self.clock.models[LATENCY](self.clock.full)

    def within(self, limits: Mapping[str, float], way: str | None = None) -> Plan:
        """The plan within absolute limits, see `targets`. `way`: one of `allocate.WAYS`, to a limit on time."""
        allocator = self.clock if LATENCY in limits else self.allocator
        aim = dict(limits)
        while True:  # nothing known: one fraction
            sizes = allocator.sizes(aim, way) if self.harm else allocator.even(aim)
            plan = self.plan(sizes)
            over = {
                u: plan.cost[u] / limit
                for u, limit in limits.items()
                if u in plan.cost and plan.cost[u] > limit * (1 + 1e-12)
            }
            if not over:
                return plan
            for (
                unit,
                times,
            ) in over.items():  # units of unlike size: the mean that was reckoned with is not these
                aim[unit] *= 0.999 / times

    def own(self) -> Plan:
        """The plan at the sizes that the method chose by its own tolerance."""
        if not self.chosen:
            raise InputError(f"method {self.method!r} chooses no sizes of its own; give a budget")
        return self.plan(
            {g.index: self.chosen[g.name] for g in self.graph.groups if g.name in self.chosen}
        )

    def plan(self, sizes: Mapping[int, int]) -> Plan:
        """The plan that keeps the first `sizes[group index]` picks of each group."""
        keep = {}
        for index, count in sizes.items():
            group = self.graph.groups[index]
            keep[group.name] = tuple(sorted(self.groups[group.name].order[:count]))
        known = {g.name: g.size for g in self.graph.groups}
        plan = Plan(
            keep=keep,
            sizes={name: known[name] for name in keep},
            graph=self.graph.fingerprint,
            method=self.method,
            config=dict(self.config),
            seed=self.seed,
        )
        return with_cost(plan, self.graph)

    def predicted(self, plan: Plan) -> float:
        """Summed harm at the plan's sizes."""
        return float(
            sum(self.harm[name][len(kept)] for name, kept in plan.keep.items() if name in self.harm)
        )


def with_cost(plan: Plan, graph: Graph) -> Plan:
    """The plan with its predicted cost filled in."""
    fields = dict(plan.__dict__)
    fields["cost"] = cost(graph, plan.masks(graph))
    return Plan(**fields)
