"""Units of a graph as numbers: which entries of which parameters make a unit, and sums over them.

A unit is all that makes it: its rows in every producer of its group (so a residual stream is one), and the scales and
shifts that follow it. These sets do not overlap, so a group penalty's prox is exact. Columns of the readers belong to
no unit here: when everything that makes a channel is zero, what reads it gets zeros.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.types import Graph, Slot


@dataclass(frozen=True, eq=False)
class Units:
    """All units of all prunable groups, numbered through."""

    names: tuple[str, ...]  # parameters, in the order in which weights are given
    dims: tuple[int, ...]
    index: tuple[Tensor, ...]  # along that dimension, each entry's unit; `total` where it has none
    counts: Tensor  # (total,) weights in each unit
    group: Tensor  # (total,) index of its group
    number: Tensor  # (total,) its number in the group
    graph: Graph

    @property
    def device(self) -> torch.device:
        return self.counts.device

    @property
    def total(self) -> int:
        return len(self.counts)

    def sums(self, weights: Sequence[Tensor], term: Callable[[Tensor], Tensor]) -> Tensor:
        """Per unit the sum of `term` of its weights."""
        out = weights[0].new_zeros(self.total + 1)
        for weight, dim, index in zip(weights, self.dims, self.index):
            rows = term(weight).movedim(dim, 0).reshape(len(index), -1).sum(1)
            out = out.index_add(0, index.to(rows.device), rows)
        return out[:-1]

    def norms(self, weights: Sequence[Tensor]) -> Tensor:
        """Per unit the Euclidean length of its weights."""
        return self.sums(weights, torch.square).sqrt()

    def spread(self, values: Tensor, weights: Sequence[Tensor], *, other: float) -> list[Tensor]:
        """Each unit's number, shaped to multiply its weights; `other` for weights that have no unit."""
        padded = torch.cat([values, values.new_tensor([other])])
        out = []
        for weight, dim, index in zip(weights, self.dims, self.index):
            shape = [-1 if d == dim else 1 for d in range(weight.ndim)]
            out.append(padded[index.to(padded.device)].reshape(shape))
        return out

    def to(self, device: torch.device) -> "Units":
        """The same on another device."""
        moved = {k: getattr(self, k).to(device) for k in ("counts", "group", "number")}
        index = tuple(i.to(device) for i in self.index)
        return Units(self.names, self.dims, index, graph=self.graph, **moved)


def units_of(
    graph: Graph,
    model: nn.Module,
    allowed: Collection[str],
    *,
    among: Callable[[str], bool] | None = None,
) -> Units:
    """The units of the groups that may lose channels and are made by `allowed` parameters alone.

    `among` chooses the parameters that count, by name; groups without any are left out.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    free = {g.index for g in graph.prunable}
    if not free:
        reasons = sorted({g.reason or "" for g in graph.groups})
        raise InputError(
            "no group of this model may lose channels, so a penalty on groups has nothing to act on "
            f"({'; '.join(reasons[:3]) or 'no groups'}); take an unstructured one, e.g. halo"
        )
    makers = [
        s for s in graph.slots if s.role != "consumer" and s.tensor in graph_parameters(graph)
    ]
    for slot in makers:
        if slot.tensor not in allowed:
            free -= set(slot.axis.group.tolist())
    chosen: dict[str, Slot] = {}
    for slot in makers:
        if slot.tensor in parameters and free & set(slot.axis.group.tolist()):
            if among is None or among(slot.tensor):
                chosen.setdefault(slot.tensor, slot)
    present = {int(g) for s in chosen.values() for g in set(s.axis.group.tolist())} & free
    if not present:
        raise InputError(
            "none of the parameters that this penalty acts on belongs to a group that may lose channels; exclude "
            "fewer, or take an unstructured penalty, e.g. halo"
        )
    sizes = [g.size if g.index in present else 0 for g in graph.groups]
    offset = np.cumsum([0, *sizes])
    total = int(offset[-1])
    counts = torch.zeros(total + 1)
    index: list[Tensor] = []
    for name, slot in chosen.items():
        here = np.isin(slot.axis.group, list(present))
        where = torch.from_numpy(np.where(here, offset[slot.axis.group] + slot.axis.unit, total))
        each = parameters[name].numel() / parameters[name].shape[slot.dim]
        counts.index_add_(0, where, torch.full((len(where),), each))
        index.append(where)
    made = Units(
        names=tuple(chosen),
        dims=tuple(s.dim for s in chosen.values()),
        index=tuple(index),
        counts=counts[:-1],
        group=torch.tensor([g for g, n in enumerate(sizes) for _ in range(n)]),
        number=torch.tensor([u for n in sizes for u in range(n)]),
        graph=graph,
    )
    return made.to(next(iter(parameters.values())).device)


def graph_parameters(graph: Graph) -> set[str]:
    """Names of the parameters (not buffers) that the graph knows."""
    return {term.where for term in graph.terms if term.unit == "params"}
