"""What a run says about time: the table that it plans by, the confirmed plan, what was predicted and measured."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from sprig.core.allocate import targets
from sprig.core.errors import InputError
from sprig.core.example import Example
from sprig.core.folder import RunFolder
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.ranks import Ranks
from sprig.core.replay import Replay
from sprig.core.timelayers import Width
from sprig.core.timemodel import LatencyModel, kept_of
from sprig.core.timerun import Stepper, cast, compare, inputs_for
from sprig.core.timetable import LayerTime, TimeTable
from sprig.core.timetable import measure as measure_table
from sprig.core.timing import Timing, brief, threads
from sprig.core.tracing import trace
from sprig.core.types import Budget, Certificate, Claim, Graph, device_of
from sprig.core.workbench import Workbench
from sprig.workflow.confirm import Target, check_time, confirm, pairing, target_of
from sprig.workflow.rival import rival

RECORDS = (TimeTable, LayerTime, Width)  # what a stage of a run folder holds beside plain values
CLAIM = "budget-latency_ms"
ALLOWED = 0.05  # how far the last measurement may lie above the limit


def measure(
    model: nn.Module,
    example_inputs: Example,
    timing: Timing | None = None,
    *,
    graph: Graph | None = None,
) -> TimeTable:
    """The latency table of a model on this machine, for `path.at(budget, table)`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> table = measure(net, (torch.randn(2, 8),), Timing(rounds=3, seconds=0.1, cache="times"))
    >>> [layer.where for layer in table.layers if layer.kind == "linear"]
    ['0', '2']
    """
    made = graph if graph is not None else trace(model, example_inputs)
    return measure_table(model, example_inputs, made, timing)


class Speed:
    """The part of a run that knows about time; does nothing where neither budget nor `timing` speaks of it.

    `pair`, `table`: other stopwatches, for tests.
    """

    def __init__(
        self, bench: Workbench, example: Example, budget: Budget | None, timing: Timing | None
    ) -> None:  # fmt: skip
        self.bench, self.example, self.budget = bench, example, budget
        self.target: Target | None = target_of(budget) if budget is not None else None
        timing = timing or (Timing() if self.target is not None else None)
        self.timing = None if timing is None else timing.of(bench.model)
        if self.timing is not None and bench.graph.parts:
            raise InputError(
                "budgets of latency need a model that is exported as a whole, only modules of this one are; give macs, "
                "params or bytes, or cut the module by itself"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must ask for and find again, the machine too; where the cache lies is not part of it."""
        if self.timing is None:
            return {}
        setting = self.timing.setting(device_of(self.bench.model))
        return {"timing": {"rounds": self.timing.rounds, **setting}}

    def limits(self) -> dict[str, float]:
        """Limits that are counted, not measured."""
        if self.budget is None:
            return {}
        known = {k: v for k, v in asdict(self.budget).items() if not k.startswith("latency")}
        if self.target is not None and all(v is None for v in known.values()):
            return {}
        return targets(Budget(**known), self.bench.graph)

    def begin(
        self, folder: RunFolder | None, round_to: int = 1
    ) -> tuple[TimeTable | None, Mapping[str, float]]:
        """The table, and what the smallest network takes; both are kept for a resumed run."""
        if self.timing is None:
            return None, {}
        timing = self.timing

        def measured() -> dict[str, Any]:
            bench, least = self.bench, {}
            table = measure_table(
                bench.model, self.example, bench.graph, timing, progress=bench.progress
            )
            if self.target is not None:
                pair = pairing(bench, self.example, timing)
                least = check_time(bench.graph, table, self.target, pair, round_to)
            return {"table": table, "least": least}

        found = _once(folder, self.bench.ranks, "timing", measured)
        return found["table"], found["least"]

    def plan(
        self, folder: RunFolder | None, path: Path, least: Mapping[str, float]
    ) -> tuple[list[Plan], list[dict[str, float]]]:
        """The plan for the budget; one of time is confirmed and, where it missed, made again.

        Of time there may be a second one, as fast, see `workflow.rival`.
        """
        if self.target is None or self.timing is None:
            return [path.at(self.budget) if self.budget is not None else path.own()], []
        budget, target, timing = self.budget, self.target, self.timing
        assert budget is not None  # else there were no target

        def confirmed() -> dict[str, Any]:
            pair = pairing(self.bench, self.example, timing)
            plan, trials = confirm(path, budget, target, pair, least, self.bench.progress)
            second = rival(path, budget, target, pair, plan)
            return {"plans": [plan, *([second] if second is not None else [])], "trials": trials}

        found = _once(folder, self.bench.ranks, "plan", confirmed)
        return list(found["plans"]), found["trials"]

    def judged(
        self, facts: dict[str, Any], small: nn.Module, plan: Plan, table: TimeTable | None,
        trials: list[dict[str, float]], notes: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """The facts of a run and what was measured of its speed."""
        if table is None or self.timing is None:
            return facts
        taken = next((r["plan"] for r in notes.get("rivals", ()) if r["taken"]), None)
        marked = [
            {**row, "chosen": number == len(trials) if taken is None else row.get("plan") == taken}
            for number, row in enumerate(trials, 1)
        ]
        found = figures(
            self.bench, small, plan, table, self.example, self.timing, self.target, marked
        )
        if "rivals" in notes:
            found["rivals"] = notes["rivals"]
        certificate: Certificate = facts["certificate"]
        claims = certificate.claims
        if self.target is not None:
            claims = (*claims, claim_of(found, self.target))
        made = Certificate(claims, certificate.hashes, certificate.versions, certificate.seed)
        return {**facts, "certificate": made, "latency": found}


def _once(
    folder: RunFolder | None, ranks: Ranks, name: str, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Times are those of the first process."""

    def found() -> dict[str, Any]:
        return compute() if folder is None else folder.once(name, compute, records=RECORDS)

    return ranks.lead(found, records=RECORDS)


def figures(
    bench: Workbench, small: nn.Module, plan: Plan, table: TimeTable, example: Example,
    timing: Timing, target: Target | None, trials: list[dict[str, float]],
) -> dict[str, Any]:  # fmt: skip
    """Dense and cut network in turn once more, on the weights that are given back; and layer by layer."""
    seen = compare(bench.model, small, example, timing, patience=2.0)
    model = LatencyModel(bench.graph, table)
    kept = kept_of(plan, bench.graph)
    return {
        "setting": dict(table.setting),
        "budget": {}
        if target is None
        else {k: v for k, v in target.__dict__.items() if v is not None},
        "predicted_ms": model(kept),
        "measured": seen,
        "note": table.note,
        "trials": trials,
        "layers": per_layer(bench, small, model, kept, example, timing),
    }


def per_layer(
    bench: Workbench, small: nn.Module, model: LatencyModel, kept: np.ndarray, example: Example,
    timing: Timing,
) -> list[dict[str, Any]]:  # fmt: skip
    """Predicted and measured milliseconds of every contraction, and of all other calls by kind."""
    before, after = model.layers(model.sizes), model.layers(kept)
    names = [row.node for row in model.table.layers]
    seen: Mapping[str, float] = {}
    if timing.backend == "eager":
        device = device_of(small)
        with threads(timing.threads):
            inputs = inputs_for(example, timing, device)
            twin = cast(small, timing)
            steps = Stepper(Replay(twin, *inputs, check=False), twin, inputs)
            steps.run()
            times = np.median([steps.run() for _ in range(timing.rounds)], axis=0)
            seen = dict(zip(steps.names, times.tolist(), strict=True))
    inside, outside = model.inside.widths(kept), model.outside.widths(kept)
    rows: dict[tuple[str, bool], dict[str, Any]] = {}  # a module may be called like an operation
    for i, row in enumerate(model.table.layers):
        heavy = row.kind in ("conv", "depthwise", "linear")
        name = row.where if heavy else row.kind
        while heavy and (name, heavy) in rows:  # a module that is called more than once
            name += "'"
        found = rows.setdefault(
            (name, heavy),
            {"name": name, "kind": row.kind if heavy else "", "calls": 0, "widths": [], "dense_ms": 0.0,
             "predicted_ms": 0.0, "measured_ms": 0.0},
        )  # fmt: skip
        found["calls"] += 1
        found["dense_ms"] += float(before[i])
        found["predicted_ms"] += float(after[i])
        found["measured_ms"] += seen.get(names[i], math.nan)
        if heavy:
            found["widths"] = [
                row.inside.full,
                row.outside.full,
                round(inside[i]),
                round(outside[i]),
            ]
    for found in rows.values():
        if not math.isfinite(found["measured_ms"]):
            found["measured_ms"] = None
    heavy_rows = [r for r in rows.values() if r["kind"]]
    light = sorted((r for r in rows.values() if not r["kind"]), key=lambda r: -r["dense_ms"])
    return heavy_rows + light


def claim_of(found: Mapping[str, Any], target: Target) -> Claim:
    """A figure that was measured once, on one machine: nobody can hold another machine to it."""
    seen = found["measured"]
    absolute = target.latency is None
    value = seen["small_ms"] if absolute else seen["ratio"]
    limit = target.latency_ms if target.latency is None else target.latency
    assert limit is not None  # a target has one of the two
    return Claim(
        name=CLAIM,
        statement=(
            f"latency when this was made: {seen['small_ms']:.3g} ms of {seen['dense_ms']:.3g} ms "
            f"(budget {target.words()}); measured once, not rechecked"
        ),
        passed=target.excess(seen) <= 1 + ALLOWED,
        value=value,
        tolerance=limit * (1 + ALLOWED),
        data=f"one example input, {brief(found['setting'])}",
        how=f"median over {seen['pairs']} pairs of dense and cut network in turn; {ALLOWED:.0%} for the stopwatch",
        detail=dict(seen),
    )
