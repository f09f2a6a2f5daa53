"""Rows of a parameter that a forward takes apart, e.g. queries, keys and values out of one fused projection."""

from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.flow import Flow, op_name
from sprig.core.ops.notes import Part


def split(flow: Flow, node: fx.Node, lengths: list[int]) -> Any:
    """Rows of a parameter, taken apart: equal parts keep equal counts."""
    whole = flow.part(node.args[0])
    assert whole is not None
    starts = np.cumsum([whole.start, *lengths[:-1]]).tolist()
    parts = [Part(whole.tensor, s, n, whole.shape) for s, n in zip(starts, lengths, strict=True)]
    flow.parts[node] = parts
    first = flow.rows(parts[0], "follower")
    for other in parts[1:] if len(set(lengths)) == 1 else []:
        flow.unite(first, flow.rows(other, "follower"), "split beside channels that never leave")
    return flow.none(node)


def pick(flow: Flow, node: fx.Node) -> None:
    """One of the parts that `split` made."""
    found: Any = flow.parts.get(node.args[0])  # type: ignore[arg-type]
    if isinstance(found, list):
        flow.parts[node] = found[node.args[1]]  # type: ignore[index]


def cut(flow: Flow, node: fx.Node) -> bool:
    """Whether a slice takes neighbouring rows of a parameter; notes which."""
    part = flow.part(node.args[0])
    args = dict(zip(("x", "dim", "start", "end", "step"), node.args)) | dict(node.kwargs)
    if part is None or op_name(node) != "slice" or args.get("step", 1) != 1:
        return False
    start = int(args.get("start") or 0)  # type: ignore[call-overload]
    start = max(0, start + part.count) if start < 0 else min(start, part.count)
    flow.parts[node] = Part(part.tensor, part.start + start, flow.shape(node)[0], part.shape)
    return True
