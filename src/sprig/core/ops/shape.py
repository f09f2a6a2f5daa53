"""Rows for operations that only move elements: they are applied to the label array itself."""

import math
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import _pick
from sprig.core.ops.flow import Flow, Labels, op_name


def reshape(flow: Flow, node: fx.Node) -> Labels:
    """view, reshape, flatten, unflatten. Where one dimension is split, the new last factor carries the choice."""
    x = node.args[0]
    return split_merge(flow, flow.labels(x), flow.shape(x), flow.shape(node))  # type: ignore[arg-type]


def split_merge(flow: Flow, labels: Labels, old: tuple[int, ...], new: tuple[int, ...]) -> Labels:
    """Reshape a compact label array, one matching run of dimensions at a time.

    >>> import numpy as np
    >>> flow = Flow(batch=1)
    >>> labels = flow.classes.fresh(4).reshape(1, 4, 1, 1)
    >>> split_merge(flow, labels, (2, 4, 3, 3), (2, 36)).tolist()[0][:10]
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    """
    if 0 in old or 0 in new:
        return np.zeros([1] * len(new), dtype=np.int64)
    out_dims: list[int] = []
    shape_now: list[int] = []
    runs = list(_runs(old, new))
    for ins, outs in runs:
        constant = all(labels.shape[d] == 1 for d in ins)
        shape_now += [1] if constant else [math.prod(old[d] for d in ins)]
        out_dims += [1] * len(outs) if constant else [new[d] for d in outs]
    full = labels
    for ins, _ in runs:
        if any(labels.shape[d] > 1 for d in ins):
            target = [old[d] if d in ins else full.shape[d] for d in range(len(old))]
            full = np.broadcast_to(full, target)
    result = np.ascontiguousarray(full).reshape(shape_now).reshape(out_dims)
    result = flow.compact(result)
    for _, outs in runs:
        varying = [d for d in outs if result.shape[d] > 1]
        for d in varying[
            :-1
        ]:  # a split: the leading factors keep their length, so positions leave together
            first = np.take(result, [0], axis=d)
            flow.unite(
                result, np.broadcast_to(first, result.shape), "tied to a channel that never leaves"
            )
    return flow.compact(result)


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> Any:
    """Match dimensions of two shapes into runs with equal products."""
    i = j = 0
    while i < len(old) or j < len(new):
        ins, outs = [], []
        left = right = 1
        if i < len(old):
            ins.append(i)
            left, i = old[i], i + 1
        if j < len(new):
            outs.append(j)
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                ins.append(i)
                left, i = left * old[i], i + 1
            else:
                outs.append(j)
                right, j = right * new[j], j + 1
        yield ins, outs


def permute(flow: Flow, node: fx.Node) -> Labels:
    return np.transpose(flow.labels(node.args[0]), node.args[1])  # type: ignore[arg-type]


