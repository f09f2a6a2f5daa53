"""Rows for operations that only move elements: they are applied to the label array itself."""

import math
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops import parts as rows_of
from sprig.core.ops.contraction import _pick
from sprig.core.ops.flow import Flow, Labels, module_of, op_name, place_of
from sprig.core.ops.layouts import extents, runs, taken, turns
from sprig.core.ops.notes import NumberNote


def reshape(flow: Flow, node: fx.Node) -> Labels:
    """view, reshape, flatten, unflatten. Of a dimension that is split, one factor carries the choice (`settle`)."""
    x = node.args[0]
    found = split_merge(flow, flow.labels(x), flow.shape(x), flow.shape(node))  # type: ignore[arg-type]
    if x in flow.extents:
        flow.extents[node] = extents(flow.extent(x), flow.shape(x), flow.shape(node))  # type: ignore[index, arg-type]
    if flow.counting:
        note_numbers(flow, node, found)
    return found


def note_numbers(flow: Flow, node: fx.Node, labels: Labels) -> None:
    """Remember lengths that the module's Python may have taken from its own attributes."""
    module = module_of(node)
    varying = [d for d in range(labels.ndim) if labels.shape[d] > 1]
    for d in varying:
        line = np.moveaxis(labels, d, 0).reshape(labels.shape[d], -1)
        factor = len(varying) > 1 and module not in flow.inner
        flow.numbers.append(
            NumberNote(module, labels.shape[d], line, "count" if factor else "width")
        )


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
    pairs = list(runs(old, new))
    for ins, outs in pairs:
        constant = all(labels.shape[d] == 1 for d in ins)
        shape_now += [1] if constant else [math.prod(old[d] for d in ins)]
        out_dims += [1] * len(outs) if constant else [new[d] for d in outs]
    full = labels
    for ins, _ in pairs:
        if any(labels.shape[d] > 1 for d in ins):
            target = [old[d] if d in ins else full.shape[d] for d in range(len(old))]
            full = np.broadcast_to(full, target)
    result = np.ascontiguousarray(full).reshape(shape_now).reshape(out_dims)
    result = flow.compact(result)
    for _, outs in pairs:
        if sum(result.shape[d] > 1 for d in outs) > 1:
            # what comes may decide which factor shrinks, e.g. heads
            flow.splits.append((result, flow.now))
    return result


def permute(flow: Flow, node: fx.Node) -> Labels:
    if [d % 2 for d in node.args[1]] == [1, 0] and turns(flow, node):  # type: ignore[union-attr, operator]
        return flow.none(node)  # type: ignore[no-any-return]
    if node.args[0] in flow.extents:
        extent = flow.extent(node.args[0])  # type: ignore[index]
        flow.extents[node] = tuple(extent[d] for d in node.args[1])  # type: ignore[union-attr, index, misc]
    return np.transpose(flow.labels(node.args[0]), node.args[1])  # type: ignore[arg-type]


def transpose(flow: Flow, node: fx.Node) -> Labels:
    moved = len(node.args) == 1 or int(node.args[1]) % 2 != int(node.args[2]) % 2  # type: ignore[arg-type]
    if moved and turns(flow, node):
        return flow.none(node)  # type: ignore[no-any-return]
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    if node.args[0] in flow.extents:
        line = list(flow.extent(node.args[0]))  # type: ignore[index]
        order = np.arange(len(line))
        if len(node.args) == 1:
            order = np.append(order[:-2], order[:-3:-1]) if op_name(node) == "mT" else order[::-1]
        else:
            one, other = node.args[1:3]
            order[[one, other]] = order[[other, one]]  # type: ignore[index]
        flow.extents[node] = tuple(int(line[d]) for d in order)
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
    old = flow.extent(node.args[0])  # type: ignore[arg-type]
    flow.extents[node] = (1,) * (len(flow.shape(node)) - len(old)) + tuple(old)
    return labels.reshape([1] * (len(flow.shape(node)) - labels.ndim) + list(labels.shape))


