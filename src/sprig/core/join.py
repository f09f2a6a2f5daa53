"""One graph for a model of which only submodules could be traced: their groups side by side, all costs together.

Names of the submodules' tensors and groups get the submodule's own name in front. Parameters and bytes are those of
the whole model. Multiply-adds are those of one run on the example, per sample: what each part does in its one call, and
what the rest does around them, which is counted while it runs (matrix products, convolutions, attention).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from sprig.core.cost import cost
from sprig.core.errors import InputError, SprigError, TraceError
from sprig.core.example import Example, Inputs, inputs_of
from sprig.core.graph import build, canonical_names
from sprig.core.groups import fingerprint, unique_names
from sprig.core.parts import direct_parts, one_run, repeated, still, submodule
from sprig.core.types import Axis, Consumer, CostTerm, Graph, Group, Norm, Part, Slot

AUTO = "auto"
OUTSIDE = "outside of the modules"

Trace = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Graph]
Probe = Callable[[nn.Module, Graph, tuple[Any, ...], Mapping[str, Any]], Graph]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part on its way into the joint graph."""

    name: str
    graph: Graph
    inputs: Inputs
    output: Any


def join(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    modules: Sequence[str] | str,
    *,
    each: Trace,
    probe: Probe,
) -> Graph:
    """Trace the named submodules, each alone on what it gets in a run on the example, and put them together.

    `modules` "auto": the whole model if it can be exported, else every largest submodule that can be and in which
    something can be pruned. `each` traces one module, `probe` tries the groups of the joint graph on the whole model.
    """
    twin = copy.deepcopy(model).eval()
    names = [modules] if isinstance(modules, str) else list(modules)
    if names == [AUTO]:
        try:
            return each(model, args, kwargs)
        except TraceError as error:
            graphs = _all(twin, args, kwargs, each)
            if not graphs:
                raise TraceError(f"{error}; and no submodule can be traced and pruned") from error
    else:
        check_names(twin, names)
        graphs = dict.fromkeys(names)
    pieces = _pieces(twin, graphs, args, kwargs, each)
    graph = probe(model, together(model, pieces, args, kwargs), args, kwargs)
    parts = [
        replace(part, graph=_reasons(part.graph, graph.groups[part.first :]))
        for part in graph.parts
    ]
    return replace(graph, parts=tuple(parts))


