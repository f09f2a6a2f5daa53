"""Budgets of time from end to end: confirmed, corrected, recorded, resumed. Times are worked out, not measured."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sprig
from sprig.core.allocate import LATENCY
from sprig.core.errors import InputError, StoreError
from sprig.core.path import Path as Search
from sprig.core.plan import Plan
from sprig.core.store import load_record
from sprig.core.timemodel import LatencyModel
from sprig.core.timetable import TimeTable, measure
from sprig.core.timing import Timing
from sprig.core.tracing import trace
from sprig.core.types import Graph, GroupPath, Outcome
from sprig.core.workbench import Workbench, silent
from sprig.testing.clocks import Gauge, Watch
from sprig.workflow import confirm as confirming
from sprig.workflow import rival as dueling
from sprig.workflow import speed as speeding
from sprig.workflow.confirm import Target, check_time, confirm, kept_of, target_of


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


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


class Machine:
    """The real thing: what the table predicts, bent, and with a part that does not shrink."""

    def __init__(
        self, graph: Graph, table: TimeTable, *, bend: float = 1.0, fixed: float = 0.0
    ) -> None:
        self.graph, self.model = graph, LatencyModel(graph, table)
        self.bend, self.fixed = bend, fixed
        self.dense = self.time(self.model.sizes)
        self.seen: list[Plan] = []

    def time(self, kept: np.ndarray) -> float:
        whole = self.model(self.model.sizes)
        return float(whole * ((self.model(kept) / whole) ** self.bend + self.fixed))

    def __call__(self, plan: Plan) -> dict[str, float]:
        self.seen.append(plan)
        ms = self.time(kept_of(plan, self.graph))
        ratio = ms / self.dense
        return {
            "dense_ms": self.dense, "small_ms": ms, "ratio": ratio, "low": ratio, "high": ratio, "pairs": 9
        }  # fmt: skip


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


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, graph: Graph, table: TimeTable) -> Machine:
    """Runs that ask the made-up machine instead of the stopwatch."""
    machine = Machine(graph, table, bend=1.4)

    def table_of(*args: Any, **kwargs: Any) -> TimeTable:
        machine.tables += 1  # type: ignore[attr-defined]
        return table

    def compared(dense: nn.Module, small: nn.Module, *args: Any, **kwargs: Any) -> dict[str, float]:
        kept = machine.model.sizes.copy()
        by_name = {g.name: g.index for g in graph.groups}
        for name, module in small.named_children():
            if name in by_name:
                kept[by_name[name]] = next(module.parameters()).shape[0]
        ms = machine.time(kept)
        ratio = ms / machine.dense
        return {
            "dense_ms": machine.dense,
            "small_ms": ms,
            "ratio": ratio,
            "low": ratio,
            "high": ratio,
            "pairs": 9,
        }

    machine.tables = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(speeding, "measure_table", table_of)
    monkeypatch.setattr(speeding, "compare", compared)
    monkeypatch.setattr(confirming, "compare", compared)
    return machine


def run(folder: Path | None = None, **fields: Any) -> sprig.Result:
    settings: dict[str, Any] = {"method": "magnitude", "timing": Timing(rounds=3), **fields}
    return sprig.prune(
        net(),
        (X[:2],),
        [X],
        settings.pop("budget", sprig.Budget(latency=0.5)),
        folder=folder,
        **settings,
    )


def test_prune_records_what_was_measured(made_up: Machine, tmp_path: Path) -> None:
    result = run(tmp_path / "run")
    found = load_record(sprig.core.folder.RunFolder.open(tmp_path / "run")).config["latency"]
    assert 0.475 <= found["measured"]["ratio"] <= 0.51
    assert found["budget"] == {"latency": 0.5}
    layers = {row["name"]: row for row in found["layers"]}
    assert layers["2"]["widths"][:2] == [64, 96]
    assert layers["2"]["widths"][2:] == [len(result.plan.keep["0"]), len(result.plan.keep["2"])]
    assert sum(r["dense_ms"] for r in layers.values()) == pytest.approx(
        made_up.model(made_up.model.sizes)
    )
    assert sum(r["predicted_ms"] for r in layers.values()) == pytest.approx(found["predicted_ms"])
    assert made_up.model.table.level == pytest.approx(1.0)
    assert all(row["measured_ms"] > 0 for row in layers.values())
    claim = next(c for c in result.certificate.claims if c.name == "budget-latency_ms")
    assert claim.passed and claim.value == found["measured"]["ratio"] and claim.tolerance == 0.525
    assert "measured once" in claim.statement
    assert result.certificate.passed
    limits = json.loads((tmp_path / "run" / "shapes.json").read_text())["limits"]
    assert limits == {}, "nothing about time is held against another machine"
    assert sprig.verify(tmp_path / "run", net(), [X]).passed


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_second_plan_is_as_fast_and_another(
    graph: Graph, table: TimeTable, path: Search, share: float
) -> None:
    """Layers whose time does not follow their multiply-adds: the two ways down part."""
    times = {"0": 5.0, "2": 1.0, "4": 0.2, "8": 1.0}
    odd = replace(
        table,
        layers=tuple(
            replace(r, ms=tuple(tuple(t * times.get(r.where, 1.0) for t in row) for row in r.ms))
            for r in table.layers
        ),
    )
    path, machine = replace(path, table=odd), Machine(graph, odd, bend=1.2)
    budget, target = sprig.Budget(latency=share), Target(share, None)
    least = least_of(graph, odd, machine, target)
    plan = confirm(path, budget, target, machine, least, silent)[0]
    second = dueling.rival(path, budget, target, machine, plan)
    assert second is not None and second.keep != plan.keep
    assert 0.85 <= target.excess(machine(second)) <= 1.02
    assert path.predicted(plan) <= path.predicted(second) * 1.05


def test_a_table_that_holds_small_networks_to_be_slow(
    graph: Graph, table: TimeTable, path: Search
) -> None:
    """So noise may have it; a budget that asks for nothing is met all the same."""
    slow = replace(
        table,
        layers=tuple(
            replace(r, ms=tuple(tuple(5.0 / (1 + i + j) for j in range(len(row))) for i, row in enumerate(r.ms)))
            for r in table.layers
        ),
    )  # fmt: skip
    path, machine = replace(path, table=slow), Machine(graph, slow)
    assert machine.model(path.clock.least()) > machine.dense
    plan = path.plan({g.index: g.size for g in graph.prunable})
    budget = sprig.Budget(latency_ms=2 * machine.dense)
    assert dueling.rival(path, budget, Target(None, 2 * machine.dense), machine, plan) is None


def test_of_two_plans_the_better_is_taken(
    graph: Graph, path: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured on the fitted networks decides, not what the search predicts."""
    plans = [path.at(sprig.Budget(macs=share)) for share in (0.9, 0.3)]
    bench = Workbench(net(), graph, [((X,), {}, None)])
    fitted = {p.hash: Outcome(p, {}, {"about": p.hash}) for p in plans}
    found = dueling.better(bench, plans, lambda p: fitted[p.hash], [X])
    assert found.plan == plans[0] and found.notes["about"] == plans[0].hash
    rows = found.notes["rivals"]
    assert [r["taken"] for r in rows] == [True, False]
    assert rows[0]["error"] < rows[1]["error"]
    errors = iter([1.0, 0.5])
    monkeypatch.setattr(dueling, "quality", lambda *args: {"kl": next(errors)})
    assert dueling.better(bench, plans, lambda p: fitted[p.hash], [X]).plan == plans[1]


