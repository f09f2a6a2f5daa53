"""Which operations a network spends its time in, and how their widths follow from the kept units.

Contractions take their widths from the cost terms of the graph. Everything else (norms, activations, additions,
pools, attention products) moves as many numbers as the contractions before it make: that share of its dense size.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from sprig.core.opbench import Op, blank_op, contraction, pointwise
from sprig.core.ops.recurrent import KINDS as RECURRENT
from sprig.core.types import Axis, Graph

VIEWS = frozenset(
    "view reshape permute transpose getitem unbind chunk split split_with_sizes select slice expand flatten "
    "dropout dropout_ detach alias unsqueeze squeeze t unflatten movedim swapaxes expand_as view_as "
    "sym_size contiguous lift_fresh_copy detach_ eye".split()
)  # take no time of their own unless they copy
PERIOD = 16  # numbers that vector units take at once, at most: steps are looked for within so many channels


@dataclass(frozen=True)
class Width:
    """A number of channels: base + sum of slope x kept units, `full` when nothing leaves."""

    full: int
    base: float
    slopes: tuple[tuple[int, float], ...] = ()  # (group index, channels per unit)

    @staticmethod
    def of(axis: Axis, sizes: Mapping[int, int]) -> "Width":
        found = [int(g) for g in np.unique(axis.group) if g >= 0]
        slopes = tuple((g, float((axis.group == g).sum()) / sizes[g]) for g in found)
        return Width(len(axis), float((axis.group < 0).sum()), slopes)

    @property
    def free(self) -> bool:
        return bool(self.slopes)


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of the program: what runs, and which widths may change."""

    node: str
    where: str  # the module
    kind: str
    op: Op
    inside: Width
    outside: Width  # of operations without contraction: the channels that they pass
    mixes: bool = False
    dim: int | None = None  # of operations without contraction: where the channels are
    ndim: int = 0

    @property
    def contracts(self) -> bool:
        return self.kind in ("conv", "depthwise", "linear")

    def at(self, inside: int, outside: int) -> Op | None:
        """The operation at other widths; None where it cannot be written down."""
        if self.contracts:
            return contraction(self.op, inside, outside)
        if outside == self.outside.full:
            return self.op
        if self.dim is None:
            return None
        return pointwise(self.op, self.dim, self.outside.full, outside, ndim=self.ndim)

    @property
    def family(self) -> str:
        """Layers whose steps are alike."""
        kernel = list(self.op.args[1].shape[2:]) if self.contracts else []
        back = "transposed " if "conv_transpose" in str(self.op.target) else ""
        return f"{back}{self.kind}{kernel}"


def layers(graph: Graph, program: torch.export.ExportedProgram) -> list[Layer]:
    """Every call of the program, with widths; `program` may be of another batch size than the graph's own."""
    sizes = {g.index: g.size for g in graph.groups}
    terms = {t.where: t for t in graph.terms if t.unit == "macs" and t.axes}
    named = program.graph_signature.inputs_to_parameters
    passed: dict[fx.Node, tuple[Width, int | None, int]] = {}  # width, dimension, number of dims
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        shape = _shape(node)
        name = _name(node)
        term = terms.get(node.name)
        if term is not None and _contracts(name, node):
            outside = Width.of(term.axes[0], sizes)
            mixes = len(term.axes) > 1
            inside = Width.of(term.axes[1], sizes) if mixes else outside
            kind = "linear" if name == "linear" else "conv" if mixes else "depthwise"
            weight = named.get(getattr(node.args[1], "name", ""), node.name)
            where = weight.rpartition(".")[0] or weight
            found.append(Layer(node.name, where, kind, blank_op(node), inside, outside, mixes))
            passed[node] = (outside, len(shape) - 1 if kind == "linear" else 1, len(shape))
            continue
        width, dim, ndim = _passed(node, name, shape, passed)
        if term is not None and name in RECURRENT:  # a share of its dense time: it is not run alone
            width, dim, ndim = Width.of(term.axes[0], sizes), None, len(shape)
        passed[node] = (width, _place(shape, width, dim, ndim), len(shape))
        if shape or isinstance(node.meta.get("val"), list | tuple):
            found.append(
                Layer(
                    node.name, _module(node), name, blank_op(node), Width(1, 1.0), width,
                    dim=dim, ndim=ndim,
                )
            )  # fmt: skip
    return found


def _passed(
    node: fx.Node, name: str, shape: tuple[int, ...], passed: Mapping[fx.Node, Any]
) -> tuple[Width, int | None, int]:
    """The width that goes through: of the largest input, or of all that are joined."""
    inputs = [n for n in node.all_input_nodes if n in passed and _shape(n)]
    if not inputs:
        return Width(max(1, math.prod(shape)), float(max(1, math.prod(shape)))), None, len(shape)
    if name == "cat":
        at = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        at %= max(1, len(shape))
        if all(passed[n][1] == at for n in inputs):
            return _joined([passed[n][0] for n in inputs], shape[at]), None, len(shape)
    largest = max(inputs, key=lambda n: math.prod(_shape(n)))
    width, dim, _ = passed[largest]
    return width, dim, len(_shape(largest))


def _joined(widths: list[Width], full: int) -> Width:
    slopes: dict[int, float] = {}
    for width in widths:
        for group, slope in width.slopes:
            slopes[group] = slopes.get(group, 0.0) + slope
    free = sum(w.full - w.base for w in widths)
    return Width(full, full - free, tuple(sorted(slopes.items())))


def _place(shape: tuple[int, ...], width: Width, dim: int | None, ndim: int) -> int | None:
    """Where the channels are behind the call."""
    if dim is not None and len(shape) == ndim and shape[dim] == width.full:
        return dim
    places = [d for d in range(1, len(shape)) if shape[d] == width.full]
    return places[-1] if len(places) == 1 else None


def _contracts(name: str, node: fx.Node) -> bool:
    if not re.fullmatch(r"conv(_transpose)?[123]d|linear", name):
        return False
    return isinstance(_blank_shape(node), tuple)


def _blank_shape(node: fx.Node) -> Any:
    weight = node.args[1]
    value = weight.meta.get("val") if isinstance(weight, fx.Node) else None
    return None if value is None else tuple(value.shape)


def _name(node: fx.Node) -> str:
    text = str(node.target)
    return (
        text.split(".")[1] if text.startswith("aten.") else getattr(node.target, "__name__", text)
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, list | tuple) and value else value
    return tuple(int(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()


def _module(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else node.name


def grid(width: Width) -> tuple[int, ...]:
    """Widths to measure at, ascending: aligned ones, and all."""
    full = width.full
    if not width.free:
        return (full,)
    step = PERIOD if full >= 4 * PERIOD else 8 if full >= 16 else 1
    points = {full}
    for share in (0.125, 0.25, 0.5, 0.75):
        points.add(min(full, max(step, round(share * full / step) * step)))
    return tuple(sorted(points))
