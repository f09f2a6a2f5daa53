"""The whole story: trace, search, plan, realise, shrink, certify, save."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from sprig.core.allocate import check_reachable
from sprig.core.cost import shares
from sprig.core.errors import InputError
from sprig.core.example import Example, inputs_of, pack
from sprig.core.folder import MODEL, REPORT, RunFolder
from sprig.core.norms import Norms
from sprig.core.numbers import numbers
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.store import save_run, sha256_file
from sprig.core.surgery import mask as mask_with
from sprig.core.surgery import shrunk
from sprig.core.timing import Timing
from sprig.core.types import (
    Budget,
    Certificate,
    Graph,
    GroupRow,
    Measures,
    Outcome,
    RunRecord,
)
from sprig.core.workbench import Progress, Workbench
from sprig.training.bn import reestimate_batch_norm
from sprig.workflow.asked import asked, check_same
from sprig.workflow.begin import bench_for, open_folder, stage
from sprig.workflow.judging import curve, judge
from sprig.workflow.recheck import EXAMPLE, MODULES, SHAPES
from sprig.workflow.rival import better
from sprig.workflow.speed import CLAIM, Speed


@dataclass(frozen=True, eq=False)
class Result:
    """What `prune` gives back."""

    model: nn.Module  # smaller, same class, no trace of sprig in it
    plan: Plan
    certificate: Certificate
    before: Measures
    after: Measures
    record: RunRecord
    path: Path
    graph: Graph
    example: Example = ()
    numbers: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict
    )  # heads and the like, told to modules
    samples: int | None = (
        None  # calibration inputs that were used, where they are not all that were given
    )

    def save(self, folder: str | os.PathLike[str]) -> FilePath:
        """Write a run folder: weights as safetensors, everything else as JSON."""
        out = RunFolder.create(folder)
        _write(out, self)
        out.finish()
        return out.path

    def report(self, file: str | os.PathLike[str]) -> FilePath:
        """Write the one-file HTML report."""
        from sprig.report import render_html

        path = FilePath(file)
        path.write_text(render_html(self.record), encoding="utf-8")
        return path


def search(
    model: nn.Module,
    example_inputs: Example,
    data: Any,
    *,
    method: str = "refit",
    config: Any = None,
    modules: Sequence[str] | str | None = None,
    round_to: int = 1,
    alike: bool = False,
    exclude: Sequence[str] = (),
    norms: Norms = "keep",
    timing: Timing | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    processes: bool = False,
) -> Path:
    """One calibration pass; the path it gives back answers every budget with `path.at(budget)`.

    `modules`, `alike`, `exclude`, `processes`: see `prune`. `timing`: also measure the layers on this machine, so that
    the path answers budgets of latency.
    """
    bench, chosen, settings, _ = bench_for(
        model,
        example_inputs,
        data,
        method,
        config,
        seed,
        progress,
        norms,
        modules,
        processes,
        exclude,
    )
    table, _ = Speed(bench, example_inputs, None, timing).begin(None)
    return replace(chosen.search(bench, settings), round_to=round_to, alike=alike, table=table)


def prune(
    model: nn.Module,
    example_inputs: Example,
    data: Any,
    budget: Budget | None,
    *,
    method: str = "refit",
    config: Any = None,
    path: Path | None = None,
    batch_norm: bool | None = None,
    eval_data: Any = None,
    folder: RunFolder | str | os.PathLike[str] | None = None,
    resume: bool = False,
    modules: Sequence[str] | str | None = None,
    round_to: int = 1,
    alike: bool = False,
    exclude: Sequence[str] = (),
    norms: Norms = "keep",
    timing: Timing | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    processes: bool = False,
) -> Result:
    """Cut a trained model to a budget without retraining.

    `example_inputs`: a tuple of the model's arguments, or a dict of its keyword arguments. `data`: any iterable of
    batches (tensors, (input, target) pairs, dicts); where a batch has an `attention_mask`, padding is left out of all
    that is measured. Labels are used only by methods that say so. `folder`: write a restartable run there. `path`: a
    search made before. `eval_data`: what quality is measured on; without it, agreement is measured on the calibration
    inputs and the record says so. `timing`: what a budget of latency holds for; the layers are measured, the plan is
    confirmed end to end and corrected. `norms`: "cut" lets channels leave that norms are taken over, see `trace`.
    `modules`: names of submodules, or "auto", for a model that cannot be exported as a whole: only what lies inside
    them is pruned, on what they get while the whole model runs; the budget is still of the whole model (see
    docs/budgets.md). `alike`: groups whose names differ in numbers only keep as many units each. `exclude`: names of
    groups, or patterns of them, that stay whole. `processes`: share the work among the processes of torch.distributed's
    group, all of which call this alike, with the same data; the plan is the same as of one process, and
    only the first writes the folder (see docs/distributed.md).

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> result = prune(net, (x[:2],), [x], Budget(macs=0.5))
    >>> result.model[0].out_features <= 16, result.certificate.passed
    (True, True)
    """
    bench, chosen, settings, triples = bench_for(
        model,
        example_inputs,
        data,
        method,
        config,
        seed,
        progress,
        norms,
        modules,
        processes,
        exclude,
    )
    args, named = inputs_of(example_inputs)
    example: Example = named or args
    speed = Speed(bench, example, budget, timing)
    limits = speed.limits()
    check_reachable(bench.graph, limits)
    if folder is not None:
        pack(example)  # refuse what no folder can hold before the work, not after it
    ranks = bench.ranks
    made = asked(method, settings, budget, round_to, alike, exclude, seed, bench.graph)
    made |= {"norms": norms} | speed.settings
    out: RunFolder | None = None

    def opened() -> None:
        nonlocal out
        out = open_folder(folder, resume)
        if out is not None:
            out.keep("settings", made) if out.stage("settings") is None else check_same(out, made)

    ranks.lead(opened)
    try:
        table, least = speed.begin(out, round_to)
    except InputError:
        if out is not None and not isinstance(folder, RunFolder):
            out.discard()  # as any other refusal: nothing is left that would stand in the way of a corrected call
        raise

    def searched() -> dict[str, Any]:
        found = path if path is not None else chosen.search(bench, settings)
        if chosen.floors is not None:
            found = chosen.floors(bench, found, settings)
        return {
            "groups": dict(found.groups),
            "harm": dict(found.harm),
            "chosen": dict(found.chosen),
            "record": dict(found.record),
        }

    saved = stage(out, ranks, "search", searched)
    found = Path(
        graph=bench.graph, groups=saved["groups"], harm=saved["harm"], method=method,
        config=made["config"], seed=seed, round_to=round_to, alike=alike, chosen=saved["chosen"],
        record=saved["record"], table=table,
    )  # fmt: skip
    plans, trials = speed.plan(out, found, least)

    def fitted(on: Workbench, plan: Plan) -> Outcome:
        outcome = chosen.realise(on, plan, settings)
        renew = batch_norm if batch_norm is not None else method != "refit"
        return ranks.lead(lambda: _with_batch_norm(bench, outcome, triples)) if renew else outcome

    def realised() -> Outcome:
        return better(bench, plans, fitted, triples)

    outcome = stage(out, ranks, "refit", realised)
    wide = mask_with(bench.model, outcome, bench.graph)
    small = shrunk(wide, outcome.plan.masks(bench.graph), bench.graph)
    small.train(model.training)
    plan = outcome.plan

    def judged() -> dict[str, Any]:
        facts = judge(
            bench, found, plan, wide, small, example, limits, triples, eval_data, outcome.notes
        )
        if not ranks.first:
            return {}  # what the first process found is what all get
        return speed.judged(facts, small, plan, table, trials, outcome.notes)

    facts = stage(out, ranks, "facts", judged)
    record = _record(bench, found, plan, model, made, facts)
    result = Result(
        model=small, plan=plan, certificate=facts["certificate"], before=facts["before"],
        after=facts["after"], record=record, path=found, graph=bench.graph, example=example,
        numbers=numbers(wide, plan.masks(bench.graph), bench.graph),
        samples=bench.samples if triples.part else None,
    )  # fmt: skip

    def written() -> None:
        if out is not None:
            _write(out, result)
            if not isinstance(folder, RunFolder):
                out.finish()

    ranks.lead(written)
    return result


# ---- pieces of the story ---------------------------------------------------------------------------


def _with_batch_norm(bench: Workbench, outcome: Outcome, triples: Any) -> Outcome:
    """Batch norm re-estimated on the masked network: same statistics as on the shrunk one."""
    wide = mask_with(bench.model, outcome, bench.graph)
    names = [n for n, _ in wide.named_buffers() if n.endswith(("running_mean", "running_var"))]
    if not reestimate_batch_norm(wide, triples.source):
        return outcome
    state = dict(wide.named_buffers())
    fresh = {n: state[n].detach().clone() for n in names}
    return replace(outcome, weights={**outcome.weights, **fresh})


def _record(
    bench: Workbench, path: Path, plan: Plan, model: nn.Module, made: Mapping[str, Any], facts: Mapping[str, Any]
) -> RunRecord:  # fmt: skip
    graph = bench.graph
    share = shares(graph)
    rows = []
    for group in graph.groups:
        found = path.groups.get(group.name)
        rows.append(
            GroupRow(
                name=group.name,
                size=group.size,
                kept=plan.keep.get(group.name, tuple(range(group.size))),
                reason=group.reason,
                macs_share=share[group.index],
                errors=found.errors if found else (),
                floor=found.floor if found else (),
                hurt=tuple(path.harm.get(group.name, ())),
            )
        )
    config = {
        **made,
        "search": dict(path.record),
        "judged_on": facts["judged_on"],
        "model_class": type(model).__name__,
        **{k: facts[k] for k in ("latency",) if k in facts},
    }
    return RunRecord(
        title=type(model).__name__,
        config=config,
        plan=plan,
        certificate=facts["certificate"],
        before=facts["before"],
        after=facts["after"],
        groups=tuple(rows),
        curve=curve(path, plan, facts["after"].quality),
    )


def _write(folder: RunFolder, result: Result) -> None:
    """All files of a finished run."""
    folder.put_model(result.model)
    hashes = {**result.certificate.hashes, "weights_file": sha256_file(folder / MODEL)}
    certificate = replace(result.certificate, hashes=hashes)
    record = replace(result.record, certificate=certificate)
    save_run(folder, record)
    folder.put_tree(
        "path.safetensors", {"groups": dict(result.path.groups), "harm": dict(result.path.harm)}
    )
    limits = {
        c.name.removeprefix("budget-"): c.tolerance
        for c in certificate.claims
        if c.name.startswith("budget-") and c.name != CLAIM
    }
    shapes = {
        n: list(t.shape)
        for n, t in [*result.model.named_parameters(), *result.model.named_buffers()]
    }
    tensors, form = pack(result.example)
    told = {"shapes": shapes, "limits": limits, "numbers": result.numbers, "example": form}
    if result.graph.parts:
        told[MODULES] = [part.name for part in result.graph.parts]
    if result.samples is not None:
        told["samples"] = result.samples
    folder.put_json(SHAPES, told)
    folder.put_tensors(EXAMPLE, tensors)
    result.report(folder / REPORT)