def test_no_second_plan_where_nothing_is_known(made_up: Machine) -> None:
    assert "rivals" not in run().record.config["latency"]


def test_a_missed_measurement_is_a_failed_claim(made_up: Machine) -> None:
    found = {"measured": made_up(Plan({}, {}, "")), "setting": {
        "batch": 1, "threads": 1, "dtype": "float32", "backend": "eager", "device": "X"}}  # fmt: skip
    claim = speeding.claim_of(found, Target(0.5, None))
    assert not claim.passed and claim.value == 1.0
    claim = speeding.claim_of(found, Target(None, 1e9))
    assert claim.passed and claim.value == made_up.dense


def test_a_resumed_run_keeps_table_and_plan(
    made_up: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sprig.workflow.story, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    before = made_up.tables  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:  # a machine that is busy now changes nothing
        patch.setattr(confirming, "compare", killed)
        again = run(tmp_path / "killed", resume=True)
    assert made_up.tables == before  # type: ignore[attr-defined]
    assert again.plan == whole.plan
    for name in ("model.safetensors", "plan.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resuming_with_another_setting_is_refused(
    made_up: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sprig.workflow.story, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    with pytest.raises(StoreError, match="was begun with timing = "):
        run(tmp_path / "run", resume=True, timing=Timing(batch=4, rounds=3))


def test_timing_without_a_budget_of_time_is_reported(made_up: Machine) -> None:
    result = run(budget=sprig.Budget(macs=0.5))
    assert result.record.config["latency"]["budget"] == {}
    assert not any(c.name == "budget-latency_ms" for c in result.certificate.claims)
    assert result.path.table is not None
    again = result.path.at(sprig.Budget(latency=0.5))
    assert again.keep != {}
    assert LATENCY in result.path.clock.models


def test_search_with_timing_answers_budgets_of_time(made_up: Machine, table: TimeTable) -> None:
    path = sprig.search(net(), (X[:2],), [X], method="magnitude", timing=Timing(rounds=3))
    assert path.table == table
    plain = sprig.search(net(), (X[:2],), [X], method="magnitude")
    with pytest.raises(InputError, match="needs times measured"):
        plain.at(sprig.Budget(latency=0.5))
    assert plain.at(sprig.Budget(latency=0.5), table) == path.at(sprig.Budget(latency=0.5))


def test_the_real_thing_on_a_small_network(tmp_path: Path) -> None:
    """With the true stopwatch; held only to what a busy machine cannot break."""
    big = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 32, 3)
    ).eval()
    x = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    timing = Timing(rounds=3, seconds=0.3, threads=1, cache=str(tmp_path))
    result = sprig.prune(
        big, (x[:2],), [x], sprig.Budget(latency=0.9), method="magnitude", timing=timing
    )
    found = result.record.config["latency"]
    assert found["trials"] and found["measured"]["ratio"] < 1.5
    assert result.after.macs < result.before.macs
    assert list(tmp_path.glob("times-*.json"))
