"""Rows for normalisations, poolings and reductions."""

import re
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import _pick
from sprig.core.ops.flow import Flow, Labels, op_name


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


def layer_norm(flow: Flow, node: fx.Node) -> Labels:
    """A norm over the channels changes its function when one leaves: those channels stay."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    over = range(labels.ndim - len(node.args[1]), labels.ndim)  # type: ignore[arg-type]
    if flow.varies(labels, over):
        flow.freeze(labels, node, "normalised over the channels")
        return flow.none(node)  # type: ignore[no-any-return]
    return labels


def pool(flow: Flow, node: fx.Node) -> Any:
    """Poolings and resampling over the trailing dimensions."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    pooled = int(re.search(r"([123])d", op_name(node)).group(1))  # type: ignore[union-attr]
    if flow.varies(labels, range(labels.ndim - pooled, labels.ndim)):
        flow.freeze(labels, node, "channels lie along a pooled dimension")
        return flow.none(node)
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
    if flow.varies(labels, dims):
        flow.freeze(labels, node, "reduced over the channels")
        return flow.none(node)
    keepdim = len(flow.shape(x)) == len(  # type: ignore[arg-type]
        (node.meta["val"][0] if many else node.meta["val"]).shape
    )
    result = (
        labels
        if keepdim
        else labels.reshape([s for d, s in enumerate(labels.shape) if d not in dims])
    )
    return [result] * len(node.meta["val"]) if many else result


def softmax(flow: Flow, node: fx.Node) -> Labels:
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    if flow.varies(labels, [int(_pick(node, 1, "dim")) % labels.ndim]):
        flow.freeze(labels, node, "normalised over the channels")
    return labels


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
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "prod", "var", "std", "logsumexp", "any", "all"), reduce
    ),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), softmax),
}
