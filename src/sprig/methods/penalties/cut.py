"""The cut at the end of a training with a penalty, by the size of weights or of units, with no retraining.

Unstructured: masks, True for what stays. They make zeros, not a smaller network. One threshold for all layers, or one
per layer; weights that are zero already never stay, and of equals at the threshold none does. Structured: a Plan, for
`sprig.shrink`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.allocate import targets
from sprig.core.cost import cost, prices
from sprig.core.errors import InputError
from sprig.core.path import with_cost
from sprig.core.plan import Plan
from sprig.core.types import Budget, Graph
from sprig.methods.penalties.units import Units

Masks = dict[str, Tensor]


def keep_largest(weights: Mapping[str, Tensor], keep: float, *, per_layer: bool = False) -> Masks:
    """Masks of the share `keep` of weights that are largest, over all tensors or in each.

    >>> keep_largest({"a": torch.tensor([3.0, -1.0, 0.0]), "b": torch.tensor([2.0])}, 0.5)
    {'a': tensor([ True, False, False]), 'b': tensor([True])}
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep is {keep}, expected a share of the weights in (0, 1]")
    if per_layer:
        return {n: keep_largest({n: w}, keep)[n] for n, w in weights.items()}
    sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    return _above(weights, sizes, int(keep * sizes.numel() + 1e-9))


def keep_within(
    weights: Mapping[str, Tensor], price: Mapping[str, Tensor | float], limit: float
) -> Masks:
    """The largest weights whose prices, per weight or row of each tensor, together stay within the limit."""
    sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    each = torch.cat([_each(price[n], w).flatten() for n, w in weights.items()])
    order = sizes.cpu().argsort(descending=True, stable=True)
    within = int((each[order].cumsum(0) <= limit * (1 + 1e-12)).sum())
    return _above(weights, sizes, within)


def _each(price: Tensor | float, weight: Tensor) -> Tensor:
    """The price of every weight of a tensor, given as one number or as one per row."""
    given = torch.as_tensor(price, dtype=torch.float64)
    return given.reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape)


def keep_evenly(
    weights: Mapping[str, Tensor], price: Mapping[str, Tensor | float], limit: float
) -> Masks:
    """As `keep_within`, but the same share of every tensor."""
    each = {n: _each(price[n], w) for n, w in weights.items()}
    share = min(1.0, limit / max(1e-30, sum(float(e.sum()) for e in each.values())))
    while True:  # again only where the rows of a tensor have different prices
        masks = keep_largest(weights, share, per_layer=True)
        paid = sum(float(e[masks[n].cpu()].sum()) for n, e in each.items())
        if paid <= limit * (1 + 1e-12):
            return masks
        share *= 0.99


def _above(weights: Mapping[str, Tensor], sizes: Tensor, count: int) -> Masks:
    """Masks of weights strictly larger than the largest of those beyond `count`."""
    if count <= 0:
        raise InputError("the cut would keep no weight at all; keep more")
    threshold = 0.0
    if count < sizes.numel():
        threshold = float(sizes.kthvalue(sizes.numel() - count).values)
    return {n: w.detach().abs() > threshold for n, w in weights.items()}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero what does not stay, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def within(masks: Mapping[str, Tensor], plan: Plan, graph: Graph) -> Masks:
    """The same masks, with False for all that leaves with the units of a plan."""
    out = {name: mask.clone() for name, mask in masks.items()}
    for name, dim, stays in _sides(masks, plan, graph):
        out[name].movedim(dim, 0)[~stays] = False
    return out


def narrowed(masks: Mapping[str, Tensor], plan: Plan, graph: Graph) -> Masks:
    """The masks of the network that is smaller by a plan."""
    out = dict(masks)
    for name, dim, stays in _sides(masks, plan, graph):
        out[name] = out[name].movedim(dim, 0)[stays].movedim(0, dim).contiguous()
    return out


def _sides(
    masks: Mapping[str, Tensor], plan: Plan, graph: Graph
) -> Iterator[tuple[str, int, Tensor]]:
    """By tensor and dimension, what stays of those that units of the graph run along."""
    keep = plan.masks(graph)
    for slot in graph.slots:
        if slot.tensor in masks:
            stays = torch.from_numpy(slot.axis.keep(keep))
            yield slot.tensor, slot.dim, stays.to(masks[slot.tensor].device)


