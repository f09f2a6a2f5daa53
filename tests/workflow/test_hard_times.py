"""Budgets of time where a figure once was wrong or a miss was silent: one test for each."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sprig
from sprig.core import timecache
from sprig.core.allocate import LATENCY
from sprig.core.errors import InputError, StoreError
from sprig.core.path import Path as Search
from sprig.core.timecache import TimeCache
from sprig.core.timemodel import LatencyModel, kept_of
from sprig.core.timerun import cast, compare, inputs_for, runnable
from sprig.core.timetable import TimeTable
from sprig.core.timing import Timing
from sprig.core.types import Graph
from sprig.core.workbench import silent
from sprig.report.speed import speed as told
from sprig.testing.machine import Machine, X, net
from sprig.workflow import speed as speeding
from sprig.workflow.confirm import Target, check_time, confirm, smallest

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"rounds": 3, "seconds": 0.0, "threads": 1}


@pytest.fixture
def timing(tmp_path: Path) -> Timing:
    return Timing(**QUICK, cache=str(tmp_path / "times"))


def seen(small_ms: float) -> dict[str, float]:
    ratio = small_ms / 1e4
    return {
        "dense_ms": 1e4, "small_ms": small_ms, "ratio": ratio, "low": ratio, "high": ratio, "pairs": 9
    }  # fmt: skip


# ---- a budget that was missed ----------------------------------------------------------------------
def test_widths_in_steps_are_part_of_what_is_reachable(graph: Graph, table: TimeTable) -> None:
    machine = Machine(graph, table)
    (plan, predicted), *_ = smallest(graph, table, 32)
    assert {len(kept) for kept in plan.keep.values()} == {32}
    assert predicted == machine.model(kept_of(plan, graph))
    share = 0.5 * machine(plan)["ratio"]
    assert check_time(graph, table, Target(share, None), machine)["ratio"] <= share
    with pytest.raises(InputError, match=r"--round-to 32 allows .* below|below .*--round-to 32"):
        check_time(graph, table, Target(share, None), machine, 32)


def test_a_refused_time_leaves_no_folder(tmp_path: Path, timing: Timing) -> None:
    call: dict[str, Any] = {"method": "magnitude", "timing": timing, "folder": tmp_path / "run"}
    with pytest.raises(InputError, match="reachable"):
        sprig.prune(net(), (X[:2],), [X], sprig.Budget(latency_ms=1e-6), **call)
    assert not (tmp_path / "run").exists()
    assert sprig.prune(net(), (X[:2],), [X], sprig.Budget(latency_ms=1e6), **call).plan.keep


# ---- tables ----------------------------------------------------------------------------------------
def slow_when_narrow(table: TimeTable) -> TimeTable:
    """The same machine with a kernel that is twelve times slower at the narrowest outputs measured."""
    rows = [
        replace(row, ms=tuple((12 * ms[0], *ms[1:]) for ms in row.ms))
        if row.kind == "conv"
        else row
        for row in table.layers
    ]
    return replace(table, layers=tuple(rows))


def test_narrow_layers_that_are_slow_do_not_bar_the_way(
    graph: Graph, table: TimeTable, path: Search
) -> None:
    slow = slow_when_narrow(table)
    model, clock = LatencyModel(graph, slow), replace(path, table=slow).clock
    first = graph.prunable[0].index
    narrow = []
    for units in range(1, int(min(slow.layers[0].grid_out)) + 1):
        kept = model.sizes.copy()
        kept[first] = units
        narrow.append(model(kept))
    assert max(narrow) <= narrow[-1] * (1 + 1e-9), (
        "never slower than the narrowest that was measured"
    )
    dense, least = model(model.sizes), model(clock.least())
    assert clock.floor(LATENCY) < 0.9 * least
    limit = 1.02 * clock.floor(LATENCY)
    plan = replace(path, table=slow).within({LATENCY: limit})
    assert model(kept_of(plan, graph)) <= limit
    machine = Machine(graph, slow)
    share = 1.3 * clock.floor(LATENCY) / dense
    found = check_time(graph, slow, Target(share, None), machine)
    plan, _ = confirm(
        replace(path, table=slow),
        sprig.Budget(latency=share),
        Target(share, None),
        machine,
        found,
        silent,
    )
    assert machine(plan)["ratio"] <= 1.02 * share


def test_an_honest_table_has_its_floor_at_the_least(graph: Graph, path: Search) -> None:
    clock = path.clock
    assert np.array_equal(clock.quickest, clock.least())
    assert clock.floor("macs") == clock.models["macs"](clock.least())


def test_damaged_caches_and_tables_are_nothing(tmp_path: Path, table: TimeTable) -> None:
    cache = TimeCache(tmp_path, {"batch": 1})
    cache.add({"a": 1.0})
    good = cache.path.read_text()
    for text in ("[" * 100_000, good.replace("1.0", "1" + "0" * 400), good.replace("1.0", "1e999")):
        cache.path.write_text(text)
        assert cache.read() == {}
    for text, match in (
        (table.to_json().replace('"version": 1', '"version": 2'), "version 2"),
        (replace(table, layers=()).to_json(), "no layers"),
    ):
        with pytest.raises(InputError, match=match):
            TimeTable.from_json(text)


def test_a_closed_cache_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    measured: list[int] = []

    def gauge(ops: Any, progress: Any) -> list[float]:
        measured.append(len(ops))
        return [1.0] * len(ops)

    from sprig.core.timetable import measure

    graph = sprig.trace(net(), (X[:2],))
    with pytest.raises(InputError, match="cannot be kept"):
        measure(net(), (X[:2],), graph, Timing(cache=str(tmp_path / "file")), gauge=gauge)
    assert not measured and timecache.cache_folder(tmp_path) == tmp_path


# ---- what was measured is what is stated -----------------------------------------------------------
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_every_width_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    timing = Timing(**QUICK, backend="torch.compile")
    for width in (16, 24, 32):
        model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)).eval()
        call = runnable(model, (torch.randn(2, 8),), timing)
        with torch.profiler.profile() as profile:
            call()
        assert any("Torch-Compiled" in event.key for event in profile.key_averages()), width


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_is_timed_in_its_own_numbers(dtype: torch.dtype, timing: Timing) -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).to(dtype).eval()
    x = torch.randn(64, 8).to(dtype)
    found = sprig.prune(
        model, (x[:2],), [x], sprig.Budget(latency_ms=1e5), method="magnitude", timing=timing
    )
    (claim,) = (c for c in found.certificate.claims if c.name == speeding.CLAIM)
    assert f", {str(dtype).removeprefix('torch.')}, eager" in claim.data
    assert cast(model, timing)[0].weight.dtype == dtype
    assert cast(model, Timing(dtype="float32"))[0].weight.dtype == torch.float32


def test_a_model_of_mixed_numbers_runs_as_it_is(timing: Timing) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 64), nn.Linear(64, 4).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).double())

    seen = compare(Mixed(), Mixed(), (torch.randn(2, 8),), timing)
    assert seen["pairs"] >= 7


def test_the_batch_is_that_of_the_samples() -> None:
    example = {"scale": torch.ones(1), "x": torch.ones(2, 8)}
    _, named = inputs_for(example, Timing(batch=16), CPU)
    assert named["scale"].shape == (1,) and named["x"].shape == (16, 8)


def test_another_setting_is_another_run(tmp_path: Path, timing: Timing) -> None:
    class Stop(Exception):
        pass

    def stop(stage: str, *count: Any) -> None:
        if stage == "certificate":
            raise Stop

    free = replace(timing, threads=None)
    call: dict[str, Any] = {"method": "magnitude", "timing": free, "folder": tmp_path / "run"}
    budget, before = sprig.Budget(latency_ms=1e6), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with pytest.raises(Stop):
            sprig.prune(net(), (X[:2],), [X], budget, progress=stop, **call)
        torch.set_num_threads(2)
        with pytest.raises(StoreError, match="'threads': 1"):
            sprig.prune(net(), (X[:2],), [X], budget, resume=True, **call)
        torch.set_num_threads(1)
        assert sprig.prune(net(), (X[:2],), [X], budget, resume=True, **call).certificate.passed
    finally:
        torch.set_num_threads(before)


def test_measuring_draws_nothing_from_the_users_generator(timing: Timing) -> None:
    model = net()
    torch.manual_seed(1)
    wanted = torch.rand(1)
    for _ in range(2):  # with nothing in the cache, and with all
        torch.manual_seed(1)
        sprig.measure(model, (X[:2],), timing)
        assert torch.equal(torch.rand(1), wanted)


def test_a_layer_may_be_called_like_an_operation(timing: Timing) -> None:
    class Names(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.add, self.relu = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.i(x))
            return self.relu(torch.relu(h + self.add(h))) + 1

    x = torch.randn(64, 8)
    found = sprig.prune(
        Names().eval(),
        (x[:2],),
        [x],
        sprig.Budget(latency_ms=1e6),
        method="magnitude",
        timing=timing,
    )
    rows = [
        (row["name"], row["kind"], row["calls"]) for row in found.record.config["latency"]["layers"]
    ]
    assert {("add", "linear", 1), ("relu", "linear", 1), ("add", "", 2), ("relu", "", 2)} <= set(
        rows
    )


def test_the_plan_that_was_taken_is_marked() -> None:
    trial = {"predicted_ms": 1.0, "small_ms": 1.0, "ratio": 0.5}
    latency = {
        "measured": seen(5e3),
        "trials": [{**trial, "chosen": False}, {**trial, "chosen": False}],
    }

    record = SimpleNamespace(config={"latency": latency})

    def names() -> list[str]:
        found = told(record)  # type: ignore[arg-type]
        assert found is not None
        return [name for name, _ in found.trials]

    assert names() == ["1", "2"]
    latency["trials"] = [trial, trial]
    assert names() == ["1", "chosen"]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), "2", -1.0])
def test_seconds_are_a_number(seconds: Any) -> None:
    with pytest.raises(InputError, match="timing seconds"):
        Timing(seconds=seconds)
