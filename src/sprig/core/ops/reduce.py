"""Rows for normalisations, poolings and reductions."""

import re
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import _pick
from sprig.core.ops.flow import Flow, Labels, op_name
from sprig.core.ops.notes import NormNote
from sprig.core.ops.pointwise import elementwise


def batch_norm(flow: Flow, node: fx.Node) -> Any:
    """Acts on each channel alone: its four vectors are cut with the channel. Also instance norm."""
    x = node.args[0]
    line = np.asarray(flow.full(x, 1))  # type: ignore[arg-type]
    for arg in node.args[1:5]:
        if isinstance(arg, fx.Node) and arg in flow.params:
            flow.dim(flow.params[arg], 0, len(line), "follower", line)
        elif isinstance(arg, fx.Node):
            flow.freeze(line, node, "a computed tensor scales each channel")
    labels = flow.labels(x)  # type: ignore[arg-type]
    value = node.meta["val"]
    return [labels, *flow.none(node)[1:]] if isinstance(value, list | tuple) else labels


def group_norm(flow: Flow, node: fx.Node) -> Labels:
    """Statistics are shared inside a norm group, so a norm group leaves as one."""
    x, groups = node.args[0], int(node.args[1])  # type: ignore[arg-type]
    line = np.asarray(flow.full(x, 1))  # type: ignore[arg-type]
    for block in line.reshape(groups, -1):
        flow.tie(block)
    for index, name in ((2, "weight"), (3, "bias")):
        arg = _pick(node, index, name)
        if isinstance(arg, fx.Node) and arg in flow.params:
            flow.dim(flow.params[arg], 0, len(line), "follower", line)
    return flow.labels(x)  # type: ignore[arg-type]


def layer_norm(flow: Flow, node: fx.Node) -> Any:
    """A norm over the channels changes its function when one leaves: those channels stay, unless that is wanted."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    over = range(labels.ndim - len(node.args[1]), labels.ndim)  # type: ignore[arg-type]
    reason = "normalised over the channels"
    if flow.through and flow.varies(flow.compact(labels), over):
        why = _uncut(flow, node, flow.compact(labels))
        if why is None:
            return flow.compact(labels)
        reason = f"{reason}, which norms='cut' does not cover here: {why}"
    labels = flow.whole(labels, over, node, reason)
    value = node.meta["val"]
    return [labels, *flow.none(node)[1:]] if isinstance(value, list | tuple) else labels


def _uncut(flow: Flow, node: fx.Node, labels: Labels) -> str | None:
    """Let the channels of a norm leave, with its gain and shift; or why they cannot."""
    x, shape = node.args[:2]
    gain = _pick(node, 2, "weight", None)
    shift = _pick(node, 3, "bias", None) if op_name(node) == "layer_norm" else None
    if op_name(node) not in ("layer_norm", "rms_norm"):
        return "another form of the norm"
    if len(shape) != 1:  # type: ignore[arg-type]
        return "it is taken over several dimensions"
    if labels.shape[-1] != flow.shape(x)[-1] or labels.size != labels.shape[-1]:  # type: ignore[arg-type]
        return "the channels also vary along other dimensions"
    if gain not in flow.params or gain in flow.buffers:
        return "it has no gain of its own"
    if shift is not None and (shift not in flow.params or shift in flow.buffers):
        return "its shift is computed"
    line = labels.reshape(-1)
    for arg in (gain, shift):
        if arg is not None:
            flow.dim(flow.params[arg], 0, len(line), "follower", line)
    name = flow.params[gain]
    if all(note.weight != name for note in flow.norms):
        flow.norms.append(NormNote(node.name if flow.counting else "", name, line))
    return None


def pool(flow: Flow, node: fx.Node) -> Any:
    """Poolings and resampling over the trailing dimensions."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    pooled = int(re.search(r"([123])d", op_name(node)).group(1))  # type: ignore[union-attr]
    over = range(labels.ndim - pooled, labels.ndim)
    labels = flow.whole(labels, over, node, "channels lie along a pooled dimension")
    if isinstance(node.meta["val"], list | tuple):
        return [labels] * len(node.meta["val"])
    return labels


def reduce(flow: Flow, node: fx.Node) -> Any:
    """mean, sum, amax ... over dimensions."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    dims = _pick(node, 1, "dim", None)
    if (
        isinstance(dims, bool) or not isinstance(dims, int | list | tuple) or dims == []
    ):  # var(x, unbiased)
        dims = range(labels.ndim)
    dims = sorted({d % labels.ndim for d in ([dims] if isinstance(dims, int) else dims)})
    many = isinstance(node.meta["val"], list | tuple)
    reason = "reduced over the channels"
    if flow.through and _by_hand(node):
        reason = f"{reason}, for a norm written out: norms='cut' covers torch's own norms"
    labels = flow.whole(labels, dims, node, reason)
    keepdim = len(flow.shape(x)) == len(  # type: ignore[arg-type]
        (node.meta["val"][0] if many else node.meta["val"]).shape
    )
    result = (
        labels
        if keepdim
        else labels.reshape([s for d, s in enumerate(labels.shape) if d not in dims])
    )
    return [result] * len(node.meta["val"]) if many else result


def largest(flow: Flow, node: fx.Node) -> Any:
    """max and min: over all, along a dimension (with the places), or of two tensors."""
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return elementwise(flow, node)
    return reduce(flow, node)


def _by_hand(node: fx.Node) -> bool:
    """Whether a reduction is a step of a norm: a variance, or the mean of squares."""
    before = node.args[0]
    squares = isinstance(before, fx.Node) and op_name(before) in ("pow", "square")
    return op_name(node) in ("var", "std", "var_mean") or (op_name(node) == "mean" and squares)


def softmax(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    return flow.whole(labels, [int(_pick(node, 1, "dim"))], node, "normalised over the channels")


def vector_norm(flow: Flow, node: fx.Node) -> Labels:
    """linalg_vector_norm(x, ord, dim): `reduce` with its dimension one place further."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    given = _pick(node, 2, "dim", None)
    dims = [
        d % labels.ndim
        for d in ([given] if isinstance(given, int) else given or range(labels.ndim))
    ]
    labels = flow.whole(labels, dims, node, "reduced over the channels")
    if len(flow.shape(node)) == labels.ndim:
        return labels
    return labels.reshape([s for d, s in enumerate(labels.shape) if d not in dims])


def topk(flow: Flow, node: fx.Node) -> Any:
    """topk, sort, cumsum: what is compared or summed up on the way stays together."""
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    at = 2 if op_name(node) == "topk" else 1
    dim = int(_pick(node, at, "dim", -1))
    labels = flow.whole(labels, [dim], node, "channels are compared with one another")
    value = node.meta["val"]
    first = value[0] if isinstance(value, list | tuple) else value
    if first.dim() < labels.ndim:
        labels = np.squeeze(labels, axis=dim)
    return [labels] * len(value) if isinstance(value, list | tuple) else labels


POOLS = (
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices lp_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_linear1d "
    "_upsample_nearest_exact2d upsample_trilinear3d upsample_nearest3d"
).split()

ROWS: dict[str, Any] = {
    **dict.fromkeys(
        ("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm"), batch_norm
    ),
    "instance_norm": batch_norm,
    **dict.fromkeys(("max", "min"), largest),
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm", "native_layer_norm"), layer_norm),
    "linalg_vector_norm": vector_norm,
    **dict.fromkeys(("topk", "sort", "cumsum", "argsort"), topk),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "prod",
            "var",
            "std",
            "logsumexp",
            "any",
            "all",
            "var_mean",
        ),
        reduce,
    ),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), softmax),
}
