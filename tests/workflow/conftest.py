"""A small network, its table of made-up times, and a path through it."""

import pytest

from sprig.core.path import Path as Search
from sprig.core.timetable import TimeTable, measure
from sprig.core.timing import Timing
from sprig.core.tracing import trace
from sprig.core.types import Graph, GroupPath
from sprig.testing.clocks import Gauge, Watch
from sprig.testing.machine import X, net


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(net(), (X[:2],))


@pytest.fixture(scope="module")
def table(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> TimeTable:
    cache = str(tmp_path_factory.mktemp("times"))
    return measure(net(), (X[:2],), graph, Timing(cache=cache), gauge=Gauge(step=1), watch=Watch())


@pytest.fixture(scope="module")
def path(graph: Graph, table: TimeTable) -> Search:
    groups, harm = {}, {}
    for g in graph.prunable:
        errors = tuple((1 - n / g.size) ** 2 for n in range(g.size + 1))
        order = tuple(range(g.size))
        groups[g.name] = GroupPath(g.name, order, (0.0,) * g.size, errors, (0.0,) * (g.size + 1))
        harm[g.name] = errors
    return Search(graph, groups, harm, table=table)
