"""The checks behind a certificate: each gives a claim with its number, tolerance, data, and how it was checked."""

import copy
import platform
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.batches import map_tensors
from sprig.core.batches import tensors as leaves
from sprig.core.chunks import Chunk
from sprig.core.collect import live_rows
from sprig.core.cost import cost
from sprig.core.example import Example, Inputs, inputs_of, per_sample, samples_of
from sprig.core.graph import canonical_names
from sprig.core.join import recounted
from sprig.core.parts import listening
from sprig.core.plan import Plan
from sprig.core.replay import state_of
from sprig.core.seams import each_part, plan_of
from sprig.core.surgery import mask_
from sprig.core.tracing import distance
from sprig.core.types import Claim, Graph
from sprig.core.wide import held
from sprig.core.workbench import Workbench

DOUBLE, SINGLE = 1e-9, 1e-4  # relative, see design of the certificate
PROBES = 4


def probe_inputs(example: Example, seed: int) -> Inputs:
    """The example inputs, and noise of the same spread for floating ones; whole numbers stay with both."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = inputs_of(example), samples_of(example)

    def noisy(t: Any) -> Any:
        if not per_sample(t, samples):
            return t
        if not t.is_floating_point():
            return torch.cat([t, t])
        noise = torch.randn(t.shape, generator=generator).to(t)
        return torch.cat([t, noise * t.std().clamp_min(1e-3) + t.mean()])

    if not any(per_sample(t, samples) and t.is_floating_point() for t in leaves(inputs)):
        return inputs
    args, kwargs = map_tensors(inputs, noisy)
    return args, kwargs


def _cast(tensor: Tensor, *, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def widen(model: nn.Module, small: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
    """The masked network of a shrunk one: its weights put back in the original shapes, zeros elsewhere."""
    masks = plan.masks(graph)
    twin = copy.deepcopy(model)
    wide = dict(twin.named_parameters()) | dict(twin.named_buffers())
    slots: dict[str, dict[int, np.ndarray]] = {}
    for slot in graph.slots:
        slots.setdefault(slot.tensor, {})[slot.dim] = slot.axis.keep(masks)
    canonical = canonical_names(model)
    narrow = dict(small.named_parameters()) | dict(small.named_buffers())
    with torch.no_grad():
        for name, value in narrow.items():
            target = wide[canonical.get(name, name)]
            keeps = slots.get(canonical.get(name, name), {})
            index = [torch.arange(s) for s in target.shape]
            for dim, keep in keeps.items():
                index[dim] = torch.from_numpy(np.flatnonzero(keep))
            if target.dim() == 0:
                target.copy_(value)
            else:
                target[torch.meshgrid(*index, indexing="ij")] = value.to(target)
    return mask_(twin, masks, graph)


def masked_equals_shrunk(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    graph: Graph,
    example: Example,
    seed: int,
) -> list[Claim]:
    """The shrunk module gives what the masked network gives, in both precisions; in one, if the model insists on it."""
    inputs = probe_inputs(example, seed)
    given, probed = samples_of(example), samples_of(tuple(leaves(inputs)))
    wide = widen(model, small, plan, graph)
    claims, alone = [], ""
    for label, dtype, tolerance in (
        ("float64", torch.float64, DOUBLE),
        ("float32", torch.float32, SINGLE),
    ):
        args, kwargs = map_tensors(inputs, partial(_cast, dtype=dtype))
        with held(dtype is torch.float64):
            try:
                a = _answers(copy.deepcopy(wide).eval().to(dtype), graph, args, kwargs)
            except RuntimeError as error:
                if dtype is not torch.float64:
                    raise
                alone = f"; the model does not run in float64: {str(error).partition(chr(10))[0]}"
                continue
            b = _answers(copy.deepcopy(small).eval().to(dtype), graph, args, kwargs)
        gap = max(distance(x, y) for x, y in zip(a, b, strict=True))
        claims.append(
            Claim(
                name=f"masked-equals-shrunk-{label}",
                statement=f"the shrunk network computes what the masked one computes ({label})",
                passed=gap <= tolerance,
                value=gap,
                tolerance=tolerance,
                data=f"{probed} inputs: the example"
                + (f" and noise of its spread, seed {seed}" if probed > given else ""),
                how="largest difference of outputs over largest output"
                + (", of the whole and of each part" if graph.parts else "")
                + alone,
            )
        )
    return claims


def _answers(model: nn.Module, graph: Graph, args: Any, kwargs: Any) -> list[Any]:
    """What the model gives, and what its parts give: a whole may hide what happens in it, e.g. behind a threshold."""
    with torch.no_grad(), listening(model, [p.name for p in graph.parts]) as heard:
        found = [model(*args, **kwargs)]
    return found + [heard.outputs.get(p.name) for p in graph.parts]


def recount(
    small: nn.Module,
    plan: Plan,
    graph: Graph,
    example: Example,
    limits: Mapping[str, float],
) -> list[Claim]:
    """Cost predicted from the graph, counted again on the shrunk module; and every limit is met."""
    again = recounted(small, graph, example)
    again["params"] = sum(p.numel() for p in small.parameters())
    claims = []
    predicted = cost(graph, plan.masks(graph))
    for unit in ("macs", "params", "bytes"):
        gap = abs(again[unit] - predicted[unit])
        claims.append(
            Claim(
                name=f"recount-{unit}",
                statement=f"{unit} predicted from the plan equal a recount on the shrunk network",
                passed=gap == 0,
                value=float(gap),
                tolerance=0.0,
                data="the shrunk network",
                how="the shrunk module is exported and counted anew",
                detail={"predicted": predicted[unit], "recounted": again[unit]},
            )
        )
    for unit, limit in limits.items():
        claims.append(
            Claim(
                name=f"budget-{unit}",
                statement=f"{unit} stay within the budget",
                passed=again[unit] <= limit,
                value=float(again[unit]),
                tolerance=float(limit),
                data="the shrunk network",
                how="recount against the budget",
            )
        )
    return claims


def layer_errors(
    bench: Workbench, small_wide: nn.Module, plan: Plan, *, label: str, description: str
) -> Claim:
    """Error of every consumer's kept outputs, pruned against dense, on stated inputs. A figure, not a promise."""
    if bench.graph.parts:
        return _part_errors(bench, small_wide, plan, label=label, description=description)
    replay, graph = bench.replay, bench.graph
    weights, masks = state_of(small_wide), plan.masks(graph)
    rows = {(s.tensor, s.dim): s.axis.keep(masks) for s in graph.slots}
    kept = {
        c.node: rows.get((c.weight, int(c.transposed)), np.ones(c.out, dtype=bool))
        for c in graph.consumers
    }
    layer_of = {c.node: c.weight for c in graph.consumers}
    axis_of = {c.node: 1 if c.kind == "conv" else -1 for c in graph.consumers}
    sums = {n: np.zeros((4, int(k.sum()))) for n, k in kept.items()}  # count, lost, sum, squares
    seen: dict[str, Tensor] = {}

    def remember(name: str, chunk: Chunk) -> Any:
        def watch(inputs: tuple[Tensor, ...], output: Tensor) -> None:
            count = live_rows(bench, output, chunk.rows)
            part = output[:count].movedim(axis_of[name], -1)
            rows_of = part.reshape(-1, part.shape[-1])
            live = bench.live_tokens(chunk, output, layer_of[name])
            if live is not None:
                rows_of = rows_of[live[:count].flatten()]
            seen[name] = rows_of[:, torch.from_numpy(kept[name])].double()

        return watch

    for chunk in bench.chunks:
        watches = {replay.index[n]: remember(n, chunk) for n in kept}
        end = max(watches, default=-1) + 1
        live = replay.start(chunk.args, chunk.kwargs, chunk.rows)
        replay.advance(live.fork(), bench.weights, end, watches)
        dense = dict(seen)
        replay.advance(live, weights, end, watches)
        for name, a in dense.items():
            gap = (seen[name] - a).square().sum(0)
            rows_here = torch.full_like(gap, len(a))
            sums[name] += torch.stack([rows_here, gap, a.sum(0), a.square().sum(0)]).cpu().numpy()
    for name in sums:
        bench.ranks.add_(torch.from_numpy(sums[name]))
    errors = {}
    for consumer in graph.consumers:
        rows_seen, lost, total, squares = sums[consumer.node]
        power = float((squares - total**2 / np.maximum(rows_seen, 1)).sum())
        name = (
            consumer.weight
            if consumer.weight not in errors
            else f"{consumer.weight} ({consumer.node})"
        )
        errors[name] = float(lost.sum()) / power if power > 0 else 0.0
    return _stated(errors, label, description)


