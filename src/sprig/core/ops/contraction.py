"""Rows for operations that contract over channels: they end labels and make fresh ones."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.flow import Flow, op_name
from sprig.core.ops.notes import ContractionNote, ProductNote

LAID = frozenset("t transpose permute view reshape contiguous clone unsqueeze squeeze".split())


def _pick(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def _vector(value: Any, length: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (values * length if len(values) == 1 else values))


def _refuse(flow: Flow, node: fx.Node, reason: str) -> Any:
    for arg in node.all_input_nodes:
        if flow.is_tensor(arg):
            flow.freeze(flow.labels(arg), node, reason)
    return flow.none(node)


def _one_use(flow: Flow, weight: str, bias: str | None, out: np.ndarray, role: str) -> np.ndarray:
    """Labels of the outputs: the weight's rows and the bias leave together."""
    rows = flow.dim(weight, 0, len(out), role, out if role == "follower" else None)
    if bias is not None:
        flow.dim(bias, 0, len(out), role, rows)
    return rows


def _parameter(flow: Flow, arg: Any) -> str | None:
    return flow.params.get(arg) if isinstance(arg, fx.Node) else None


def conv(flow: Flow, node: fx.Node) -> Any:
    """Any number of spatial dimensions. Groups: all of one conv group's inputs and outputs leave together."""
    x, w, b = node.args[0], node.args[1], _pick(node, 2, "bias")
    weight, bias = _parameter(flow, w), _parameter(flow, b)
    if weight is None or (b is not None and bias is None):
        return _count(flow, node, _refuse(flow, node, "the weight is computed, not a parameter"))
    shape, wshape, out_shape = flow.shape(x), flow.shape(w), flow.shape(node)
    spatial = len(wshape) - 2
    if len(shape) != spatial + 2:
        return _count(flow, node, _refuse(flow, node, "input without a batch dimension"))
    stride = _vector(_pick(node, 3, "stride", 1), spatial)
    dilation = _vector(_pick(node, 5, "dilation", 1), spatial)
    pad = _pick(node, 4, "padding", 0)
    groups = int(_pick(node, 6, "groups", 1))
    channels, outs = shape[1], wshape[0]
    inside = np.asarray(flow.full(x, 1))
    if isinstance(pad, str):
        if pad == "same" and any(
            d * (k - 1) % 2 for d, k in zip(dilation, wshape[2:], strict=True)
        ):
            return _count(
                flow, node, _refuse(flow, node, "padding='same' with an even kernel pads unevenly")
            )
        pad = (
            0
            if pad == "valid"
            else tuple(d * (k - 1) // 2 for d, k in zip(dilation, wshape[2:], strict=True))
        )
    if groups == 1:
        flow.dim(weight, 1, channels, "consumer", inside)
        rows = _one_use(flow, weight, bias, np.zeros(outs), "producer")
    else:
        per_in, per_out = channels // groups, outs // groups
        blocks = inside.reshape(groups, per_in)
        for block in blocks:
            if len(block) > 1:
                flow.tie(block)
        rows = _one_use(flow, weight, bias, np.repeat(blocks[:, 0], per_out), "follower")
    positions = math.prod(out_shape[2:]) * out_shape[0] / flow.batch
    if flow.counting:
        flow.contractions.append(
            ContractionNote(
                node, "conv", weight, bias, inside, rows, math.prod(wshape[2:]), wshape[1], positions,
                groups == 1, stride, _vector(pad, spatial), dilation,
            )
        )  # fmt: skip
    return rows.reshape([1, -1] + [1] * spatial)


def linear(flow: Flow, node: fx.Node) -> Any:
    x, w, b = node.args[0], node.args[1], _pick(node, 2, "bias")
    if isinstance(w, fx.Node) and w in flow.turned:
        return linear_transposed(flow, node, x, flow.turned[w], b)
    return linear_of(flow, node, x, w, b)


def linear_of(flow: Flow, node: fx.Node, x: Any, w: Any, b: Any, *, argument: int = 0) -> Any:
    """x @ W.T + b with a parameter W of shape (out, in), as the node's argument of that number."""
    weight, bias = _parameter(flow, w), _parameter(flow, b)
    if weight is None or flow.parts.get(b) is not None:
        return linear_part(flow, node, x, w, b)
    shape, wshape = flow.shape(x), flow.shape(w)
    if flow.through:
        labels = flow.compact(flow.labels(x))
        if labels.shape[-1] == 1 < labels.size == max(labels.shape):
            return _mixed(flow, node, labels, [weight] if bias is None else [weight, bias])
    inside = np.asarray(flow.full(x, -1))
    flow.dim(weight, 1, wshape[1], "consumer", inside)
    rows = _one_use(flow, weight, bias, np.zeros(wshape[0]), "producer")
    if b is not None and bias is None:  # computed, e.g. joined from several
        flow.unite(rows, flow.labels(b), "its bias is computed from what never leaves")
    if flow.counting:
        flow.contractions.append(
            ContractionNote(
                node, "linear", weight, bias, inside, rows, 1, wshape[1],
                math.prod(shape[:-1]) / flow.batch, True, argument=argument,
            )
        )  # fmt: skip
    return rows.reshape([1] * (len(shape) - 1) + [-1])


def _mixed(flow: Flow, node: fx.Node, labels: np.ndarray, tensors: list[str]) -> np.ndarray:
    """A map over places does to each channel the same: it stays whole, and costs as much as there are channels."""
    for name, arg in zip(tensors, node.args[1:], strict=False):
        flow.pin(name, flow.shape(arg))  # type: ignore[arg-type]
    if flow.counting:
        macs = fixed_macs(node, flow) / flow.batch
        flow.products.append(ProductNote(node, macs, [labels.reshape(-1)], tensors[0]))
    return labels


def linear_part(flow: Flow, node: fx.Node, x: Any, w: Any, b: Any) -> Any:
    """A map by some rows of a parameter, e.g. queries from a fused projection: rows may leave, inputs stay."""
    weight, bias = flow.part(w), flow.part(b)
    if weight is None or (b is not None and bias is None):
        return _count(flow, node, _refuse(flow, node, "the weight is computed, not a parameter"))
    flow.freeze(flow.labels(x), node, "read by a part of a larger parameter")
    ins = weight.shape[1]
    flow.dim(
        weight.tensor, 1, ins, "consumer", np.zeros(ins), "read by a part of a larger parameter"
    )
    rows = flow.rows(weight, "producer")
    if bias is not None:
        flow.unite(
            flow.rows(bias, "producer"), rows, f"{bias.tensor} is shared with other channels"
        )
    shape = flow.shape(x)
    if flow.counting:
        positions = math.prod(shape[:-1]) / flow.batch
        flow.contractions.append(
            ContractionNote(
                node, "linear", weight.tensor, None, np.zeros(ins, dtype=np.int64), rows, 1, ins,
                positions, True, rows=(weight.start, weight.start + weight.count),
            )
        )  # fmt: skip
    return rows.reshape([1] * (len(shape) - 1) + [-1])


def linear_transposed(
    flow: Flow, node: fx.Node, x: Any, w: Any, b: Any, *, argument: int = 0
) -> Any:
    """x @ W with a parameter W of shape (in, out)."""
    weight, bias = flow.params[w], _parameter(flow, b)
    ins, outs = flow.shape(w)
    inside = np.asarray(flow.full(x, -1))
    flow.dim(weight, 0, ins, "consumer", inside)
    rows = flow.dim(weight, 1, outs, "producer")
    if bias is not None:
        flow.dim(bias, 0, outs, "producer", rows)
    shape = flow.shape(x)
    if flow.counting:
        flow.contractions.append(
            ContractionNote(
                node, "linear", weight, bias, inside, rows, 1, ins,
                math.prod(shape[:-1]) / flow.batch, True, transposed=True, argument=argument,
            )
        )  # fmt: skip
    return rows.reshape([1] * (len(shape) - 1) + [-1])


def addmm(flow: Flow, node: fx.Node) -> Any:
    return _count(
        flow, node, _refuse(flow, node, "channels enter a matrix product of computed tensors")
    )


def embedding(flow: Flow, node: fx.Node) -> Any:
    """Rows of a table: the embedding's features are produced, the vocabulary stays."""
    weight = _parameter(flow, node.args[0])
    if weight is None:
        return _refuse(flow, node, "the table is computed, not a parameter")
    words, width = flow.shape(node.args[0])
    flow.dim(weight, 0, words, "producer", np.zeros(words), f"{weight} is looked up by number")
    features = flow.dim(weight, 1, width, "producer")
    return features.reshape([1] * (len(flow.shape(node)) - 1) + [-1])


def _count(flow: Flow, node: fx.Node, result: Any) -> Any:
    """Note the multiply-adds of a contraction that no group touches."""
    if flow.counting:
        macs = fixed_macs(node, flow)
        if macs:
            operands: Any = node.args[1] if "einsum" in str(node.target) else node.args
            flow.fixed_macs.append((node.name, macs / flow.batch, multiplied(flow, operands)))
    return result


def multiplied(flow: Flow, operands: Iterable[Any]) -> str:
    """The one parameter of a product, seen through changes of its layout; empty where there is none, or two."""
    found = []
    for operand in operands:
        arg = operand
        while isinstance(arg, fx.Node) and arg not in flow.params and op_name(arg) in LAID:
            arg = arg.args[0]
        if isinstance(arg, fx.Node) and arg in flow.params and len(flow.shape(arg)) > 1:
            found.append(flow.params[arg])
    return found[0] if len(found) == 1 else ""


def fixed_macs(node: fx.Node, flow: Flow) -> float:
    """Multiply-adds of a contraction from its shapes alone."""
    name = str(node.target).split(".")[1].rstrip("_")
    args: tuple[Any, ...] = node.args
    operands = args[1] if name == "einsum" else args
    shapes = [flow.shape(a) for a in operands if flow.is_tensor(a)]
    value = node.meta["val"]
    out = tuple(int(s) for s in (value[0] if isinstance(value, list | tuple) else value).shape)
    if name.startswith("conv_transpose"):
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if name.startswith("conv"):
        return math.prod(out) * math.prod(shapes[1][1:])
    if name == "scaled_dot_product_attention":
        query, key, val = shapes[:3]
        pairs = math.prod(query[:-1]) * key[-2]
        return pairs * query[-1] + pairs * val[-1]
    if "grouped_mm" in name:  # rows of each expert times its own matrix
        return math.prod(shapes[0]) * shapes[1][-1]
    if name == "linear":
        return math.prod(out) * shapes[1][-1]
    if name == "einsum":
        return _einsum_macs(str(args[0]), shapes, out)
    if name == "tensordot":
        return math.prod(out) * math.prod(shapes[0][d] for d in args[2])
    left = shapes[1] if name in ("addmm", "baddbmm", "addbmm", "addmv") else shapes[0]
    return math.prod(out) * left[-1]


def _einsum_macs(equation: str, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> float:
    """Entries of the result times the lengths of what is summed over, for a product of two."""
    inputs, _, result = equation.replace(" ", "").replace("...", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2:
        return 0
    summed = (set(terms[0]) & set(terms[1])) - set(result)
    size = dict(zip(reversed(terms[0]), reversed(shapes[0])))
    return math.prod(out) * math.prod(size[letter] for letter in summed)


ROWS = {
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
    "linear": linear,
    "embedding": embedding,
    **dict.fromkeys(("addmm", "addbmm", "mv", "dot", "inner", "tensordot"), addmm),
    **dict.fromkeys(("_grouped_mm", "transformers.grouped_mm_fallback.default"), addmm),
}
