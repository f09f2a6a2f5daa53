"""What is measured of a network, and what is made of it; on a machine that is worked out from shapes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.allocate import LATENCY, latency_limit, targets
from sprig.core.errors import InputError, StoreError
from sprig.core.opbench import Bench, Blank, Op, contraction, pointwise
from sprig.core.path import Path as Search
from sprig.core.stages import load_tree, save_tree
from sprig.core.timelayers import Width, grid, layers
from sprig.core.timemodel import LatencyModel
from sprig.core.timetable import LayerTime, TimeTable, _steps, measure
from sprig.core.timing import Timing
from sprig.core.tracing import trace
from sprig.core.types import Budget, Graph, GroupPath
from sprig.testing.clocks import Gauge, Watch, made_up


class Net(nn.Module):
    """Plain, grouped, joined and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.deep = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.left = nn.Conv2d(64, 32, 1)
        self.right = nn.Conv2d(64, 96, 1)
        self.out = nn.Conv2d(128, 48, 1)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(torch.relu(self.norm(self.stem(x))))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(torch.relu(self.out(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def example() -> tuple[torch.Tensor]:
    return (torch.randn(2, 3, 8, 8),)


@pytest.fixture(scope="module")
def graph(net: Net, example: tuple[torch.Tensor]) -> Graph:
    return trace(net, example)


def timing(tmp_path: Path, **fields: object) -> Timing:
    return Timing(**{"cache": str(tmp_path), "threads": 1, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table(
    net: Net, example: tuple[torch.Tensor], graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> TimeTable:
    where = tmp_path_factory.mktemp("times")
    return measure(net, example, graph, timing(where), gauge=Gauge(), watch=Watch())


def path_of(graph: Graph, table: TimeTable | None, seed: int = 0) -> Search:
    draw = np.random.default_rng(seed)
    groups, harm = {}, {}
    for g in graph.prunable:
        errors = tuple(float(e) for e in np.sort(draw.random(g.size + 1))[::-1])
        order = tuple(int(i) for i in draw.permutation(g.size))
        groups[g.name] = GroupPath(g.name, order, (0.0,) * g.size, errors, (0.0,) * (g.size + 1))
        harm[g.name] = errors
    return Search(graph, groups, harm, table=table)


def test_every_call_has_its_widths(net: Net, graph: Graph) -> None:
    found = {layer.node: layer for layer in layers(graph, graph.program)}
    by_module = {layer.where: layer for layer in found.values() if layer.contracts}
    assert {k: (v.inside.full, v.outside.full, v.kind) for k, v in by_module.items()} == {
        "stem": (3, 64, "conv"),
        "deep": (64, 64, "depthwise"),
        "left": (64, 32, "conv"),
        "right": (64, 96, "conv"),
        "out": (128, 48, "conv"),
        "head": (48, 10, "linear"),
    }
    kept = np.array([g.size for g in graph.groups]) / 2
    joined = by_module["out"].inside
    assert joined.base + sum(s * kept[g] for g, s in joined.slopes) == 64
    norm = next(layer for layer in found.values() if layer.kind == "batch_norm")
    assert (norm.dim, norm.outside.full, norm.outside.slopes) == (
        1,
        64,
        by_module["stem"].outside.slopes,
    )
    mean = next(layer for layer in found.values() if layer.kind == "mean")
    assert mean.outside == by_module["out"].outside, "a pool takes the time of what it reads"


def test_grids_are_aligned_and_end_at_the_whole_width() -> None:
    free = ((0, 1.0),)
    assert grid(Width(64, 0.0, free)) == (16, 32, 48, 64)
    assert grid(Width(100, 0.0, free)) == (16, 32, 48, 80, 100)
    assert grid(Width(24, 0.0, free)) == (8, 16, 24)
    assert grid(Width(6, 0.0, free)) == (1, 2, 3, 4, 6)
    assert grid(Width(1000, 1000.0)) == (1000,)


def test_operations_at_other_widths() -> None:
    f = "float32"
    x, w, b = Blank((2, 64, 8, 8), f), Blank((32, 64, 3, 3), f), Blank((32,), f)
    op = contraction(Op("conv", (x, w, b, [1, 1], [1, 1]), {}), 16, 8)
    assert [a.shape for a in op.args[:3]] == [(2, 16, 8, 8), (8, 16, 3, 3), (8,)]
    deep = Op("conv", (x, Blank((128, 2, 3, 3), f), None, [1, 1], [0, 0], [1, 1], 32), {})
    op = contraction(deep, 0, 40)
    assert [a.shape for a in op.args[:2]] == [(2, 20, 8, 8), (40, 2, 3, 3)] and op.args[6] == 10
    op = contraction(Op("linear", (Blank((2, 7, 64), f), Blank((10, 64), f)), {}), 5, 3)
    assert [a.shape for a in op.args] == [(2, 7, 5), (3, 5)]
    norm = Op("layer_norm", (Blank((2, 7, 64), f), [64], Blank((64,), f)), {})
    op = pointwise(norm, 2, 64, 16, ndim=3)
    assert op.args[0].shape == (2, 7, 16) and op.args[1] == [16] and op.args[2].shape == (16,)
    add = Op("add", (x, Blank((2, 64, 1, 1), f), Blank((8,), f)), {})
    assert [a.shape for a in pointwise(add, 1, 64, 16, ndim=4).args] == [
        (2, 16, 8, 8), (2, 16, 1, 1), (8,),
    ]  # fmt: skip


def test_equal_shapes_are_measured_once_and_kept(
    net: Net, example: tuple[torch.Tensor], graph: Graph, tmp_path: Path
) -> None:
    first, second, third = Gauge(), Gauge(), Gauge()
    one = measure(net, example, graph, timing(tmp_path), gauge=first, watch=Watch())
    assert len(first.asked) == len(set(first.asked)) > 20
    two = measure(net, example, graph, timing(tmp_path), gauge=second, watch=Watch())
    assert second.asked == [] and one == two
    measure(net, example, graph, timing(tmp_path, refresh=True), gauge=third, watch=Watch())
    assert sorted(third.asked) == sorted(first.asked)
    other = Gauge()
    measure(net, example, graph, timing(tmp_path, batch=4), gauge=other, watch=Watch())
    assert other.asked, "another setting, other times"
    assert "float32[4, 64, 8, 8]" in " ".join(other.asked)


def test_the_dense_end_is_what_was_seen_in_the_network(graph: Graph, table: TimeTable) -> None:
    model = LatencyModel(graph, table)
    assert model(model.sizes) == pytest.approx(table.dense_ms)
    assert {round(row.factor, 6) for row in table.layers if row.kind != "flatten"} == {2.0}


def test_what_no_call_accounts_for_stays_or_is_spread(
    net: Net, example: tuple[torch.Tensor], graph: Graph, tmp_path: Path
) -> None:
    calls = len(layers(graph, graph.program))
    little = measure(net, example, graph, timing(tmp_path), gauge=Gauge(), watch=Watch(beside=1e-3))
    assert little.overhead == pytest.approx(1e-3) and little.level == pytest.approx(1.0)
    calls_ms = little.dense_ms - 1e-3
    much = measure(net, example, graph, timing(tmp_path), gauge=Gauge(), watch=Watch(beside=99.0))
    assert much.overhead == pytest.approx(0.01 * calls)
    assert much.level == pytest.approx((99.0 + calls_ms) / (0.01 * calls + calls_ms))
    model = LatencyModel(graph, much)
    assert model(model.sizes) == pytest.approx(much.dense_ms)


@pytest.mark.parametrize("times", [2.0, 0.5])
def test_where_a_backend_cannot_be_looked_into(
    net: Net, example: tuple[torch.Tensor], graph: Graph, tmp_path: Path, times: float
) -> None:
    setting = timing(tmp_path, backend="torch.compile")
    watch = Watch(times=times, inner=False)
    table = measure(net, example, graph, setting, gauge=Gauge(), watch=watch)
    model = LatencyModel(graph, table)
    assert model(model.sizes) == pytest.approx(table.dense_ms)
    assert "one factor" in table.note
    heavy = {row.factor for row in table.layers if row.kind in ("conv", "depthwise", "linear")}
    assert len(heavy) == 1 and (heavy == {1.0}) == (times > 1)


def test_steps_are_not_smoothed_away(graph: Graph, table: TimeTable) -> None:
    """The machine computes 16 outputs at once: 33 to 48 channels cost the same, and more than 32."""
    model = LatencyModel(graph, table)
    group = next(g for g in graph.prunable if g.name == "right")
    kept = model.sizes.copy()

    def at(n: int) -> float:
        kept[group.index] = n
        return float(model.layers(kept)[[r.where for r in table.layers].index("right")])

    right = [at(n) for n in range(32, 49)]
    np.testing.assert_allclose(right[1:], right[-1])
    assert right[0] == pytest.approx(right[-1] * 32 / 48)
    smooth = _steps([1.0 + r / 16 for r in range(17)])
    np.testing.assert_allclose(smooth, np.arange(17) / 16)
    assert _steps([1.0] * 17) == tuple(r / 16 for r in range(17)), "nothing to be seen: a line"
    assert max(_steps([1.0] + [9.0] * 15 + [2.0])) == 6.0, "slower than the next multiple of 16"


def test_predicted_times_are_those_of_the_shrunk_network(graph: Graph, table: TimeTable) -> None:
    """At widths between the points of the grid, against the same machine asked directly."""
    model = LatencyModel(graph, table)
    draw = np.random.default_rng(0)
    rows = [r.node for r in table.layers]
    for _ in range(20):
        kept = np.array(
            [16.0 * draw.integers(1, max(1, g.size // 16), endpoint=True) for g in graph.groups]
        )
        kept = np.minimum(kept, model.sizes)
        ms = model.layers(kept)
        for layer in layers(graph, graph.program):
            if layer.contracts and layer.mixes:
                i, o = (
                    w.base + sum(s * kept[g] for g, s in w.slopes)
                    for w in (layer.inside, layer.outside)
                )
                op = contraction(layer.op, round(i), round(o))
                # the table is of batch 1, the graph of batch 2, and the network doubles all times
                assert ms[rows.index(layer.node)] == pytest.approx(made_up(op), rel=1e-6)


def test_the_gradient_is_the_mean_slope_on_the_way_down(graph: Graph, table: TimeTable) -> None:
    model = LatencyModel(graph, table)
    slope = model.gradient(model.sizes)
    for g in graph.prunable:
        stride = max(16.0, g.size / 4)
        less = model.sizes.copy()
        less[g.index] -= stride
        assert slope[g.index] == pytest.approx((model(model.sizes) - model(less)) / stride)


def test_sizes_offered_are_aligned_where_the_machine_is(graph: Graph, table: TimeTable) -> None:
    model = LatencyModel(graph, table)
    out = next(g for g in graph.prunable if g.name == "out")
    right = next(g for g in graph.prunable if g.name == "right")
    assert right.size in model.offered(right.index, np.arange(1, right.size + 1))
    found = model.offered(out.index, np.arange(1, out.size + 1))
    ones = LatencyModel(graph, replace(table, steps={}))
    assert len(found) < len(ones.offered(out.index, np.arange(1, out.size + 1)))
    times = []
    for n in found:
        kept = 0.5 * model.sizes
        kept[out.index] = n
        times.append(model(kept))
    free = [i for i, n in enumerate(found) if n % 16 and n > 1]
    assert all(times[i] < min(times[i + 1 :]) for i in free), "faster than all larger ones"
    assert set(range(16, out.size + 1, 16)) <= set(found.tolist()) and found[0] == 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_no_plan_by_multiply_adds_is_as_fast_and_less_harmful(
    graph: Graph, table: TimeTable, share: float, seed: int
) -> None:
    """Times full of noise: going by them alone would be led astray."""
    draw = np.random.default_rng(seed)
    noisy = replace(
        table,
        layers=tuple(
            replace(r, ms=tuple(tuple(t * draw.uniform(0.4, 2.0) for t in row) for row in r.ms))
            for r in table.layers
        ),
    )
    path = path_of(graph, noisy)
    clock = path.clock
    model, limit = clock.models[LATENCY], share * float(path.dense_ms or 0)
    chosen = path.predicted(path.at(Budget(latency=share)))
    points = clock._descent("macs")[1]
    fast = [clock.harm(kept) for kept in points if model(kept) <= limit]
    assert fast and chosen <= min(fast) * (1 + 1e-9)


@pytest.mark.parametrize("known", [True, False])
def test_budgets_of_time(graph: Graph, table: TimeTable, known: bool) -> None:
    path = path_of(graph, table)
    path = path if known else replace(path, harm={})
    model = LatencyModel(graph, table)
    for share in (0.3, 0.5, 0.8):
        plan = path.at(Budget(latency=share))
        kept = np.array([len(plan.keep.get(g.name, range(g.size))) for g in graph.groups])
        assert 0.8 * share < model(kept) / table.dense_ms <= share * (1 + 1e-9)
        assert plan == path.at(Budget(latency_ms=share * table.dense_ms))
        assert plan == replace(path, table=None).at(Budget(latency=share), table)
    both = path.at(Budget(latency=0.8, macs=0.3))
    dense = path.at(Budget(macs=1.0)).cost["macs"]
    assert both.cost["macs"] <= 0.3 * dense
    assert path.at(Budget(macs=0.3)) == replace(path, table=None).at(Budget(macs=0.3))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(latency=1.5), "latency=1.5 is not a fraction; give a fraction"),
        (Budget(latency=0.0), "latency=0.0 is not positive"),
        (Budget(latency_ms=-3), "latency_ms=-3 is not positive; give milliseconds"),
        (Budget(latency_ms=float("nan")), "latency_ms=nan is not a number"),
        (Budget(latency=True), "latency=True is not a number"),
        (Budget(latency=0.001), r"below what is reachable: .* it is .* \(.*%\)"),
    ],
)
def test_budgets_of_time_that_make_no_sense(
    graph: Graph, table: TimeTable, budget: Budget, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        path_of(graph, table).at(budget)


def test_without_a_table_there_is_no_budget_of_time(graph: Graph, table: TimeTable) -> None:
    with pytest.raises(InputError, match=r"needs times measured on this machine: give timing="):
        path_of(graph, None).at(Budget(latency=0.5))
    with pytest.raises(InputError, match="has no table of measured times"):
        _ = path_of(graph, None).clock
    with pytest.raises(InputError, match="belongs to another model"):
        LatencyModel(graph, replace(table, graph="0" * 64))
    assert latency_limit(Budget(macs=0.5), None) is None
    assert targets(Budget(latency=0.5, latency_ms=3.0), graph, dense_ms=10.0) == {LATENCY: 3.0}


def test_a_table_survives_both_ways_of_keeping_it(table: TimeTable, tmp_path: Path) -> None:
    assert TimeTable.from_json(table.to_json()) == table
    save_tree(tmp_path / "t.safetensors", table, records=(TimeTable, LayerTime, Width))
    back = load_tree(tmp_path / "t.safetensors", records=(TimeTable, LayerTime, Width))
    assert back == table
    with pytest.raises(InputError, match="not a latency table"):
        TimeTable.from_json("{}")
    with pytest.raises(StoreError, match="latency table"):
        TimeTable.from_json('{"format": "sprig-latency", "version": 1, "table": {}}')


def test_another_batch_size_must_be_the_same_program(tmp_path: Path) -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x).relu()
            return self.two(y) if x.shape[0] > 1 else y[:, :2]

    net, x = Fickle().eval(), (torch.randn(2, 4),)
    with pytest.raises(InputError, match=r"linear_1 is not there\): trace it with example inputs"):
        measure(net, x, trace(net, x), timing(tmp_path), gauge=Gauge(), watch=Watch())


def test_the_real_bench_on_a_small_network(
    net: Net, example: tuple[torch.Tensor], graph: Graph, tmp_path: Path
) -> None:
    """Only that it runs and that work shows: no figure is held to anything narrow."""
    table = measure(net, example, graph, timing(tmp_path, batch=2, rounds=3, seconds=0.1))
    assert table.dense_ms > 0 and all(np.isfinite(row.ms).all() for row in table.layers)
    model = LatencyModel(graph, table)
    assert model(model.sizes) == pytest.approx(table.dense_ms, rel=0.01)
    assert 0 < model(np.ones(len(model.sizes))) < 3 * table.dense_ms
    bench, none = Bench(Timing(rounds=3, seconds=0.1), torch.device("cpu")), lambda done, of: None
    blank = Blank((4, 64, 32, 32), "float32")
    wide = Op(torch.ops.aten.conv2d.default, (blank, Blank((256, 64, 3, 3), "float32")), {})
    bad = contraction(wide, 32, 8)
    bad = Op(bad.target, (blank, bad.args[1]), {})
    slow, fast, never = bench([wide, contraction(wide, 4, 4), bad], none)
    assert slow > fast > 0 and never == float("inf")