def _part_errors(
    bench: Workbench, small_wide: nn.Module, plan: Plan, *, label: str, description: str
) -> Claim:
    """The same for every part, on what it gets in the dense network."""
    found = each_part(
        bench,
        lambda own, part: layer_errors(
            own,
            small_wide.get_submodule(part.name),
            plan_of(plan, bench.graph, part),
            label=label,
            description=description,
        ),
    )
    errors = {
        f"{part.name}.{layer}": error
        for part, claim in found
        for layer, error in claim.detail["errors"].items()
    }
    return _stated(errors, label, f"{description}, as the dense network hands it to each part")


def _stated(errors: Mapping[str, float], label: str, description: str) -> Claim:
    worst = max(errors.values(), default=0.0)
    return Claim(
        name=f"layer-errors-{label}",
        statement=f"share of its output that the worst layer loses on {label} inputs is as stated",
        passed=bool(np.isfinite(worst)),
        value=worst,
        tolerance=None,
        data=description,
        how="squared difference of each layer's kept outputs over their spread, pruned against dense",
        detail={"errors": dict(errors)},
    )


def same(name: str, statement: str, found: str, expected: str, what: str) -> Claim:
    """Two hashes agree."""
    return Claim(
        name=name,
        statement=statement,
        passed=found == expected,
        value=float(found != expected),
        tolerance=0.0,
        data=what,
        how="sha256",
        detail={"found": found, "expected": expected},
    )


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


__all__ = [
    "layer_errors",
    "masked_equals_shrunk",
    "recount",
    "same",
    "versions",
    "widen",
]