def recounted(model: nn.Module, graph: Graph, example: Example) -> dict[str, int]:
    """What a cut model costs, counted anew; `graph` is of the dense one.

    Between parts, the rest runs on what the dense parts gave on the example: it takes the same way.
    """
    args, kwargs = inputs_of(example)
    if not graph.parts:
        return cost(build(model, args, kwargs))
    pieces = [
        Piece(
            p.name,
            build(submodule(model, p.name), p.args, p.kwargs),
            (p.args, dict(p.kwargs)),
            p.output,
        )
        for p in graph.parts
    ]
    return cost(together(model, pieces, args, kwargs))


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse names of no submodule, names given twice, and submodules of each other."""
    if not names:
        raise InputError('modules is empty; name submodules, or give modules="auto"')
    for name in names:
        submodule(model, name)
        inside = [other for other in names if name.startswith(f"{other}.")]
        if inside or names.count(name) > 1:
            what = f"lies inside {inside[0]!r}" if inside else "is named twice"
            raise InputError(f"submodule {name!r} {what}; name each part once")


def _all(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], each: Trace
) -> dict[str, Graph | None]:
    """The largest submodules that can be traced and in which something can be pruned, by descent."""
    good: dict[str, Graph | None] = {}
    names = [name for name, _ in direct_parts(model)]
    while names:
        heard, deeper = one_run(model, names, args, kwargs), list[str]()
        for name in names:
            module = submodule(model, name)
            calls = heard.inputs.get(name, [])
            try:
                graph = each(module, *calls[0]) if len(calls) == 1 else None
            except SprigError:
                graph = None
            if graph is None:
                deeper += [f"{name}.{inner}" for inner, _ in direct_parts(module)]
            elif graph.prunable:
                good[name] = graph
        names = deeper
    return good


def _pieces(
    model: nn.Module, graphs: Mapping[str, Graph | None], args: tuple[Any, ...],
    kwargs: Mapping[str, Any], each: Trace,
) -> list[Piece]:  # fmt: skip
    """The parts in the order in which they run, those traced that are not yet."""
    heard = one_run(model, list(graphs), args, kwargs)
    for name in graphs:
        calls = len(heard.inputs.get(name, []))
        if calls > 1:
            raise TraceError(repeated(name, calls))
        if not calls:
            raise TraceError(
                f"submodule {name!r} is not called for the example inputs, so nothing is known of what it gets; give "
                "an example that reaches it (a list of modules is never called: name its members)"
            )
    found = []
    for name, (inputs,) in heard.inputs.items():
        graph = graphs[name]
        if graph is None:
            try:
                graph = each(submodule(model, name), *inputs)
            except SprigError as error:
                raise TraceError(f"submodule {name!r} cannot be traced alone: {error}") from error
        found.append(Piece(name, graph, inputs, heard.outputs[name][0]))
    return found


def together(
    model: nn.Module, pieces: Sequence[Piece], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Graph:
    """The joint graph; nothing of it is tried."""
    samples = _rows((args, dict(kwargs)))
    groups, slots, consumers = list[Group](), list[Slot](), list[Consumer]()
    terms, parts, seen = list[CostTerm](), list[Part](), set[str]()
    frozen, numbers, norms, ranges = [], [], [], list[Axis]()
    canonical = canonical_names(model)
    for piece in pieces:
        graph, under = piece.graph, _Names(piece.name, canonical, len(groups), len(consumers))
        parts.append(
            Part(piece.name, graph, len(groups), piece.inputs[0], piece.inputs[1], piece.output)
        )
        held = under.held_elsewhere(graph)
        groups += [under.group(g, held) for g in graph.groups]
        slots += [
            replace(s, tensor=under.tensor(s.tensor), axis=under.axis(s.axis)) for s in graph.slots
        ]
        at = consumers[-1].order + 1 if consumers else 0
        consumers += [under.consumer(c, at) for c in graph.consumers]
        frozen += [replace(f, module=under.path(f.module)) for f in graph.frozen]
        numbers += [
            replace(n, module=under.path(n.module), axis=under.axis(n.axis)) for n in graph.numbers
        ]
        norms += [under.norm(n) for n in graph.norms]
        ranges += [under.axis(a) for a in graph.ranges]
        times = _rows(piece.inputs) / samples
        for term in graph.terms:
            where = under.node(term.where) if term.unit == "macs" else under.tensor(term.where)
            if term.unit != "macs" and f"{term.unit} {where}" in seen:
                continue  # held by two parts
            seen.add(f"{term.unit} {where}")
            share = times if term.unit == "macs" else 1.0
            axes = tuple(under.axis(a) for a in term.axes)
            weight = under.tensor(term.weight) if term.weight else ""
            terms.append(
                CostTerm(term.unit, term.coefficient * share, axes, where, weight, term.rows)
            )
    terms += _elsewhere(model, seen)
    answers = {p.name: p.output for p in pieces}
    terms.append(
        CostTerm("macs", macs_outside(model, answers, args, kwargs) / samples, (), OUTSIDE)
    )
    named = [*model.named_parameters(), *model.named_buffers()]
    shapes = {name: tuple(t.shape) for name, t in named}
    unique = unique_names(groups)
    return Graph(
        groups=unique, slots=tuple(slots), consumers=tuple(consumers), terms=tuple(terms),
        frozen=tuple(frozen), shapes=shapes, fingerprint=fingerprint(unique, slots, shapes),
        numbers=tuple(numbers), norms=tuple(norms), ranges=tuple(ranges), parts=tuple(parts),
    )  # fmt: skip


class _Names:
    """From the names and numbers of one part to those of the whole model."""

    def __init__(self, name: str, canonical: Mapping[str, str], groups: int, consumers: int):
        self.name, self.canonical = name, canonical
        self.groups, self.consumers = groups, consumers

    def path(self, inner: str) -> str:
        return f"{self.name}.{inner}" if inner else self.name

    def tensor(self, inner: str) -> str:
        return self.canonical[f"{self.name}.{inner}"]

    def node(self, inner: str) -> str:
        return f"{self.name}/{inner}"

    def axis(self, axis: Axis) -> Axis:
        return Axis(np.where(axis.group >= 0, axis.group + self.groups, -1), axis.unit)

    def group(self, group: Group, held: Mapping[int, str]) -> Group:
        producers = tuple(self.tensor(t) for t in group.producers)
        return replace(
            group,
            index=group.index + self.groups,
            name=producers[0].rpartition(".")[0] or producers[0],
            producers=producers,
            followers=tuple(self.tensor(t) for t in group.followers),
            consumers=tuple(c + self.consumers for c in group.consumers),
            reason=group.reason or held.get(group.index),
        )

    def consumer(self, consumer: Consumer, order: int) -> Consumer:
        norm = consumer.norm
        if norm is not None:
            norm = self.tensor(f"{norm}.running_mean").rpartition(".")[0]
        return replace(
            consumer,
            node=self.node(consumer.node),
            order=consumer.order + order,
            weight=self.tensor(consumer.weight),
            bias=None if consumer.bias is None else self.tensor(consumer.bias),
            axis=self.axis(consumer.axis),
            norm=norm,
        )

    def norm(self, norm: Norm) -> Norm:
        node = self.node(norm.node) if norm.node else ""
        return Norm(node, self.tensor(norm.weight), self.axis(norm.axis))

    def held_elsewhere(self, graph: Graph) -> dict[int, str]:
        """Groups that would cut a tensor which something outside of the part holds too."""
        mine = f"{self.name}."
        outside: dict[str, str] = {}
        for name, first in self.canonical.items():
            if not name.startswith(mine):
                outside.setdefault(first, name)
        found = {}
        for slot in graph.slots:
            other = outside.get(self.tensor(slot.tensor))
            if other is not None:
                reason = f"{mine}{slot.tensor} is {other} too, outside of the submodule"
                found.update(dict.fromkeys(np.unique(slot.axis.group).tolist(), reason))
        return found


def _elsewhere(model: nn.Module, seen: set[str]) -> list[CostTerm]:
    """What the tensors outside of all parts cost."""
    found = []
    for name, p in model.named_parameters():
        if f"params {name}" not in seen:
            found.append(CostTerm("params", float(p.numel()), (), name))
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if f"bytes {name}" not in seen:
            found.append(CostTerm("bytes", float(t.numel() * t.element_size()), (), name))
    return found


def macs_outside(
    model: nn.Module, answers: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> float:
    """Multiply-adds of one run in which the parts only answer, per whole batch."""
    twin = copy.deepcopy(model).eval()
    for name, answer in answers.items():
        submodule(twin, name).forward = _saying(answer)  # type: ignore[method-assign]
    counter = _Counter()
    with still(twin), counter:
        twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))
    return counter.macs


def _saying(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: copy.deepcopy(answer)


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of what runs while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if "scaled_dot_product" in str(func):
            self.macs += sdpa_flop_count(*(a.shape for a in args[:3])) / 2
        elif func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket]
            self.macs += flops(*args, **(kwargs or {}), out_val=output) / 2
        return output


def _rows(inputs: Inputs) -> int:
    leaves = pytree.tree_leaves(inputs)
    return next((len(t) for t in leaves if isinstance(t, torch.Tensor) and t.dim()), 1)


def _reasons(own: Graph, joint: Sequence[Group]) -> Graph:
    """A part's graph with the reasons that only the whole model gave."""
    groups = [replace(g, reason=j.reason) for g, j in zip(own.groups, joint, strict=False)]
    return replace(own, groups=tuple(groups))
