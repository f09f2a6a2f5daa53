"""A path gives a plan for every budget, and says what it cannot give."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.cost import cost
from sprig.core.errors import InputError
from sprig.core.path import Path, with_cost
from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.core.types import Axis, Budget, CostTerm, Graph, Group, GroupPath
from sprig.testing import toys
from sprig.testing.checks import counted, parameters, size


def path_of(graph: Graph, seed: int = 0, **fields: Any) -> Path:
    """Random orders, falling errors."""
    draw = np.random.default_rng(seed)
    groups, harm = {}, {}
    for g in graph.prunable:
        errors = tuple(float(e) for e in np.sort(draw.random(g.size + 1))[::-1])
        order = tuple(int(i) for i in draw.permutation(g.size))
        groups[g.name] = GroupPath(g.name, order, (0.0,) * g.size, errors, (0.0,) * (g.size + 1))
        harm[g.name] = tuple(e * draw.uniform(0.1, 10) for e in errors)
    return Path(graph, groups, **{"harm": harm, **fields})


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(*toys.make("residual"))


@pytest.mark.parametrize("unit", ["macs", "params", "bytes"])
@pytest.mark.parametrize("known", [True, False])
def test_plans_cost_what_they_say_on_the_real_network(graph: Graph, unit: str, known: bool) -> None:
    net, example = toys.make("residual")
    path = path_of(graph) if known else path_of(graph, harm={})
    dense = cost(graph)[unit]
    for fraction in (0.3, 0.5, 0.8):
        plan = path.at(Budget(**{unit: fraction}))
        assert plan.cost[unit] <= fraction * dense
        small = shrink(net, plan, graph)
        _, macs = counted(small, example, {})
        assert plan.cost == {"macs": macs, "params": parameters(small), "bytes": size(small)}


def test_all_units_together(graph: Graph) -> None:
    dense, path = cost(graph), path_of(graph)
    plan = path.at(Budget(macs=0.7, params=0.4, bytes=0.9))
    assert plan.cost["macs"] <= 0.7 * dense["macs"]
    assert plan.cost["params"] <= 0.4 * dense["params"]
    assert plan.cost["bytes"] <= 0.9 * dense["bytes"]
    assert plan.cost == path.at(Budget(params=0.4)).cost, "params is the tightest of the three"


def test_plans_keep_the_first_picks(graph: Graph) -> None:
    path = path_of(graph)
    plan = path.plan({0: 3, 1: 1})
    first, second = graph.groups[0].name, graph.groups[1].name
    assert plan.keep[first] == tuple(sorted(path.groups[first].order[:3]))
    assert plan.keep[second] == path.groups[second].order[:1]
    assert path.predicted(plan) == pytest.approx(path.harm[first][3] + path.harm[second][1])
    assert with_cost(replace(plan, cost={}), graph) == plan


def test_rounded_widths(graph: Graph) -> None:
    path = path_of(graph, round_to=4)
    for fraction in (0.4, 0.6, 0.9):
        plan = path.at(Budget(macs=fraction))
        assert all(len(k) % 4 == 0 or len(k) == plan.sizes[n] for n, k in plan.keep.items())
    with pytest.raises(InputError, match="round_to=0"):
        path_of(graph, round_to=0).at(Budget(macs=0.5))


def test_harm_that_rises_with_width_is_levelled(graph: Graph) -> None:
    """A measured harm may be noisy; a wider group is never taken to be worse than a narrower one."""
    path = path_of(graph)
    bumpy = {
        n: tuple(v + (5.0 if i % 2 else 0.0) for i, v in enumerate(h)) for n, h in path.harm.items()
    }
    choices = replace(path, harm=bumpy).allocator.choices
    assert all((np.diff(c.harm) <= 0).all() for c in choices)


def test_what_cannot_be_given_is_said(graph: Graph) -> None:
    path = path_of(graph)
    with pytest.raises(InputError, match="below what is reachable"):
        path.at(Budget(macs=0.001))
    with pytest.raises(InputError, match="chooses no sizes of its own"):
        path.own()
    chosen = {g.name: 2 for g in graph.prunable}
    assert {len(k) for k in replace(path, chosen=chosen).own().keep.values()} == {2}
    frozen = trace(nn.Sequential(nn.Linear(4, 2)), (torch.randn(2, 4),))
    with pytest.raises(
        InputError, match="nothing can be pruned in this model: the model gives it back"
    ):
        Path(frozen, {}, {}).at(Budget(macs=0.5))


def test_units_of_unlike_size_do_not_break_the_budget() -> None:
    """One unit of seven channels, seven of one: the mean of two says nothing about the units that are picked."""
    axis = Axis(np.zeros(14, dtype=int), np.array([0] * 7 + list(range(1, 8))))
    group = Group(0, "g", 8, ("w",), (), (0,), 14)
    graph = Graph((group,), (), (), (CostTerm("macs", 1000.0, (axis,), "w"),), (), {}, "f")
    order = tuple(range(8))  # the large one first
    errors = tuple(np.linspace(1, 0, 9).tolist())
    path = Path(graph, {"g": GroupPath("g", order, (0.0,) * 8, errors, errors)}, {"g": errors})
    for limit in (7000, 8500, 9999, 12000, 14000):
        assert path.at(Budget(macs=limit)).cost["macs"] <= limit


def stacked() -> Graph:
    torch.manual_seed(0)
    layers = [m for w in (12, 12, 12, 7) for m in (nn.Linear(w, w), nn.ReLU())]
    blocks = [nn.Linear(5, 12), *layers[:6], nn.Linear(12, 7), *layers[6:], nn.Linear(7, 3)]
    return trace(nn.Sequential(*blocks).eval(), (torch.randn(2, 5),))


@pytest.mark.parametrize("known", [True, False])
def test_layers_of_a_stack_keep_as_many_units_where_that_is_asked_for(known: bool) -> None:
    graph = stacked()
    free = path_of(graph, **({} if known else {"harm": {}}))
    tied = replace(free, alike=True)
    kinds = {size: [g.name for g in graph.prunable if g.size == size] for size in (12, 7)}
    assert [len(names) for names in kinds.values()] == [4, 2]
    dense = cost(graph)["macs"]
    for fraction in (0.8, 0.5, 0.3):
        plan, other = (p.at(Budget(macs=fraction)) for p in (tied, free))
        for width, names in kinds.items():
            assert len({len(plan.keep[n]) for n in names}) == 1, f"{width} wide"
        assert plan.cost["macs"] <= fraction * dense
        if known:
            assert free.predicted(other) <= free.predicted(plan) + 1e-9, "a tie costs something"
    if known:
        assert any(
            len({len(free.at(Budget(macs=0.5)).keep[n]) for n in names}) > 1
            for names in kinds.values()
        )


def test_a_tied_budget_is_used_up_to_one_step_of_the_whole_stack() -> None:
    graph = stacked()
    tied = path_of(graph, alike=True)
    for fraction in (0.75, 0.45):
        plan = tied.at(Budget(macs=fraction))
        limit = fraction * cost(graph)["macs"]
        for width in (12, 7):
            names = [g.name for g in graph.prunable if g.size == width]
            count = len(plan.keep[names[0]])
            if count < width:
                sizes = {g.index: len(plan.keep[g.name]) for g in graph.prunable}
                sizes |= {g.index: count + 1 for g in graph.prunable if g.name in names}
                assert tied.plan(sizes).cost["macs"] > limit