def roll(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dims = _pick(node, 2, "dims", ())
    dims = [dims] if isinstance(dims, int) else list(dims)
    return flow.whole(labels, dims or range(labels.ndim), node, "channels are rolled")


def flip(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    return flow.whole(labels, node.args[1], node, "channels are reversed")


def cat(flow: Flow, node: fx.Node) -> Labels:
    parts = [p for p in node.args[0] if math.prod(flow.shape(p)) > 0]  # type: ignore[union-attr, arg-type]
    dim = int(_pick(node, 1, "dim", 0)) % len(flow.shape(node))
    labels = [_joined(flow, p, dim) for p in parts]
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


def _joined(flow: Flow, part: fx.Node, dim: int) -> Labels:
    """A buffer that is joined end to end, e.g. keys' zeros between two biases, has channels of its own."""
    if part in flow.buffers and flow.long_dims(part) == [dim] == [0]:
        return flow.dim(flow.params[part], 0, flow.shape(part)[0], "follower")
    return flow.labels(part)


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
    lengths = [s[dim] for s in sizes]
    if dim == 0 and flow.part(x) is not None:
        return rows_of.split(flow, node, lengths)
    labels = flow.labels(x)  # type: ignore[arg-type]
    if labels.shape[dim] == 1:
        return [labels] * len(lengths)
    parts = np.split(labels, np.cumsum(lengths)[:-1], axis=dim)
    told = isinstance(_pick(node, 1, "split_size", None), list | tuple)  # the lengths, not how many
    if len(set(lengths)) == 1:
        for other in parts[1:]:
            flow.unite(parts[0], other, "split beside channels that never leave")
    elif 0 in lengths or not told or _elsewhere(flow, labels, dim):
        labels = flow.whole(labels, [dim], node, f"channels are split into unequal parts {lengths}")
        return [labels] * len(lengths)
    else:
        for part in parts:
            note_range(flow, node, part)
    # a part's length may be worked out from the whole
    for part in (*parts[: 1 if len(set(lengths)) == 1 else None], labels):
        note_width(flow, node, part, dim)
    for place, part in enumerate(parts if told else []):
        note_width(flow, node, part, dim, parts=tuple(lengths), place=place)
    return [flow.compact(p) for p in parts]


def _elsewhere(flow: Flow, labels: Labels, dim: int) -> bool:
    """Whether the labels vary along another dimension, too."""
    return any(s > 1 for d, s in enumerate(flow.compact(labels).shape) if d != dim)


def note_range(flow: Flow, node: fx.Node, part: Labels) -> None:
    """Channels that are taken by their places: some must stay, and trials are to tell them from the others."""
    if flow.counting:
        flow.ranges.append((part.reshape(-1), place_of(node)))


def note_width(
    flow: Flow, node: fx.Node, labels: Labels, dim: int, *, parts: tuple[int, ...] = (), place: int = 0
) -> None:  # fmt: skip
    """A length along one dimension, or one of all `parts`, that the module may have taken from its own attributes."""
    if not flow.counting:
        return
    line = np.moveaxis(labels, dim, 0).reshape(labels.shape[dim], -1)
    kind = "part" if parts else "width"
    flow.numbers.append(NumberNote(module_of(node), len(line), line, kind, parts, place))


def unbind(flow: Flow, node: fx.Node) -> Any:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dim = int(_pick(node, 1, "dim", 0)) % labels.ndim
    labels = flow.whole(labels, [dim], node, "single channels are taken out")
    return [np.take(labels, 0, axis=dim)] * len(node.meta["val"])


def getitem(flow: Flow, node: fx.Node) -> Any:
    rows_of.pick(flow, node)
    return flow.values[node.args[0]][node.args[1]]  # type: ignore[index]


def slice_(flow: Flow, node: fx.Node) -> Labels:
    x = node.args[0]
    dim = int(_pick(node, 1, "dim", 0)) % len(flow.shape(x))
    if dim == 0 and rows_of.cut(flow, node):
        return flow.none(node)  # type: ignore[no-any-return]
    labels = flow.labels(x)  # type: ignore[arg-type]
    if x in flow.extents:  # a part of zeros is zeros
        sizes = zip(flow.extent(x), flow.shape(node), strict=True)
        flow.extents[node] = tuple(min(pair) for pair in sizes)
    if labels.shape[dim] == 1 or flow.shape(x) == flow.shape(node):
        return labels
    places = taken(node, labels.shape[dim]) if labels.size == labels.shape[dim] else None
    if places is not None:
        part = np.take(labels, places, axis=dim)
        note_range(flow, node, part)
        note_width(flow, node, part, dim)
        return part
    return flow.whole(labels, [dim], node, "a fixed range of the channels is cut out")


def select(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    dim = int(node.args[1]) % labels.ndim  # type: ignore[arg-type]
    return np.take(flow.whole(labels, [dim], node, "a single channel is taken out"), 0, axis=dim)


def pad(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    amounts = list(node.args[1])  # type: ignore[arg-type]
    touched = [labels.ndim - 1 - i // 2 for i, a in enumerate(amounts) if a]
    return flow.whole(labels, touched, node, "channels are padded with constants")


def repeat(flow: Flow, node: fx.Node) -> Labels:
    """repeat, tile: along labelled dimensions the same channels come again."""
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    new = flow.shape(node)
    old: tuple[int, ...] = flow.shape(node.args[0])  # type: ignore[arg-type]
    missing = len(new) - len(old)
    labels = labels.reshape([1] * missing + list(labels.shape))
    old = (1,) * missing + old
    times = [new[d] // old[d] if labels.shape[d] > 1 else 1 for d in range(len(new))]
    return np.tile(labels, times)


def repeat_interleave(flow: Flow, node: fx.Node) -> Labels:
    x, times = node.args[0], node.args[1] if len(node.args) > 1 else None
    dim = _pick(node, 2, "dim", None)
    labels = flow.labels(x)  # type: ignore[arg-type]
    if not isinstance(times, int) or dim is None:
        flow.freeze(labels, node, "repeated by a computed count")
        return flow.none(node)  # type: ignore[no-any-return]
    return np.repeat(labels, times, axis=dim) if labels.shape[dim] > 1 else labels


def index(flow: Flow, node: fx.Node) -> Labels:
    """x[:, idx]: labels along dimensions that are not looked up pass; of a table of parameters too."""
    x, places = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    size = flow.shape(x)  # type: ignore[arg-type]
    looked = [d for d, i in enumerate(places) if i is not None]
    labels = _table(flow, x, looked)
    labels = flow.whole(labels, looked, node, "single channels are looked up")
    rank = max(len(flow.shape(places[d])) for d in looked)
    kept = [d for d in range(len(size)) if d not in looked]
    together = looked == list(range(looked[0], looked[-1] + 1))
    at = sum(d < looked[0] for d in kept) if together else 0
    shape = [labels.shape[d] for d in kept]
    return labels.reshape(shape[:at] + [1] * rank + shape[at:])


def _table(flow: Flow, x: Any, looked: list[int]) -> Labels:
    """Labels of what is looked up in; a table of parameters varies along its one other long dimension."""
    shape = flow.shape(x)
    long = [d for d, s in enumerate(shape) if s > 1 and d not in looked]
    if x in flow.params and len(flow.long_dims(x)) > 1 and len(long) == 1:
        line = flow.dim(flow.params[x], long[0], shape[long[0]], "follower")
        return line.reshape([-1 if d == long[0] else 1 for d in range(len(shape))])
    return flow.labels(x)


def index_select(flow: Flow, node: fx.Node) -> Labels:
    """Also gather, which may take fewer places along the other dimensions, too."""
    x, dim = node.args[0], int(node.args[1])  # type: ignore[arg-type]
    old, new = flow.shape(x), flow.shape(node)  # type: ignore[arg-type]
    looked = {dim % len(old), *(d for d in range(len(old)) if old[d] != new[d])}
    return flow.whole(
        _table(flow, x, sorted(looked)), looked, node, "single channels are looked up"
    )


ROWS: dict[str, Any] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as"),
        reshape,
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
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
    "index": index,
    **dict.fromkeys(("index_select", "gather"), index_select),
}