def transpose(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    if len(node.args) == 1:  # t, numpy_T, mT
        return np.swapaxes(labels, -1, -2) if op_name(node) == "mT" else labels.T
    return np.swapaxes(labels, node.args[1], node.args[2])  # type: ignore[arg-type]


def movedim(flow: Flow, node: fx.Node) -> Labels:
    return np.moveaxis(flow.labels(node.args[0]), node.args[1], node.args[2])


def unsqueeze(flow: Flow, node: fx.Node) -> Labels:
    return np.expand_dims(flow.labels(node.args[0]), int(node.args[1]))  # type: ignore[arg-type]


def squeeze(flow: Flow, node: fx.Node) -> Labels:
    x = node.args[0]
    return split_merge(flow, flow.labels(x), flow.shape(x), flow.shape(node))  # type: ignore[arg-type]


def expand(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    return labels.reshape([1] * (len(flow.shape(node)) - labels.ndim) + list(labels.shape))


def roll(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dims = _pick(node, 2, "dims", ())
    dims = [dims] if isinstance(dims, int) else list(dims)
    if flow.varies(labels, dims or range(labels.ndim)):
        flow.freeze(labels, node, "channels are rolled")
    return labels


def flip(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    if flow.varies(labels, node.args[1]):
        flow.freeze(labels, node, "channels are reversed")
    return labels


def cat(flow: Flow, node: fx.Node) -> Labels:
    parts = [p for p in node.args[0] if math.prod(flow.shape(p)) > 0]  # type: ignore[union-attr, arg-type]
    dim = int(_pick(node, 1, "dim", 0)) % len(flow.shape(node))
    labels = [flow.labels(p) for p in parts]
    if all(a.shape[dim] == 1 for a in labels):
        roots = [flow.classes.roots(a) for a in labels]
        if all(np.array_equal(roots[0], r) for r in roots[1:]):  # in the same order, too
            return labels[0]
    common = [max(a.shape[d] for a in labels) for d in range(labels[0].ndim)]
    wide = []
    for part, a in zip(parts, labels, strict=True):
        common[dim] = flow.shape(part)[dim]
        wide.append(np.broadcast_to(a, common))
    result = np.concatenate(wide, axis=dim)
    across = [d for d in range(result.ndim) if d != dim and result.shape[d] > 1]
    if across:  # e.g. tokens joined along the sequence: the same channels must leave in every part
        first = np.take(result, [0], axis=dim)
        flow.unite(
            result, np.broadcast_to(first, result.shape), "joined with entries that never leave"
        )
        return first
    return result


def stack(flow: Flow, node: fx.Node) -> Labels:
    parts, dim = node.args[0], int(_pick(node, 1, "dim", 0))
    labels = [flow.labels(p) for p in parts]  # type: ignore[union-attr, arg-type]
    for other in labels[1:]:
        flow.unite(labels[0], other, "stacked with entries that never leave")
    return np.expand_dims(labels[0], dim)


def split(flow: Flow, node: fx.Node) -> Any:
    """chunk and split: equal parts of the channels keep equal counts, so equal places leave together."""
    x = node.args[0]
    sizes = [tuple(int(s) for s in v.shape) for v in node.meta["val"]]
    dim = int(_pick(node, 2, "dim", 0)) % len(flow.shape(x))
    labels = flow.labels(x)  # type: ignore[arg-type]
    lengths = [s[dim] for s in sizes]
    if labels.shape[dim] == 1:
        return [labels] * len(lengths)
    parts = np.split(labels, np.cumsum(lengths)[:-1], axis=dim)
    if len(set(lengths)) == 1:
        for other in parts[1:]:
            flow.unite(parts[0], other, "split beside channels that never leave")
    else:
        flow.freeze(labels, node, f"channels are split into unequal parts {lengths}")
    return [flow.compact(p) for p in parts]


def unbind(flow: Flow, node: fx.Node) -> Any:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dim = int(_pick(node, 1, "dim", 0)) % labels.ndim
    if labels.shape[dim] > 1:
        flow.freeze(labels, node, "single channels are taken out")
    return [np.take(labels, 0, axis=dim)] * len(node.meta["val"])


def getitem(flow: Flow, node: fx.Node) -> Any:
    return flow.values[node.args[0]][node.args[1]]  # type: ignore[index]


def slice_(flow: Flow, node: fx.Node) -> Labels:
    x = node.args[0]
    dim = int(_pick(node, 1, "dim", 0)) % len(flow.shape(x))
    labels = flow.labels(x)  # type: ignore[arg-type]
    if labels.shape[dim] == 1 or flow.shape(x) == flow.shape(node):
        return labels
    flow.freeze(labels, node, "a fixed range of the channels is cut out")
    start, stop, step = (
        _pick(node, i, n, v) for i, n, v in ((2, "start", 0), (3, "end", None), (4, "step", 1))
    )
    if op_name(node) == "narrow":  # its third number is a length
        start %= flow.shape(x)[dim]
        stop, step = start + stop, 1
    return np.take(labels, range(*slice(start, stop, step).indices(labels.shape[dim])), axis=dim)


def select(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dim = int(node.args[1]) % labels.ndim  # type: ignore[arg-type]
    if labels.shape[dim] > 1:
        flow.freeze(labels, node, "a single channel is taken out")
    return np.take(labels, 0, axis=dim)


def pad(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    amounts = list(node.args[1])  # type: ignore[arg-type]
    touched = [labels.ndim - 1 - i // 2 for i, a in enumerate(amounts) if a]
    if not flow.varies(labels, touched):
        return labels
    flow.freeze(labels, node, "channels are padded with constants")
    return flow.none(node)  # type: ignore[no-any-return]


def pixel(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    if labels.any():
        flow.freeze(labels, node, "channels become pixels")
    return flow.none(node)  # type: ignore[no-any-return]


ROWS: dict[str, Any] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as"), reshape
    ),
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "t", "numpy_T", "mT"), transpose),
    "movedim": movedim,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    "roll": roll,
    "flip": flip,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), split),
    "unbind": unbind,
    "slice": slice_,
    "narrow": slice_,
    "select": select,
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), pad),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), pixel),
}
