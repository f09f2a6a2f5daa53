"""Budgets of time from end to end: recorded, resumed, refused. Times are worked out, but in the last test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sprig
from sprig.core.allocate import LATENCY
from sprig.core.errors import InputError, StoreError
from sprig.core.path import Path as Search
from sprig.core.plan import Plan
from sprig.core.store import load_record
from sprig.core.timetable import TimeTable
from sprig.core.timing import Timing
from sprig.core.types import Graph, Outcome
from sprig.core.workbench import Workbench, silent
from sprig.testing.machine import Machine, X, net
from sprig.workflow import confirm as confirming
from sprig.workflow import rival as dueling
from sprig.workflow import speed as speeding
from sprig.workflow.confirm import Target, check_time, confirm


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
    least = check_time(graph, odd, target, machine)
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
    found = dueling.better(bench, plans, lambda _, p: fitted[p.hash], [X])
    assert found.plan == plans[0] and found.notes["about"] == plans[0].hash
    rows = found.notes["rivals"]
    assert [r["taken"] for r in rows] == [True, False]
    assert rows[0]["error"] < rows[1]["error"]
    errors = iter([1.0, 0.5])
    monkeypatch.setattr(dueling, "quality", lambda *args: {"kl": next(errors)})
    assert dueling.better(bench, plans, lambda _, p: fitted[p.hash], [X]).plan == plans[1]


def test_plans_are_judged_on_inputs_that_they_were_not_fitted_on(
    graph: Graph, path: Search
) -> None:
    plans = [path.at(sprig.Budget(macs=share)) for share in (0.9, 0.3)]
    numbered = torch.arange(50.0).view(50, 1, 1, 1).expand(50, *X.shape[1:]).contiguous()
    bench = Workbench(net(), graph, [((part,), {}, None) for part in numbered.split(13)])
    parts = dueling.divided(bench)
    assert parts is not None
    on, judge = parts
    seen = [int(v) for (x,), _, _ in on.triples for v in x[:, 0, 0, 0]]
    kept = [int(v) for (x,), _ in judge for v in x[:, 0, 0, 0]]
    assert sorted(seen + kept) == list(range(50))
    assert 5 <= len(kept) <= 20
    asked: list[tuple[int, str]] = []

    def fitted(where: Workbench, plan: Any) -> Outcome:
        asked.append((sum(len(x) for (x,), _, _ in where.triples), plan.hash))
        return Outcome(plan, {})

    found = dueling.better(bench, plans, fitted, [numbered])
    assert asked == [(len(seen), p.hash) for p in plans] + [(50, found.plan.hash)]
    assert all(row["unseen"] for row in found.notes["rivals"])
    few = Workbench(net(), graph, [((numbered[:3],), {}, None)])
    assert dueling.divided(few) is None


def test_where_a_quarter_leaves_two_plans_close_the_others_judge_too(
    graph: Graph, path: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [path.at(sprig.Budget(macs=share)) for share in (0.9, 0.3)]
    numbered = torch.arange(50.0).view(50, 1, 1, 1).expand(50, *X.shape[1:]).contiguous()
    bench = Workbench(net(), graph, [((part,), {}, None) for part in numbered.split(13)])
    judged: list[int] = []

    def told(errors: list[float]) -> tuple[Plan, int]:
        """The plan that is taken when these errors are seen one after the other, and the turns that it took."""
        judged.clear()
        left = iter(errors)

        def seen(model: Any, dense: Any, judge: Any) -> dict[str, float]:
            judged.extend(int(v) for (x,), _ in judge for v in x[:, 0, 0, 0])
            return {"kl": next(left)}

        monkeypatch.setattr(dueling, "quality", seen)
        found = dueling.better(bench, plans, lambda _, p: Outcome(p, {}), [numbered])
        return found.plan, found.notes["rivals"][0]["turns"]

    assert told([1.0, 0.8]) == (plans[1], 1)
    assert told([1.0, 0.95, 1.0, 2.0]) == (plans[0], 2), "the first quarter alone misled"
    assert told([1.0, 0.95] * 4) == (plans[1], 4)
    assert sorted(judged) == sorted([*range(50), *range(50)]), "each input judges both plans once"


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
