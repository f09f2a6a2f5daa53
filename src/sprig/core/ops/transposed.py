"""Rows for transposed convolutions: the weight is (inputs, outputs / groups, kernel)."""

import math
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import _count, _parameter, _pick, _refuse, _vector
from sprig.core.ops.flow import Flow
from sprig.core.ops.notes import ContractionNote


def conv_transpose(flow: Flow, node: fx.Node) -> Any:
    """Any number of spatial dimensions. Groups: all of one conv group's inputs and outputs leave together."""
    x, w, b = node.args[0], node.args[1], _pick(node, 2, "bias")
    weight, bias = _parameter(flow, w), _parameter(flow, b)
    if weight is None or (b is not None and bias is None):
        return _count(flow, node, _refuse(flow, node, "the weight is computed, not a parameter"))
    shape, wshape, out_shape = flow.shape(x), flow.shape(w), flow.shape(node)  # type: ignore[arg-type]
    spatial = len(wshape) - 2
    if len(shape) != spatial + 2:
        return _count(flow, node, _refuse(flow, node, "input without a batch dimension"))
    groups = int(_pick(node, 6, "groups", 1))
    outs, role = wshape[1] * groups, "producer"
    inside = np.asarray(flow.full(x, 1))  # type: ignore[arg-type]
    if groups == 1:
        flow.dim(weight, 0, shape[1], "consumer", inside)
        rows = flow.dim(weight, 1, outs, "producer")
    else:
        blocks, role = inside.reshape(groups, -1), "follower"
        for block in blocks:
            flow.tie(block)
        flow.dim(weight, 0, shape[1], role, inside)
        rows = np.repeat(blocks[:, 0], wshape[1])
    if bias is not None:
        flow.dim(bias, 0, outs, role, rows)
    if flow.counting:  # each input position meets the whole kernel once, whatever the stride
        samples = shape[0] / flow.batch
        flow.contractions.append(
            ContractionNote(
                node, "conv", weight, bias, inside, rows, math.prod(wshape[2:]), shape[1] // groups,
                math.prod(shape[2:]) * samples, groups == 1,
                _vector(_pick(node, 3, "stride", 1), spatial),
                _vector(_pick(node, 4, "padding", 0), spatial),
                _vector(_pick(node, 7, "dilation", 1), spatial),
                transposed=True,
                extra=_vector(_pick(node, 5, "output_padding", 0), spatial),
                places=math.prod(out_shape[2:]) * samples,
            )
        )  # fmt: skip
    return rows.reshape([1, -1] + [1] * spatial)


ROWS = {f"conv_transpose{d}d": conv_transpose for d in (1, 2, 3)}
