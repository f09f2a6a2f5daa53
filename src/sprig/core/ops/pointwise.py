"""Rows for operations that act on each element alone: labels pass, operands are united."""

from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.flow import Flow, Labels, op_name


def unary(flow: Flow, node: fx.Node) -> Any:
    """One operand; some of these also come with more, e.g. `clamp(x, max=tensor)` or `2 ** x`."""
    operands = [a for a in node.all_input_nodes if flow.is_tensor(a)]
    if len(operands) != 1 and op_name(node) not in ONE_OPERAND:
        return elementwise(flow, node)
    labels = flow.labels(operands[0])
    if operands[0] in flow.extents:
        flow.extents[node] = flow.extent(operands[0])
    value = node.meta.get("val")
    return [labels] * len(value) if isinstance(value, list | tuple) else labels


def elementwise(flow: Flow, node: fx.Node) -> Any:
    """Any number of operands with broadcasting."""
    operands = [a for a in node.all_input_nodes if flow.is_tensor(a)]
    if isinstance(node.meta.get("val"), list | tuple):
        return refuse(flow, node)
    shape = flow.shape(node)
    lifted = [_lift(_operand(flow, a), flow.extent(a), len(shape)) for a in operands]
    # a parameter with more than one long dimension takes its labels from what it meets
    result: Labels = np.zeros([1] * len(shape), dtype=np.int64)
    result_size: tuple[int, ...] = (1,) * len(shape)
    order = sorted(range(len(operands)), key=lambda i: operands[i] in flow.params)
    for i in order:
        labels, size = lifted[i]
        if operands[i] in flow.params and not labels.any() and max(size, default=1) > 1:
            labels = _adopt(flow, operands[i], result, size)
        result, result_size = (
            _meet(flow, node, result, result_size, labels, size),
            _join(result_size, size),
        )
    if result_size != shape:
        flow.extents[node] = result_size
    return result


def constant(flow: Flow, node: fx.Node) -> Any:
    """zeros, ones, full: the same everywhere, so that it meets channels like a number."""
    flow.extents[node] = (1,) * len(flow.shape(node))
    return flow.none(node)


def meet(
    flow: Flow, node: fx.Node, labels: Labels, other: Any, *, shape: tuple[int, ...] | None = None
) -> Labels:
    """Labels of a result (of `shape`, else the node's) to which another operand is added."""
    size = flow.shape(node) if shape is None else shape
    mine = (labels, size)
    theirs = _lift(_operand(flow, other), flow.extent(other), len(size))
    if other in flow.params and not theirs[0].any():
        theirs = (_adopt(flow, other, labels, theirs[1]), theirs[1])
    return _meet(flow, node, *mine, *theirs)


def _operand(flow: Flow, node: fx.Node) -> Labels:
    """Labels of an operand; a parameter with several long dimensions waits for what it meets (`_adopt`)."""
    if node in flow.buffers or (node in flow.params and len(flow.long_dims(node)) > 1):
        return np.zeros([1] * len(flow.shape(node)), dtype=np.int64)
    return flow.labels(node)


def _lift(labels: Labels, shape: tuple[int, ...], dims: int) -> tuple[Labels, tuple[int, ...]]:
    missing = dims - len(shape)
    return labels.reshape((1,) * missing + labels.shape), (1,) * missing + shape


def _join(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(x, y) for x, y in zip(a, b, strict=True))


def _adopt(flow: Flow, node: fx.Node, met: Labels, size: tuple[int, ...]) -> Labels:
    """Label the one dimension of a parameter along which the other operand's labels vary."""
    along = [d for d in range(met.ndim) if met.shape[d] > 1 and size[d] > 1]
    if len(along) > 1:  # e.g. (heads, inner): cut along the first
        met = flow.whole(met, along[1:], node, "channels meet a tensor that cannot be cut")
        along = along[:1]
    if len(along) != 1 or size[along[0]] != met.shape[along[0]]:
        flow.pin(flow.params[node], flow.shape(node))  # it stays whole, and so does what it meets
        return np.zeros([1] * met.ndim, dtype=np.int64)
    shape = flow.shape(node)
    dim = along[0] - (met.ndim - len(shape))
    others = [d for d in range(met.ndim) if d != along[0] and met.shape[d] > 1]
    met = flow.whole(met, others, node, "channels meet a tensor that cannot be cut")
    labels = flow.dim(flow.params[node], dim, shape[dim], "follower", met.reshape(-1))
    return labels.reshape([-1 if d == along[0] else 1 for d in range(met.ndim)])


