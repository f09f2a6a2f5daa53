"""How shapes of one tensor before and after a call fit together."""

from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.flow import Flow, op_name


def runs(old: tuple[int, ...], new: tuple[int, ...]) -> Any:
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


def extents(extent: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    """What is known to be constant, after a reshape: dimensions made of constant ones alone.

    >>> extents((2, 1, 1, 5), (2, 1, 4, 5), (2, 4, 5))
    (2, 1, 5)
    """
    found = list(new)
    for ins, outs in [] if 0 in old or 0 in new else runs(old, new):
        if all(extent[d] == 1 for d in ins):
            for d in outs:
                found[d] = 1
    return tuple(found)


def taken(node: fx.Node, length: int) -> np.ndarray | None:
    """The places in a row that a slice or a narrow takes along its dimension.

    None: that depends on values, or there are none, or some between are left out.

    >>> import torch
    >>> g = fx.Graph()
    >>> taken(g.call_function(torch.ops.aten.narrow.default, (g.placeholder("x"), 1, -3, 2)), 8)
    array([5, 6])
    """
    args: dict[str, Any] = dict(
        zip(("x", "dim", "start", "end", "step"), node.args, strict=False)
    ) | dict(node.kwargs)
    if any(isinstance(a, fx.Node) for name, a in args.items() if name not in ("x", "self")):
        return None
    if op_name(node) == "narrow":
        start = range(length)[args["start"]] if args["start"] < length else length
        found = np.arange(start, start + int(args["length"] if "length" in args else args["end"]))
    else:
        found = np.arange(length)[slice(args.get("start"), args.get("end"), args.get("step"))]
    return found if len(found) and (np.diff(found) == 1).all() else None


def turns(flow: Flow, node: fx.Node) -> bool:
    """Whether a matrix of parameters is turned for products alone to read it, e.g. x @ W.T; notes which."""
    x: Any = node.args[0]
    if x not in flow.params or x in flow.buffers or len(flow.shape(x)) != 2:
        return False
    if flow.shape(x) != flow.shape(node)[::-1] or not all(
        _reads(flow, u, node) for u in node.users
    ):
        return False
    flow.turned[node] = x
    return True


def _bias(flow: Flow, bias: Any, user: fx.Node) -> bool:
    """Whether what is added is a parameter with one entry per output."""
    return bias in flow.params and flow.shape(bias) == flow.shape(user)[-1:]


def _reads(flow: Flow, user: fx.Node, turned: fx.Node) -> bool:
    """Whether a call multiplies something by the turned matrix, and adds nothing but a parameter."""
    name, args = op_name(user), user.args
    if name in ("matmul", "mm"):
        return len(args) == 2 and args[1] is turned and args[0] is not turned
    if name == "linear":
        return (
            args[1] is turned
            and args[0] is not turned
            and all(b is None or _bias(flow, b, user) for b in args[2:])
        )
    plain = name == "addmm" and not user.kwargs and _bias(flow, args[0], user)
    return plain and args[2] is turned and args[1] is not turned