def positions(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, float]:
    """How often one sample uses each weight of every convolution and linear layer: multiply-adds per weight."""
    names = {id(p): n for n, p in model.named_parameters()}
    found: dict[str, float] = {}
    batch = next(len(a) for a in (*args, *kwargs.values()) if isinstance(a, Tensor))

    def count(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            share = output.numel() / module.out_features
        elif "Transpose" in type(module).__name__:  # every weight meets every input position
            share = inputs[0].numel() / module.in_channels
        else:
            share = output.numel() / module.out_channels
        name = names.get(id(module.weight))
        if name is not None:  # else the weight is no parameter, and nothing can be cut from it
            found[name] = found.get(name, 0.0) + share / batch

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(*args, **kwargs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def keep_budget(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    budget: Budget,
    *,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    graph: Graph | None = None,
    per_layer: bool = False,
) -> Masks:
    """Masks until the non-zero parameters, or the multiply-adds with non-zero weights, are within a budget.

    Multiply-adds are those of the `graph`; without one, of convolutions and linear layers alone, counted on the inputs.
    """
    named = {"params": budget.params, "macs": budget.macs}
    asked = {unit: value for unit, value in named.items() if value is not None}
    if len(asked) != 1 or budget.bytes or budget.latency or budget.latency_ms:
        raise InputError(
            "masks make zeros, not a smaller network: their budget is one of params= or macs=, counted on what is "
            "not zero"
        )
    ((unit, value),) = asked.items()
    every = dict(model.named_parameters())
    price: dict[str, Tensor | float] = dict.fromkeys(every, 1.0)
    if unit == "macs":
        used: Mapping[str, Any] = (
            positions(model, args, dict(kwargs or {})) if graph is None else prices(graph)
        )
        price = {name: used.get(name, 0.0) for name in every}
    paid = {n: float(_each(price[n], p).sum()) for n, p in every.items()}
    dense = cost(graph)["macs"] if unit == "macs" and graph is not None else sum(paid.values())
    fixed = dense - sum(paid[n] for n in weights)
    limit = value * dense if value <= 1 else value
    if limit <= fixed:
        raise InputError(
            f"budget {unit}={limit:,.0f} is below what is not penalised, or multiplies no weight, and stays "
            f"({fixed:,.0f} of {dense:,.0f}); exclude less, or allow more"
        )
    return (keep_evenly if per_layer else keep_within)(weights, price, limit - fixed)


def keep_units(
    units: Units,
    scores: Tensor,
    *,
    keep: float | None = None,
    budget: Budget | None = None,
    per_layer: bool = False,
    relative: bool = True,
    method: str = "",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Plan:
    """The plan that keeps the units with the best scores; every group keeps at least one.

    `keep`: their share, over all groups or in each; `budget`: as much as it allows; neither: all that are not zero.
    What is zero never stays beyond that one unit: share and budget are upper limits.
    `relative`: units of different groups are compared by their score over the mean of their group, since a norm, or the
    layer behind, makes the scale of a layer's weights mean nothing; else by the score itself.
    """
    if keep is not None and budget is not None:
        raise InputError("give keep= or a budget, not both")
    if keep is not None and not 0 < keep <= 1:
        raise InputError(f"keep is {keep}, expected a share of the units in (0, 1]")
    if not bool(torch.isfinite(scores).all()):
        raise InputError("scores of units are not finite; the training diverged")
    ranked, alive = _ranked(
        units, scores.detach().cpu().double(), keep if per_layer else None, per_layer, relative
    )
    graph = units.graph
    if budget is None:
        count = alive if keep is None else min(alive, int(keep * units.total + 1e-9))
        masks = _first(units, ranked, count)
    else:
        limits = targets(budget, graph)
        low, high = 0, alive
        _refuse_unreachable(graph, limits, _first(units, ranked, 0))
        while high > low:
            middle = (low + high + 1) // 2
            fits = all(
                cost(graph, _first(units, ranked, middle))[u] <= limit * (1 + 1e-12)
                for u, limit in limits.items()
            )
            low, high = (middle, high) if fits else (low, middle - 1)
        masks = _first(units, ranked, low)
    names = {g.index: g for g in graph.groups}
    plan = Plan(
        keep={names[g].name: tuple(np.flatnonzero(m).tolist()) for g, m in masks.items()},
        sizes={names[g].name: names[g].size for g in masks},
        graph=graph.fingerprint,
        method=method,
        config=dict(settings or {}),
        seed=seed,
    )
    return with_cost(plan, graph)


def _ranked(
    units: Units, scores: Tensor, share: float | None, per_layer: bool, relative: bool
) -> tuple[Tensor, int]:
    """Numbers of the units, best first, and how many of them may stay: those that are not zero.

    Per layer they go by their place in their own group; `share`: of each group that may stay.
    """
    seen = units.counts.cpu() > 0
    alive = (scores > 0) | ~seen  # what is not seen stays
    if relative:
        group = units.group.cpu()
        sums = scores.new_zeros(int(group.max()) + 1).index_add(0, group, scores)
        means = sums / group.bincount().clamp_min(1)
        scores = torch.where(scores > 0, scores / means[group].clamp_min(1e-300), scores)
    counted = torch.where(seen, scores, torch.inf)
    if per_layer:
        places = torch.zeros_like(counted)
        for group in units.group.unique().tolist():
            mine = torch.nonzero(units.group.cpu() == group)[:, 0]
            order = counted[mine].argsort(descending=True, stable=True)
            places[mine[order]] = -torch.arange(len(mine)).double() / len(mine)
        counted = places
        if share is not None:
            alive &= places > -share
    counted = torch.where(alive, counted, -torch.inf)
    return counted.argsort(descending=True, stable=True), int(alive.sum())


def _first(units: Units, ranked: Tensor, count: int) -> dict[int, np.ndarray]:
    """Masks per group of the first `count` units, and of the best unit of every group."""
    group, number = units.group.cpu().numpy(), units.number.cpu().numpy()
    sizes = np.bincount(group)
    masks = {int(g): np.zeros(sizes[g], dtype=bool) for g in np.unique(group)}
    for place, unit in enumerate(ranked.tolist()):
        mask = masks[int(group[unit])]
        if place < count or not mask.any():
            mask[number[unit]] = True
    return masks


def _refuse_unreachable(
    graph: Graph, limits: Mapping[str, float], least: Mapping[int, np.ndarray]
) -> None:
    low, dense = cost(graph, least), cost(graph)
    for unit, limit in limits.items():
        if low[unit] > limit * (1 + 1e-12):
            raise InputError(
                f"budget {unit}={limit:,.0f} is below what is reachable: with one unit left in every group it is "
                f"{low[unit]:,} ({low[unit] / dense[unit]:.1%} of the dense network)"
            )