def _meet(
    flow: Flow,
    node: fx.Node,
    a: Labels,
    a_size: tuple[int, ...],
    b: Labels,
    b_size: tuple[int, ...],
) -> Labels:
    """Unite two operands. A side without labels leaves the other alone only where it is broadcast.

    Heads whose inner channels are tied by now, e.g. by the mean of a norm that is written out, vary along the heads
    alone; a gain per inner channel, shared by all heads, then stays as it is.
    """
    a, b = (flow.compact(x) if sum(s > 1 for s in x.shape) > 1 else x for x in (a, b))
    if not a.any() or not b.any():
        kept, bare = (b, a_size) if not a.any() else (a, b_size)
        here = [d for d in range(kept.ndim) if kept.shape[d] > 1 and bare[d] > 1]
        rest = flow.whole(kept, here, node, "channels meet a tensor that cannot be cut")
        return rest if rest.any() else kept  # frozen ones keep their name, and with it the reason
    # a side that is long but unlabelled along a dimension needs all of it
    a = flow.whole(a, _bare(a, b, b_size), node, "channels meet a tensor that cannot be cut")
    b = flow.whole(b, _bare(b, a, a_size), node, "channels meet a tensor that cannot be cut")
    if not a.any() or not b.any():
        return _meet(flow, node, a, a_size, b, b_size)
    flow.unite(a, b, "channels meet entries that never leave")
    return np.where(np.broadcast_to(a, _join(a.shape, b.shape)) > 0, *np.broadcast_arrays(a, b))


def _bare(a: Labels, b: Labels, b_size: tuple[int, ...]) -> list[int]:
    """Dimensions along which a has labels, and b is long without any."""
    return [d for d in range(a.ndim) if a.shape[d] > 1 and b.shape[d] == 1 and b_size[d] > 1]


def refuse(flow: Flow, node: fx.Node) -> Any:
    """The row of an operation that the table lacks: freeze what reaches it."""
    for arg in node.all_input_nodes:
        if flow.is_tensor(arg):
            flow.freeze(flow.labels(arg), node, "the op table has no row for this operation")
    return flow.none(node)


def prelu(flow: Flow, node: fx.Node) -> Any:
    x, w = node.all_input_nodes[0], node.all_input_nodes[-1]
    if flow.shape(w)[0] > 1:
        if w not in flow.params:
            return refuse(flow, node)
        flow.dim(flow.params[w], 0, flow.shape(w)[0], "follower", flow.full(x, 1))
    return flow.labels(x)


UNARY = (
    "relu relu6 gelu silu sigmoid tanh hardsigmoid hardswish hardtanh leaky_relu elu selu celu mish softplus "
    "softsign logsigmoid log_sigmoid threshold clamp clamp_min clamp_max clip abs neg exp expm1 log log1p log2 "
    "sqrt rsqrt square pow sin cos erf sign round floor ceil reciprocal dropout alpha_dropout feature_dropout "
    "contiguous clone alias detach detach_ to _to_copy type_as float half double bfloat16 lift_fresh_copy "
    "lift_fresh hardshrink softshrink tanhshrink rrelu nan_to_num isnan isinf logical_not bitwise_not "
    "native_dropout zeros_like ones_like full_like"
).split()
ONE_OPERAND = (
    "to",
    "_to_copy",
    "type_as",
    "zeros_like",
    "ones_like",
    "full_like",
)  # others give only a type
BINARY = (
    "add sub rsub mul div true_divide floor_divide remainder fmod maximum minimum where lerp addcmul addcdiv "
    "atan2 eq ne lt le gt ge logical_and logical_or logical_xor masked_fill fmax fmin xlogy"
).split()

ROWS: dict[str, Any] = {
    **{name: unary for name in UNARY},
    **{name: elementwise for name in BINARY},
    **dict.fromkeys(
        ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "scalar_tensor"), constant
    ),
    "prelu": prelu,
    "_prelu_kernel": elementwise,
}
