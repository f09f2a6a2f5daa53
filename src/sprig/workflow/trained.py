"""What a training with a penalty leaves in its run folder: the certificate of its cut, and rows for the report.

The dense network of such a run is the one that training ended with. It is kept beside the result, in the original
shapes, so that every claim can be checked again.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from sprig.core import certify
from sprig.core.allocate import targets
from sprig.core.example import Example, inputs_of, pack
from sprig.core.folder import MODEL, RunFolder
from sprig.core.numbers import numbers
from sprig.core.plan import Plan
from sprig.core.store import sha256_file, sha256_model
from sprig.core.types import Budget, Certificate, Graph
from sprig.core.workbench import Workbench, silent
from sprig.methods.penalties import views
from sprig.methods.penalties.cut import narrowed, within
from sprig.methods.penalties.empty import same_function, without_empty
from sprig.methods.penalties.ends import share_of
from sprig.methods.penalties.run import Shrunk
from sprig.methods.penalties.storage import stored
from sprig.training.evaluate import accuracy
from sprig.workflow.recheck import EXAMPLE, SHAPES, TRAINED, at_most

SAMPLES = 512  # inputs that the errors of layers are measured on
JUDGED = 2000  # held-out samples that other cuts are judged on


def keep_cut(
    folder: RunFolder,
    found: Shrunk,
    graph: Graph,
    example: Example,
    *,
    data: Any,
    eval_data: Any = None,
    budget: Budget | None = None,
    masked: nn.Module | None = None,
    seed: int = 0,
) -> Certificate:
    """Write the trained network, the smaller one and what is needed to check the cut again; gives its certificate.

    `masked`: the network with zeros, where taking them out is to change nothing: it then stands for the trained one.
    """
    plan, small = found.plan, found.model
    assert isinstance(plan, Plan)
    trained = copy.deepcopy(found.trained if masked is None else masked).eval()
    limits = {} if budget is None else dict(targets(budget, graph))
    claims = certify.masked_equals_shrunk(trained, small, plan, graph, example, seed)
    if masked is not None:
        claims.append(same_function(trained, small, example, seed))
    claims += certify.recount(small, plan, graph, example, limits)
    hashes = {"plan": plan.hash, "dense": sha256_model(trained), "weights": sha256_model(small)}
    wide = certify.widen(trained, small, plan, graph)
    for label, given in (("calibration", data), ("held-out", eval_data)):
        if given is None:
            continue
        triples = at_most(given, SAMPLES)
        hashes[f"data_{label}"] = triples.digest()
        bench = Workbench(
            copy.deepcopy(trained), graph, list(triples), seed, silent, views=triples.views
        )
        claims.append(
            certify.layer_errors(bench, wide, plan, label=label, description=triples.description)
        )
    tensors, form = pack(example)
    shapes = {n: list(t.shape) for n, t in [*small.named_parameters(), *small.named_buffers()]}
    told = {"shapes": shapes, "limits": limits, "example": form, "samples": SAMPLES}
    told["same"] = masked is not None
    told["numbers"] = numbers(trained, plan.masks(graph), graph)
    folder.put_json(SHAPES, told)
    folder.put_tensors(EXAMPLE, tensors)
    folder.put_model(trained, name=TRAINED)
    folder.put_model(small)
    hashes["weights_file"] = sha256_file(folder / MODEL)
    return Certificate(tuple(claims), hashes, certify.versions(), seed)


def take_out_empty(found: Shrunk, graph: Graph, example: Example, *, seed: int = 0) -> Shrunk:
    """A masked result without the units that its zeros emptied: a plan, and masks of what is left."""
    emptied = without_empty(found.model, graph, example, seed=seed)
    if not emptied.gone:
        note = "no unit is empty: the zeros are spread, and the network stays as large as it was"
        return replace(found, notes=(*found.notes, note))
    whole = within(found.whole, emptied.plan, graph)
    notes = list(found.notes)
    if emptied.stuck:
        notes.append(
            f"{emptied.stuck} units put out a constant that no consumer can take over (zero padding, or no bias); "
            "they stay"
        )
    return replace(
        found,
        model=emptied.model,
        plan=emptied.plan,
        masks=narrowed(found.masks, emptied.plan, graph),
        whole=whole,
        share=share_of(whole),
        notes=tuple(notes),
    )


def log_of(
    found: Shrunk, start: nn.Module, example: Example, *, data: Any, eval_data: Any = None
) -> tuple[Mapping[str, Any], ...]:
    """Every epoch, and what the report draws: survival, coefficients, other cuts (with `eval_data`), storage, ranks."""
    rows: list[dict[str, Any]] = [{"kind": "epoch", **row} for row in found.history]
    rows += [{"kind": "layer", **row} for row in views.survival(found.whole)]
    rows += [{"kind": "law", **row} for row in found.law]
    if eval_data is not None:
        judges = at_most(eval_data, JUDGED)

        def judge(model: nn.Module) -> float:
            return accuracy(copy.deepcopy(model).eval(), judges.source)

        if found.again is not None:
            rows += [{"kind": "sweep", **row} for row in views.sweep(found.again, judge)]
            rows.append({"kind": "sweep", "kept": 1.0, "quality": judge(found.trained)})
            rows.append(
                {"kind": "sweep", "kept": found.share, "quality": judge(found.model), "this": True}
            )
    args, kwargs = inputs_of(example)
    rows += [{"kind": "storage", **row} for row in stored(found.model, found.masks, args, kwargs)]
    some = at_most(data, SAMPLES)
    states = {"at the start": start, "trained": found.trained, "cut": found.model}
    rows += [{"kind": "spectrum", **row} for row in views.spectra(states, list(some.source))]
    rows += [{"kind": "note", "text": text} for text in found.notes]
    return tuple(rows)


__all__ = ["keep_cut", "log_of", "take_out_empty"]
