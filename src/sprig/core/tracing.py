"""`trace`: build the graph, then run what surgery makes of it and refuse the groups that do not follow."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sprig.core.graph import build
from sprig.core.surgery import mask_, shrink_
from sprig.core.types import Graph, Group

TOLERANCE = 1e-3  # of a float32 probe; certificates hold the result to far less


def trace(
    model: nn.Module, example_inputs: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Graph:
    """Find all groups of channels that can leave together, and say why the others cannot.

    The model is exported, labels ride through its graph, and every group is tried: a shrunk copy must run and
    give what the masked copy gives. Your model is not touched.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = trace(net, (torch.randn(2, 4),))
    >>> [(g.name, g.size, g.prunable) for g in graph.groups]
    [('0', 8, True), ('2', 2, False)]

    Raises:
        TraceError: the model cannot be copied or exported; the message names the line.
        InputError: the example inputs hold no tensor.
    """
    graph = build(model, tuple(example_inputs), kwargs)
    return probe(model, graph, tuple(example_inputs), kwargs or {})


def probe(model: nn.Module, graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """Try all prunable groups at once; if that fails, halve until the culprits are alone, and refuse them."""
    candidates = [g.index for g in graph.prunable]
    refused: dict[int, str] = {}

    def search(indices: Sequence[int]) -> None:
        if not indices:
            return
        failure = _failure(model, graph, indices, args, kwargs)
        if failure is None:
            return
        if len(indices) == 1:
            refused[indices[0]] = failure
            return
        middle = len(indices) // 2
        search(indices[:middle])
        search(indices[middle:])

    search(candidates)
    rest = [i for i in candidates if i not in refused]
    if refused and rest:
        failure = _failure(model, graph, rest, args, kwargs)
        if failure is not None:  # each alone works, together they do not
            refused.update(dict.fromkeys(rest, f"works alone but not together with others: {failure}"))
    if not refused:
        return graph
    groups = tuple(_with_reason(g, refused.get(g.index)) for g in graph.groups)
    return replace(graph, groups=groups)


def _with_reason(group: Group, reason: str | None) -> Group:
    return group if reason is None else replace(group, reason=reason)


def half_masks(graph: Graph, indices: Sequence[int]) -> dict[int, np.ndarray]:
    """Keep an irregular part of each group, about two thirds."""
    generator = np.random.default_rng(len(indices))
    masks = {}
    for index in indices:
        size = graph.groups[index].size
        keep = np.zeros(size, dtype=bool)
        keep[generator.permutation(size)[: max(1, min(size - 1, (2 * size) // 3))]] = True
        masks[index] = keep
    return masks


def _failure(
    model: nn.Module, graph: Graph, indices: Sequence[int], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    masks = half_masks(graph, indices)
    try:
        masked = run(lambda twin: mask_(twin, masks, graph), model, args, kwargs)
    except Exception as error:
        return f"the masked copy does not run: {_first_line(error)}"
    try:
        small = run(lambda twin: shrink_(twin, masks, graph), model, args, kwargs)
    except Exception as error:
        return f"the module's own Python does not follow a smaller width: {_first_line(error)}"
    gap = distance(masked, small)
    if not gap <= TOLERANCE:
        return f"the shrunk module computes something else than the masked one (relative difference {gap:.2g})"
    return None


def run(
    change: Callable[[nn.Module], nn.Module], model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    twin = change(copy.deepcopy(model).eval())
    with torch.no_grad():
        return twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))


def tensors_of(output: Any) -> list[Tensor]:
    """The floating tensors of any output, in a fixed order; sees through dataclass-like containers."""
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def distance(a: Any, b: Any) -> float:
    """Largest difference over outputs relative to their largest value; infinite if shapes differ."""
    left, right = tensors_of(a), tensors_of(b)
    if len(left) != len(right) or any(x.shape != y.shape for x, y in zip(left, right, strict=True)):
        return float("inf")
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if not x.numel():
            continue
        x, y = x.detach().double(), y.detach().double()
        scale = float(x.abs().max())
        gap = float((x - y).abs().max())
        worst = max(worst, gap / scale if scale > 0 else (0.0 if gap == 0 else float("inf")))
        if gap != gap:
            return float("inf")
    return worst


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:160]}"
