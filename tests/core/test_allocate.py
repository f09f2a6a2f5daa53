"""Sizes from curves, costs and budgets: against brute force, and never over the budget."""

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from sprig.core.allocate import Allocator, Choice, hull, steps, targets
from sprig.core.cost import CostModel, cost
from sprig.core.errors import InputError
from sprig.core.types import Budget, Graph

Maker = Callable[..., Graph]
UNITS = ("macs", "params", "bytes")
EDGES = [(0, 1, 10.0), (1, 2, 4.0), (2, 2, 3.0), (0, 2, 1.0)]  # 2 reads itself, as a stream does


def curves(draw: np.random.Generator, size: int, *, convex: bool) -> np.ndarray:
    """Harm at 0..size units: falling to 0."""
    falls = draw.exponential(size=size)
    if convex:
        falls = np.sort(falls)[::-1]
    return np.append(np.cumsum(falls[::-1])[::-1], 0.0)


def made(
    graph: Graph, draw: np.random.Generator, *, convex: bool = True, round_to: int = 1
) -> Allocator:
    choices = []
    for g in graph.groups:
        sizes = steps(g.size, 1, round_to)
        choices.append(Choice(g.index, sizes, curves(draw, g.size, convex=convex)[sizes]))
    return Allocator(graph, choices)


def harm_of(allocator: Allocator, sizes: dict[int, int]) -> float:
    return sum(float(c.harm[list(c.sizes).index(sizes[c.group])]) for c in allocator.choices)


def kept(graph: Graph, sizes: dict[int, int]) -> np.ndarray:
    return np.array([sizes.get(g.index, g.size) for g in graph.groups], dtype=float)


def limits_at(
    graph: Graph, fraction: float, units: tuple[str, ...] = ("macs",)
) -> dict[str, float]:
    return {u: fraction * cost(graph)[u] for u in units}


@pytest.mark.parametrize("convex", [True, False])
def test_close_to_the_best_of_all_sizes(made_graph: Maker, convex: bool) -> None:
    """Stated gap: never better than brute force; on average within 10% of it with convex curves, 35% without."""
    graph = made_graph([5, 6, 4], EDGES)
    model = CostModel(graph, "macs")
    ratios = []
    for trial in range(40):
        draw = np.random.default_rng(trial)
        allocator = made(graph, draw, convex=convex)
        limit = limits_at(graph, draw.uniform(0.2, 0.9))
        best = min(
            harm_of(allocator, dict(enumerate(sizes)))
            for sizes in product(*(range(1, g.size + 1) for g in graph.groups))
            if model(np.array(sizes, dtype=float)) <= limit["macs"]
        )
        found = harm_of(allocator, allocator.sizes(limit))
        assert found >= best - 1e-12
        ratios.append((found + 1e-9) / (best + 1e-9))
    assert np.mean(ratios) < (1.10 if convex else 1.35), ratios
    assert np.median(ratios) < 1.10


@pytest.mark.parametrize("units", [("macs",), ("params",), ("bytes",), UNITS])
@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("harmless", [False, True])
def test_budgets_are_kept_and_used_up(
    made_graph: Maker, units: tuple[str, ...], round_to: int, harmless: bool
) -> None:
    """No group could have one more step: so the budget is missed by less than the cheapest one."""
    graph = made_graph(
        [32, 17, 40, 24], [(0, 1, 10.0), (1, 2, 4.0), (2, 2, 3.0), (2, 3, 5.0)], fixed=99.0
    )
    models = {u: CostModel(graph, u) for u in UNITS}
    draw = np.random.default_rng(round_to)
    for _ in range(25):
        allocator = made(graph, draw, convex=False, round_to=round_to)
        limits = {u: draw.uniform(0.15, 1.0) * cost(graph)[u] for u in units}
        sizes = allocator.even(limits) if harmless else allocator.sizes(limits)
        used = {u: models[u](kept(graph, sizes)) for u in units}
        assert all(used[u] <= limits[u] * (1 + 1e-12) for u in units)
        for choice in allocator.choices:
            position = list(choice.sizes).index(sizes[choice.group])
            if position + 1 < len(choice.sizes):
                more = kept(graph, {**sizes, choice.group: int(choice.sizes[position + 1])})
                assert any(models[u](more) > limits[u] for u in units), (
                    "another step would have fitted"
                )


def test_the_whole_budget_keeps_everything(made_graph: Maker) -> None:
    graph = made_graph([5, 6, 4], EDGES)
    allocator = made(graph, np.random.default_rng(0))
    everything = {g.index: g.size for g in graph.groups}
    assert allocator.sizes(limits_at(graph, 1.0, UNITS)) == everything
    assert allocator.even(limits_at(graph, 1.0, UNITS)) == everything


