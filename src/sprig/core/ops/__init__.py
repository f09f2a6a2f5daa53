"""ONE table: ATen operation -> how labels travel through it.

A row is a function (flow, node) -> labels of the result (a list for several results). An operation without a
row freezes the labels that reach it, and the graph says so. To add an operation, add one row to one of the
files here and one toy network to `sprig.testing.toys`.
"""

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from sprig.core.errors import TraceError
from sprig.core.ops import (
    attention,
    contraction,
    patches,
    pointwise,
    recurrent,
    reduce,
    shape,
    transposed,
)
from sprig.core.ops.flow import Flow, op_name, place_of

Row = Callable[[Flow, fx.Node], Any]

TABLE: dict[str, Row] = {
    **contraction.ROWS,
    **transposed.ROWS,
    **recurrent.ROWS,
    **attention.ROWS,
    **pointwise.ROWS,
    **shape.ROWS,
    **patches.ROWS,
    **reduce.ROWS,
}


def row_of(node: fx.Node) -> Row:
    """The row for a call; in-place twins share the row of their plain form."""
    if node.target is operator.getitem:
        return shape.getitem
    name = op_name(node)
    return TABLE.get(name) or TABLE.get(name.rstrip("_")) or pointwise.refuse


def labels_of(flow: Flow, node: fx.Node) -> Any:
    """Labels of what a call gives.

    Raises:
        TraceError: how large a tensor there is depends on the values of the inputs.
    """
    flow.now = node
    try:
        return row_of(node)(flow, node)
    except GuardOnDataDependentSymNode as error:
        raise TraceError(
            f"{place_of(node)}: how large its tensors are depends on the values of the inputs; "
            "trace submodules without it"
        ) from error


def contracts(node: fx.Node) -> bool:
    """Whether a call multiplies and sums: it costs, and ends labels."""
    name = op_name(node)
    tables = (contraction.ROWS, transposed.ROWS, recurrent.KINDS, attention.ROWS)
    return any(n in rows for n in (name, name.rstrip("_")) for rows in tables)
