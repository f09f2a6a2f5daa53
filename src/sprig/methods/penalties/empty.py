"""Zeros that make a network smaller: units of which nothing is left, taken out of it for good.

A unit may go where that changes nothing of what the network computes:

- nothing reads it: all its columns in all its consumers are zero; or
- it says nothing: all its rows in all its producers are zero, so that it is one constant for every input, and each
  consumer takes that constant over, into its bias, or into the running mean of the batch norm that alone reads it.
  Behind zero padding the constant has to be zero itself, since the border would differ.

What leaves can empty other units, so this is repeated until nothing changes.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.batches import map_tensors
from sprig.core.batches import tensors as leaves
from sprig.core.certify import probe_inputs
from sprig.core.errors import InputError
from sprig.core.example import Example, samples_of
from sprig.core.path import with_cost
from sprig.core.plan import Plan
from sprig.core.surgery import mask_, shrink_, state
from sprig.core.tracing import distance
from sprig.core.types import Claim, Consumer, Graph, device_of

CONSTANT = 1e-5  # relative: what rounding may do to a constant that a bias takes over


@dataclass(frozen=True, eq=False)
class Emptied:
    """What came of it."""

    model: nn.Module  # smaller
    plan: Plan
    gone: int  # units that left
    stuck: int  # units that are constant, with nowhere to put the constant


def without_empty(model: nn.Module, graph: Graph, example: Example, *, seed: int = 0) -> Emptied:
    """A copy without the units that are empty; the same function, smaller.

    >>> from sprig.core.tracing import trace
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    >>> graph, x = trace(net, (torch.ones(2, 3),)), torch.randn(5, 3)
    >>> with torch.no_grad():
    ...     _ = net[0].weight[1].zero_(), net[2].weight[:, 3].zero_()
    >>> found = without_empty(net, graph, (torch.ones(2, 3),))
    >>> found.plan.keep, bool(torch.allclose(found.model(x), net(x), atol=1e-6))
    ({'0': (0, 2)}, True)
    """
    if graph.parts:
        raise InputError("a graph of submodules alone says too little to take empty units out")
    wide = copy.deepcopy(model).eval()
    masks = {g.index: np.ones(g.size, dtype=bool) for g in graph.prunable}
    args, kwargs = map_tensors(probe_inputs(example, seed), lambda t: t.to(device_of(model)))
    stuck: set[tuple[int, int]] = set()
    while True:
        values = _heard(wide, graph, args, kwargs)
        before = sum(int(m.sum()) for m in masks.values())
        stuck = set()
        for group in graph.prunable:
            for unit in _silent(wide, graph, group.index, masks[group.index]):
                if masks[group.index].sum() == 1:
                    break
                if _free(wide, graph, group.index, unit, values):
                    masks[group.index][unit] = False
                else:
                    stuck.add((group.index, unit))
            mask_(wide, masks, graph)
        if sum(int(m.sum()) for m in masks.values()) == before:
            break
    names = {g.index: g for g in graph.groups}
    gone = sum(int((~m).sum()) for m in masks.values())
    plan = Plan(
        keep={names[g].name: tuple(np.flatnonzero(m).tolist()) for g, m in masks.items()},
        sizes={names[g].name: names[g].size for g in masks},
        graph=graph.fingerprint,
        method="empty",
        seed=seed,
    )
    small = shrink_(wide, plan.masks(graph), graph).train(model.training)
    return Emptied(small, with_cost(plan, graph), gone, len(stuck))


def _silent(model: nn.Module, graph: Graph, group: int, kept: np.ndarray) -> list[int]:
    """Units that nothing reads, or that no producer feeds, among those still there."""
    tensors = state(model)
    read, fed = np.zeros(len(kept), dtype=bool), np.zeros(len(kept), dtype=bool)
    for slot in graph.slots:
        mine = slot.axis.group == group
        tensor = tensors[slot.tensor]
        if not mine.any() or tensor.ndim < 2 or slot.role == "follower":
            continue
        alive = (tensor.detach() != 0).movedim(slot.dim, 0).flatten(1).any(1).cpu().numpy()
        target = read if slot.role == "consumer" else fed
        np.logical_or.at(target, slot.axis.unit[mine], alive[mine])
    return np.flatnonzero(kept & ~(read & fed)).tolist()


def _heard(
    model: nn.Module, graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """By consumer, the constant that each of its columns gets; NaN where it gets no constant."""
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    owners = {c.weight: modules.get(c.weight.removesuffix(".weight")) for c in graph.consumers}

    def listen(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        channels = inputs[0].movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
        low, high = channels.amin(1), channels.amax(1)
        value = torch.where(low == high, low, torch.nan)
        last = found.get(name)
        found[name] = value if last is None else torch.where(last == value, value, torch.nan)

    handles = [
        module.register_forward_pre_hook(partial(listen, name))
        for name, module in owners.items()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _free(
    model: nn.Module, graph: Graph, group: int, unit: int, values: Mapping[str, Tensor]
) -> bool:
    """Let every consumer take over what the unit gives it; False, with nothing changed, where one cannot."""
    moves: list[tuple[Tensor, Tensor]] = []
    tensors = state(model)
    for consumer in graph.consumers:
        mine = (consumer.axis.group == group) & (consumer.axis.unit == unit)
        if not mine.any():
            continue
        columns = torch.from_numpy(np.flatnonzero(mine)).to(device_of(model))
        weight = consumer.matrix(tensors).detach()[:, columns]
        if not bool((weight != 0).any()):
            continue  # nothing reads it here
        if consumer.weight not in values:
            return False
        value = values[consumer.weight][columns]
        if not bool(torch.isfinite(value).all()):
            return False
        if not bool((value != 0).any()):
            continue
        place = _place(consumer, tensors)
        if place is None:
            return False
        shift = weight.flatten(2).sum(2) @ value if weight.ndim > 2 else weight @ value
        moves.append((place, shift if consumer.bias is not None else -shift))
    with torch.no_grad():
        for place, shift in moves:
            place += shift
    return True


@torch.no_grad()
def take_over(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[int, np.ndarray],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> int:
    """Let readers take over what units that leave say to every input alike, in place; a model that is ours.

    A unit whose weights are all zero says what the layers behind it make of zero: a sigmoid makes 0.5 of it, a norm its
    shift. Gives the number of units that say such a constant to a reader with no place for it.
    """
    values = _heard(model, graph, args, kwargs)
    tensors, stuck = state(model), set[tuple[int, int]]()
    for consumer in graph.consumers:
        gone = ~consumer.axis.keep(masks)
        if consumer.weight not in values or not gone.any():
            continue
        value = values[consumer.weight]
        said = torch.from_numpy(gone).to(value.device) & torch.isfinite(value) & (value != 0)
        columns = said.nonzero()[:, 0]
        weight = consumer.matrix(tensors).detach()[:, columns]
        read = (weight != 0).movedim(1, 0).flatten(1).any(1)
        columns, weight = columns[read], weight[:, read]
        place = _place(consumer, tensors)
        if place is None:
            at = columns.cpu().numpy()
            stuck |= set(zip(consumer.axis.group[at].tolist(), consumer.axis.unit[at].tolist()))
        elif len(columns):
            shift = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
            place += (1 if consumer.bias is not None else -1) * (shift @ value[columns])
    return len(stuck)


def _place(consumer: Consumer, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Where a constant can go: the bias, or the mean of the one norm that reads the output."""
    shape = tensors[consumer.weight].shape
    whole = consumer.transposed or (consumer.kind == "conv" and shape[1] != len(consumer.axis.unit))
    if whole or any(consumer.padding):
        return None
    if consumer.bias is not None:
        return tensors[consumer.bias].detach()
    return tensors.get(f"{consumer.norm}.running_mean") if consumer.norm is not None else None


def same_function(model: nn.Module, small: nn.Module, example: Example, seed: int) -> Claim:
    """The smaller network answers as the given one does, where nothing but zeros was taken out of it."""
    inputs = probe_inputs(example, seed)
    args, kwargs = map_tensors(inputs, _double)
    with torch.no_grad():
        a, b = (copy.deepcopy(m).eval().double()(*args, **kwargs) for m in (model, small))
    gap = distance(a, b)
    return Claim(
        name="same-function",
        statement="the smaller network computes what the network with zeros computes",
        passed=gap <= CONSTANT,
        value=gap,
        tolerance=CONSTANT,
        data=f"{samples_of(tuple(leaves(inputs)))} inputs: the example, and noise of its spread, seed {seed}",
        how="largest difference of outputs over largest output, float64; constants were taken over in the weights' own "
        "precision",
    )


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


__all__ = ["Emptied", "same_function", "take_over", "without_empty"]
