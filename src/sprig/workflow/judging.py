"""What a finished cut is worth: claims, costs, times, quality, and the curve over the whole path."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sprig.core import certify, optimality
from sprig.core.batches import as_batches, unpack
from sprig.core.cost import cost
from sprig.core.example import Example
from sprig.core.latency import latency
from sprig.core.outputs import logits_of
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.store import sha256_model
from sprig.core.types import Certificate, CurvePoint, Measures
from sprig.core.workbench import Workbench, silent
from sprig.training.evaluate import accuracy, agreement

BATCHES = (1, 32)  # sizes at which latency is measured


def judge(
    bench: Workbench, path: Path, plan: Plan, wide: nn.Module, small: nn.Module, example: Example,
    limits: Mapping[str, float], triples: Any, eval_data: Any, notes: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Claims, costs, times and quality; nothing in the other processes, once they have done their part."""
    graph, seed = bench.graph, bench.seed
    bench.progress("certificate", 0, 4)
    lost = certify.layer_errors(
        bench, wide, plan, label="calibration", description=triples.description
    )
    if not bench.ranks.first:
        return {}
    claims = certify.masked_equals_shrunk(bench.model, small, plan, graph, example, seed)
    claims += certify.recount(small, plan, graph, example, limits)
    hashes = {"plan": plan.hash, "dense": sha256_model(bench.model), "weights": sha256_model(small)}
    hashes["data_calibration"] = triples.digest()
    bench.progress("certificate", 1, 4)
    claims.append(lost)
    held_out = as_batches(eval_data) if eval_data is not None else None
    bench.progress("certificate", 2, 4)
    if held_out is not None:
        hashes["data_held-out"] = held_out.digest()
        other = Workbench(bench.model, graph, list(held_out), seed, silent, views=held_out.views)
        claims.append(
            certify.layer_errors(
                other, wide, plan, label="held-out", description=held_out.description
            )
        )
    claims += optimality.floors(path, plan, triples.description)
    claims += optimality.submodularity(notes.get("submodularity", {}), triples.description)
    claims += optimality.rates(notes.get("rates", {}), triples.description)
    bench.progress("certificate", 3, 4)
    data = held_out if held_out is not None else triples
    before = _measures(bench.model, None, cost(graph), example, data)
    after = _measures(small, bench.model, cost(graph, plan.masks(graph)), example, data)
    bench.progress("certificate", 4, 4)
    return {
        "certificate": Certificate(tuple(claims), hashes, certify.versions(), seed),
        "before": before,
        "after": after,
        "judged_on": "held-out data" if held_out is not None else "the calibration data",
    }


def _measures(
    model: nn.Module,
    dense: nn.Module | None,
    total: Mapping[str, int],
    example: Example,
    data: Any,
) -> Measures:
    times = {str(b): latency(model, example, batch=b) for b in BATCHES}
    return Measures(
        total["macs"], total["params"], total["bytes"], times, quality(model, dense, data)
    )


def quality(model: nn.Module, dense: nn.Module | None, data: Any) -> dict[str, float]:
    """Accuracy where labels are of the model's own classes; agreement with the dense network, if given."""
    found: dict[str, float] = {}
    batches = _raw(data)
    model = copy.deepcopy(model).eval()
    args, kwargs, target = unpack(next(iter(batches)))
    with torch.no_grad():
        output = model(*args, **kwargs)
    own = logits_of(output)
    scores = output if own is None else own
    flat = isinstance(scores, torch.Tensor) and scores.dim() == 2 and scores.shape[1] > 1
    logits = flat or (own is not None and own.dim() > 2)
    classes = getattr(
        batches, "classes", None
    )  # folders of another set of classes are not the model's
    # labels of a sequence may be shifted against its logits: they say nothing without the model's own loss
    plain = own is None or own.dim() != 3
    fits = classes is None or not flat or classes == scores.shape[1]
    if target is not None and plain and fits:
        found["accuracy"] = accuracy(model, batches)
    if dense is not None:
        answer = agreement(dense, model, batches, logits=logits)
        named = {
            "agreement": answer.top1,
            "agreement_confident": answer.confident_top1,
            "kl": answer.kl,
            "relative_error": None if logits else answer.relative_error,
            "cosine": None if logits else answer.cosine,
        }
        found |= {k: v for k, v in named.items() if v is not None}
    return found


def _raw(data: Any) -> Any:
    return data.source if hasattr(data, "source") else data


def curve(
    path: Path, plan: Plan, measured: Mapping[str, float], *, points: int = 24
) -> tuple[CurvePoint, ...]:
    """Cost and predicted harm along the whole path; what was measured, at the chosen point."""
    if not path.harm:
        return ()
    dense = cost(path.graph)
    least = path.allocator.models["macs"](path.allocator.least()) / dense["macs"]
    rows = []
    for i in range(points):
        fraction = 1 - (1 - least) * i / (points - 1) * 0.999
        here = path.plan(path.allocator.sizes({"macs": fraction * dense["macs"]}))
        rows.append(
            CurvePoint(
                fraction, int(here.cost["macs"]), int(here.cost["params"]), path.predicted(here)
            )
        )
    rows.append(
        CurvePoint(
            plan.cost["macs"] / dense["macs"],
            plan.cost["macs"],
            plan.cost["params"],
            path.predicted(plan),
            dict(measured),
        )
    )
    return tuple(sorted(rows, key=lambda p: -p.macs))
