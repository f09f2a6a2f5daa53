"""A method on a model of which only submodules could be traced: one search per part, one path for all.

The parts are searched in the order in which they run, each on what it gets while the whole dense model runs. Harm is
measured at a part's own outputs, so the harms of different parts are brought to one scale by trying each part's kind of
error in the whole model. The final weights are made on what each part gets when those before it are already cut.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sprig.core.batches import count
from sprig.core.errors import InputError
from sprig.core.harm import harm, looks_like_scores
from sprig.core.outputs import answer_of, logits_of
from sprig.core.parts import apart, listening, still, submodule
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.seams import bench_in, each_part, part_bench, path_of, plan_of, renamed, up
from sprig.core.surgery import mask_, put
from sprig.core.tracing import tensors_of
from sprig.core.types import GroupPath, Outcome, Part
from sprig.core.workbench import Workbench
from sprig.methods import Method

TRIED = 0.7  # share of every group that stays where a part's kind of error is tried
MILD = 0.1  # harm at the part's own outputs that the error is scaled down to
SAMPLES = 64  # calibration samples that the whole model is tried on


def in_parts(method: Method) -> Method:
    """The same method, for workbenches whose graph has parts."""
    return replace(
        method,
        search=partial(_search, method),
        realise=partial(_realise, method),
        floors=None if method.floors is None else partial(_floors, method),
        ratios=None if method.ratios is None else partial(_ratios, method),
    )


def check_labels(method: Method, settings: Any) -> None:
    """Refuse methods that lower a loss on labels: no part has any."""
    if method.labels and getattr(settings, "objective", "labels") == "labels":
        raise InputError(
            f"method {method.name!r} goes by labels, and the modules of a model have none; "
            "use another method, or its objective without labels"
        )


def _search(method: Method, bench: Workbench, config: Any) -> Path:
    found = each_part(bench, lambda own, part: method.search(own, config))
    rates = [1.0] * len(found)
    if len(found) > 1 and all(path.harm for _, path in found):
        tried = [exchange_rate(bench, part, path) for part, path in found]
        known = [rate for rate in tried if rate is not None]
        if len(known) == len(tried):
            least = 1e-6 * max(known) or 1.0
            rates = [max(rate, least) for rate in known]
    groups, harms = dict[str, GroupPath](), dict[str, tuple[float, ...]]()
    chosen, record = dict[str, int](), dict[str, float]()
    for (part, path), rate in zip(found, rates, strict=True):
        groups |= renamed(up(path.groups, bench.graph, part))
        own = {name: tuple(rate * h for h in curve) for name, curve in path.harm.items()}
        harms |= up(own, bench.graph, part)
        chosen |= up(path.chosen, bench.graph, part)
        record |= {f"{part.name}: {key}": value for key, value in path.record.items()}
        if len(found) > 1:
            record[f"{part.name}: harm to the whole per harm to the part"] = rate
    plain = found[0][1] if found else Path(bench.graph, {}, {}, method=method.name)
    return replace(
        plain, graph=bench.graph, groups=groups, harm=harms, chosen=chosen, record=record
    )


def _floors(method: Method, bench: Workbench, path: Path, config: Any) -> Path:
    assert method.floors is not None
    bounded = method.floors
    found = each_part(bench, lambda own, part: bounded(own, path_of(path, part), config))
    groups = dict(path.groups)
    for part, own in found:
        groups |= renamed(up(own.groups, bench.graph, part))
    return replace(path, groups=groups)


def _ratios(method: Method, bench: Workbench, plan: Plan, config: Any) -> dict[str, Any]:
    assert method.ratios is not None
    stated = method.ratios
    found = each_part(
        bench, lambda own, part: stated(own, plan_of(plan, bench.graph, part), config)
    )
    out: dict[str, Any] = {}
    for part, ratios in found:
        out |= up(ratios, bench.graph, part)
    return out


def _realise(method: Method, bench: Workbench, plan: Plan, config: Any) -> Outcome:
    """Weights part by part; each part's inputs are those of the network cut so far, its targets are its own."""
    graph, twin = bench.graph, copy.deepcopy(bench.model)
    weights: dict[str, Tensor] = {}
    keep, ratios, changed = dict(plan.keep), dict[str, Any](), False
    for part in graph.parts:
        own_plan = plan_of(plan, graph, part)
        if not own_plan.keep:
            continue
        dense = part_bench(bench, part)
        own = (bench_in(bench, part, twin) if changed else None) or dense
        outcome = method.realise(own, own_plan, config)
        module = submodule(twin, part.name)
        put(module, outcome.weights)
        mask_(module, outcome.plan.masks(part.graph), part.graph)
        changed = True
        names = dict(module.named_parameters()) | dict(module.named_buffers())
        first = {id(t): name for name, t in [*twin.named_parameters(), *twin.named_buffers()]}
        weights |= {first[id(names[name])]: value for name, value in outcome.weights.items()}
        keep |= up(outcome.plan.keep, graph, part)
        said = outcome.notes.get("submodularity")
        if said is not None and own is not dense and method.ratios is not None:
            said = method.ratios(dense, outcome.plan, config)  # on the data that all can make again
        ratios |= up(said or {}, graph, part)
    notes = {"submodularity": ratios} if ratios else {}
    return Outcome(with_cost(replace(plan, keep=keep), graph), weights, notes)


