"""Units of a graph as numbers: which entries of which parameters make a unit, and sums over them.

A unit is all that makes it: its rows in every producer of its group (so a residual stream is one), and the scales and
shifts that follow it. These sets do not overlap, so a group penalty's prox is exact. Columns of the readers belong to
no unit here: when everything that makes a channel is zero, what reads it gets zeros.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.graph import GIVEN_BACK
from sprig.core.types import Graph, Slot
from sprig.methods.penalties.listwise import precision

SHOWN = 3  # names of groups told with a reason


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
        out = weights[0].new_zeros(self.total + 1, dtype=precision(weights))
        for weight, dim, index in zip(weights, self.dims, self.index):
            rows = term(weight.to(out.dtype)).movedim(dim, 0).reshape(len(index), -1).sum(1)
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
            out.append(padded[index.to(padded.device)].reshape(shape).to(weight.dtype))
        return out

    def inside(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """1 for weights that belong to a unit, 0 for those of channels that may not leave."""
        return self.spread(torch.ones_like(self.counts), weights, other=0.0)

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
    free -= set(excluded(graph, model, allowed))
    makers = _makers(graph)
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


def _makers(graph: Graph) -> list[Slot]:
    known = graph_parameters(graph)
    return [s for s in graph.slots if s.role != "consumer" and s.tensor in known]


def excluded(graph: Graph, model: nn.Module, allowed: Collection[str]) -> dict[int, str]:
    """Groups that could lose channels but that a parameter makes which may not be touched, and why."""
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    free = {g.index for g in graph.prunable}
    found: dict[int, str] = {}
    for slot in _makers(graph):
        if slot.tensor not in allowed:
            why = f"{slot.tensor} is {'not trained' if slot.tensor in frozen else 'excluded'}"
            for group in free & set(slot.axis.group.tolist()):
                found.setdefault(group, why)
    return found


def without(graph: Graph, spared: Mapping[int, str]) -> Graph:
    """The same graph, of which these groups may not lose channels."""
    groups = [replace(g, reason=g.reason or spared.get(g.index)) for g in graph.groups]
    return replace(graph, groups=tuple(groups))


def left_alone(
    graph: Graph, acted: Collection[int], spared: Mapping[int, str], other: str = ""
) -> str | None:
    """One sentence on the groups that a method did not act on, by reason; None if it acted on all.

    What a model gives back as its output can never leave, and is not told.
    """
    groups = [g for g in graph.groups if not (g.reason or "").startswith(GIVEN_BACK)]
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.index not in acted:
            why = group.reason or spared.get(group.index) or other
            found.setdefault(why, []).append(group.name)
    if not found:
        return None
    parts = []
    for why, names in found.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        parts.append(f"{', '.join(names[:SHOWN])}{more} ({why})")
    count = sum(map(len, found.values()))
    return f"{count} of {len(groups)} groups of channels were left alone: {'; '.join(parts)}"


def graph_parameters(graph: Graph) -> set[str]:
    """Names of the parameters (not buffers) that the graph knows."""
    return {term.where for term in graph.terms if term.unit == "params"}