def test_a_group_that_hurts_is_spared(made_graph: Maker) -> None:
    graph = made_graph([16, 16], [(0, 0, 1.0), (1, 1, 1.0)])
    line = np.linspace(1, 0, 17)[1:]
    sizes = np.arange(1, 17)
    allocator = Allocator(graph, [Choice(0, sizes, line * 1e-3), Choice(1, sizes, line * 1e3)])
    found = allocator.sizes(limits_at(graph, 0.6))
    assert found[1] == 16
    assert found[0] == int(np.sqrt(0.2 * 256))


def test_even_is_even(made_graph: Maker) -> None:
    """Without any harm to go by, what is left over goes to the groups that kept least."""
    graph = made_graph([20] * 6, [(i, i, 1.0) for i in range(6)])
    sizes = np.arange(1, 21)
    allocator = Allocator(graph, [Choice(g.index, sizes, np.zeros(20)) for g in graph.groups])
    found = allocator.even(limits_at(graph, 0.3))
    assert sorted(found.values()) == [10, 11, 11, 11, 11, 11]
    assert allocator.even(limits_at(graph, 0.25)) == dict.fromkeys(range(6), 10)


def test_one_budget_more_never_costs(made_graph: Maker) -> None:
    graph = made_graph([12, 15, 9], EDGES)
    allocator = made(graph, np.random.default_rng(5))
    harms = [
        harm_of(allocator, allocator.sizes(limits_at(graph, f))) for f in np.linspace(0.1, 1, 30)
    ]
    falls = np.diff(harms)
    assert harms[-1] == 0
    assert (falls <= 1e-9).mean() > 0.9, (
        "more budget, less harm, but for the last unit that fits or not"
    )


def test_unreachable_budgets_say_what_is(made_graph: Maker) -> None:
    graph = made_graph([5, 6, 4], EDGES, fixed=1000.0)
    allocator = made(graph, np.random.default_rng(0))
    least = CostModel(graph, "macs")(np.ones(3))
    for sizes in (allocator.sizes, allocator.even):
        assert sizes({"macs": least}) == {0: 1, 1: 1, 2: 1}
        with pytest.raises(InputError, match=rf"below what is reachable.*{least:,.0f}"):
            sizes({"macs": least - 1})


def test_twenty_budgets_of_a_large_network_in_two_seconds(large_graph: Graph) -> None:
    assert len(large_graph.groups) == 37
    assert 3.5e9 < cost(large_graph)["macs"] < 4.5e9
    started = time.process_time()
    allocator = made(large_graph, np.random.default_rng(0), convex=False)
    for fraction in np.linspace(0.1, 0.9, 20):
        sizes = allocator.sizes(limits_at(large_graph, fraction))
        assert (
            CostModel(large_graph, "macs")(kept(large_graph, sizes))
            <= fraction * cost(large_graph)["macs"]
        )
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("size", "channels", "round_to", "expected"),
    [
        (10, 1, 1, list(range(1, 11))),
        (10, 1, 4, [4, 8, 10]),
        (10, 2, 8, [4, 8, 10]),
        (6, 16, 8, [1, 2, 3, 4, 5, 6]),
        (4, 3, 8, [4]),
        (3, 1, 8, [3]),
    ],
)
def test_steps(size: int, channels: float, round_to: int, expected: list[int]) -> None:
    assert steps(size, channels, round_to).tolist() == expected


def test_hull_is_the_lower_convex_hull() -> None:
    sizes = np.array([1, 2, 3, 4, 5])
    harm = np.array([10.0, 9.0, 3.0, 2.5, 0.0])
    points = hull(harm, sizes)
    assert points.tolist() == [4, 2, 0]
    drawn = np.random.default_rng(1)
    for _ in range(20):
        harm = np.sort(drawn.exponential(size=12))[::-1]
        sizes = np.arange(1, 13)
        points = hull(harm, sizes)
        assert points[0] == 11
        assert points[-1] == 0
        below = np.interp(sizes, sizes[points[::-1]], harm[points[::-1]])
        assert (below <= harm + 1e-12).all()
        slopes = np.diff(harm[points]) / -np.diff(sizes[points])
        assert (np.diff(slopes) >= -1e-12).all(), "each next step costs more per unit"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"macs": 0}, "not positive"),
        ({"macs": -0.5}, "not positive"),
        ({"params": 1.5}, "fractions lie in"),
        ({"bytes": float("nan")}, "is not a number"),
        ({"macs": float("inf")}, "is not a number"),
        ({"macs": True}, "is not a number"),
        ({"macs": "half"}, "is not a number"),
        ({}, "names no limit"),
    ],
)
def test_senseless_budgets_are_refused(
    made_graph: Maker, budget: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        targets(Budget(**budget), made_graph([5, 6, 4], EDGES))


def test_fractions_and_absolute_numbers(made_graph: Maker) -> None:
    graph = made_graph([5, 6, 4], EDGES)
    dense = cost(graph)
    assert targets(Budget(macs=0.5, params=200), graph) == {
        "macs": dense["macs"] / 2,
        "params": 200.0,
    }
    assert targets(Budget(bytes=1.0), graph) == {"bytes": dense["bytes"]}