def exchange_rate(bench: Workbench, part: Part, path: Path) -> float | None:
    """Harm to the whole model per harm to the part's own outputs, for errors as cutting it makes them.

    Channels that the search gives least are zeroed in the part; what that changes of its outputs is scaled down and put
    into a run of the whole model. None where the outputs cannot be compared, e.g. lists of boxes.
    """
    sizes = {g.index: max(1, round(TRIED * g.size)) for g in part.graph.prunable}
    plan = path.plan({i: n for i, n in sizes.items() if part.graph.groups[i].name in path.groups})
    model = copy.deepcopy(bench.model)
    cut = copy.deepcopy(submodule(model, part.name))
    mask_(cut, plan.masks(part.graph), part.graph)
    whole = mine = 0.0
    seen = 0
    for args, kwargs, target in bench.triples:
        if seen >= SAMPLES:
            break
        seen += count((args, kwargs, target))
        with still(model), listening(model, [part.name]) as heard:
            dense = model(*apart(args), **apart(dict(kwargs)))
        if part.name not in heard.inputs:
            continue
        ((inner, named),), (output,) = heard.inputs[part.name], heard.outputs[part.name]
        with still(model):
            changed = cut(*apart(inner), **apart(named))
        own = float(harm(tensors_of(output), tensors_of(changed), scores=False).sum())
        if own <= 0:
            continue
        share = min(1.0, (MILD * len(_first(output)) / own) ** 0.5)
        with still(model), _answering(model, part.name, _between(output, changed, share)):
            moved = model(*apart(args), **apart(dict(kwargs)))
        a, b = tensors_of(answer_of(dense)), tensors_of(answer_of(moved))
        if not a or [t.shape for t in a] != [t.shape for t in b]:
            return None
        scores = looks_like_scores(a, named=logits_of(dense) is not None)
        whole += float(harm(a, b, scores=scores).sum()) / len(a[0])
        mine += own * share**2 / len(_first(output))
    return whole / mine if mine > 0 else None


def _first(output: Any) -> Tensor:
    return tensors_of(output)[0]


def _between(output: Any, changed: Any, share: float) -> Any:
    """Outputs a share of the way to the changed ones."""
    return pytree.tree_map(
        lambda a, b: a + share * (b - a) if isinstance(a, Tensor) and a.is_floating_point() else a,
        output,
        changed,
    )


def _answering(model: nn.Module, name: str, answer: Any) -> Any:
    """For the time of a `with`, the submodule gives this answer."""
    return submodule(model, name).register_forward_hook(lambda *_: answer)


__all__ = ["check_labels", "exchange_rate", "in_parts"]
