"""Plans for a target time, confirmed and corrected on a made-up machine."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

import sprig
from sprig.core.errors import InputError
from sprig.core.path import Path as Search
from sprig.core.plan import Plan
from sprig.core.timetable import TimeTable
from sprig.core.tracing import trace
from sprig.core.types import Graph
from sprig.core.workbench import silent
from sprig.testing.machine import Machine
from sprig.workflow import confirm as confirming
from sprig.workflow.confirm import Target, check_time, confirm, target_of


def least_of(
    graph: Graph, table: TimeTable, machine: Machine, target: Target
) -> Mapping[str, float]:
    return check_time(graph, table, target, machine)


@pytest.mark.parametrize("bend", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("fixed", [0.0, 0.15])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
def test_the_measured_time_meets_the_target_however_wrong_the_table_is(
    graph: Graph, table: TimeTable, path: Search, bend: float, fixed: float, share: float
) -> None:
    machine = Machine(graph, table, bend=bend, fixed=fixed)
    target = Target(share, None)
    least = least_of(graph, table, machine, target)
    plan, trials = confirm(path, sprig.Budget(latency=share), target, machine, least, silent)
    assert 0.95 * share <= machine(plan)["ratio"] <= 1.02 * share
    assert trials[-1]["ratio"] == machine(plan)["ratio"]
    assert len(trials) <= confirming.TRIES


def test_a_true_table_needs_one_trial(graph: Graph, table: TimeTable, path: Search) -> None:
    machine = Machine(graph, table)
    target = Target(None, 0.5 * machine.dense)
    least = least_of(graph, table, machine, target)
    budget = sprig.Budget(latency_ms=0.5 * machine.dense)
    plan, trials = confirm(path, budget, target, machine, least, silent)
    assert len(trials) == 1 and machine(plan)["small_ms"] <= 0.5 * machine.dense


def test_other_limits_hold_too(graph: Graph, table: TimeTable, path: Search) -> None:
    machine = Machine(graph, table)
    target = Target(0.9, None)
    least = least_of(graph, table, machine, target)
    budget = sprig.Budget(latency=0.9, macs=0.3)
    plan, trials = confirm(path, budget, target, machine, least, silent)
    assert plan.cost["macs"] <= 0.3 * path.at(sprig.Budget(macs=1.0)).cost["macs"]
    assert len(trials) == 1, "that another limit binds is no miss"


def test_nothing_leaves_when_nothing_has_to(graph: Graph, table: TimeTable, path: Search) -> None:
    machine = Machine(graph, table)
    target = Target(1.0, None)
    least = least_of(graph, table, machine, target)
    plan, _ = confirm(path, sprig.Budget(latency=1.0), target, machine, least, silent)
    assert machine(plan)["ratio"] > 0.95


def test_below_what_is_reachable(graph: Graph, table: TimeTable) -> None:
    machine = Machine(graph, table, fixed=0.5)
    with pytest.raises(
        InputError, match=r"latency=0.2 is below what is reachable: .* ms of .* ms \(3"
    ):
        check_time(graph, table, Target(0.2, None), machine)
    assert len(machine.seen) == 1, "measured, not predicted"


def test_a_target_that_no_plan_meets(graph: Graph, table: TimeTable, path: Search) -> None:
    """The smallest network was fast when it was measured; nothing else ever is: the fastest is given, and told."""
    machine = Machine(graph, table)
    target = Target(0.5, None)
    least = least_of(graph, table, machine, target)

    def slow(plan: Plan) -> dict[str, float]:
        seen = machine(plan)
        return {**seen, "ratio": 0.6 + 0.2 * seen["ratio"]}

    plan, trials = confirm(path, sprig.Budget(latency=0.5), target, slow, least, silent)
    assert len(trials) == confirming.TRIES
    assert trials[-1]["ratio"] == min(t["ratio"] for t in trials) == slow(plan)["ratio"]


def test_a_line_that_leads_nowhere_is_left(graph: Graph, table: TimeTable, path: Search) -> None:
    """Times that hardly follow the prediction: the plan comes up again, and the next one is smaller."""
    machine = Machine(graph, table)
    target = Target(0.5, None)
    least = least_of(graph, table, machine, target)
    half = 0.5 * machine.dense

    def stairs(plan: Plan) -> dict[str, float]:
        seen = machine(plan)
        return {**seen, "ratio": 0.45 if seen["small_ms"] < 0.8 * half else 0.9}

    plan, trials = confirm(path, sprig.Budget(latency=0.5), target, stairs, least, silent)
    assert stairs(plan)["ratio"] == 0.45 and trials[-1]["ratio"] == 0.45


def test_one_bad_measurement_is_outweighed(graph: Graph, table: TimeTable, path: Search) -> None:
    """Of a plan that comes up again the lower median counts."""
    machine = Machine(graph, table)
    target = Target(1.0, None)
    least = least_of(graph, table, machine, target)
    hiccups = iter([1.5])

    def shaken(plan: Plan) -> dict[str, float]:
        seen = machine(plan)
        return {**seen, "ratio": seen["ratio"] * next(hiccups, 1.0), "pairs": 10}

    plan, trials = confirm(path, sprig.Budget(latency=1.0), target, shaken, least, silent)
    assert next(hiccups, None) is None, "the first measurement was the bad one"
    assert trials[-1]["ratio"] <= 1.02 and machine(plan)["ratio"] > 0.9


def test_what_loses_nothing_is_not_faster(graph: Graph, table: TimeTable, path: Search) -> None:
    """A busy machine may time the whole network below the target; it is as slow as itself."""
    machine = Machine(graph, table)

    def shaken(plan: Plan) -> dict[str, float]:
        seen = dict(machine(plan))
        whole = all(len(kept) == plan.sizes[name] for name, kept in plan.keep.items())
        factor = 0.5 if whole else 2.0
        return {**seen, "ratio": factor * seen["ratio"], "small_ms": factor * seen["small_ms"]}

    target = Target(0.9, None)
    budget = sprig.Budget(latency=0.15)
    least = least_of(graph, table, machine, target)
    plan, trials = confirm(path, budget, target, shaken, least, silent)
    assert any(len(kept) < plan.sizes[name] for name, kept in plan.keep.items())
    assert all(t["excess"] > 1 for t in trials if t["ratio"] == 1.0)


def test_the_stricter_of_two(graph: Graph) -> None:
    seen = {"ratio": 0.5, "small_ms": 8.0, "dense_ms": 16.0}
    assert Target(0.5, 4.0).excess(seen) == 2.0
    assert Target(0.25, 16.0).excess(seen) == 2.0
    assert Target(0.25, None).dense(seen) == 4.0
    assert target_of(sprig.Budget(macs=0.5)) is None
    with pytest.raises(InputError, match="latency=2 is not a fraction"):
        target_of(sprig.Budget(latency=2))


def test_a_model_without_choices(table: TimeTable) -> None:
    fixed = nn.Sequential(nn.Linear(4, 2)).eval()
    bare = trace(fixed, (torch.randn(2, 4),))
    with pytest.raises(InputError, match="nothing can be pruned in this model"):
        check_time(bare, replace(table, graph=bare.fingerprint), Target(0.5, None), lambda p: {})
