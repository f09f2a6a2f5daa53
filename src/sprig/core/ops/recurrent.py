"""Rows for the recurrences that `core.recurrent` leaves: the inputs are the gates' sums already.

A hidden feature is one row of every gate, and one column of the weight that the state meets. With its rows at zero it
stays at zero (if it starts there), and its columns are zero too: masked and shrunk agree at every step.
"""

import math
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import _refuse
from sprig.core.ops.flow import Flow, Labels, op_name
from sprig.core.ops.notes import ProductNote
from sprig.core.ops.pointwise import meet


def recurrence(flow: Flow, node: fx.Node) -> Any:
    """lstm, gru and plain recurrences, over a sequence or one step."""
    weights: Any = node.args[2:] if op_name(node).endswith("_cell") else node.args[2]
    again, bias = weights[1], weights[3] if len(weights) > 3 else None
    if again not in flow.params or (bias is not None and bias not in flow.params):
        return _refuse(flow, node, "the weight is computed, not a parameter")
    rows, states = flow.shape(again)
    line = np.asarray(flow.full(node.args[0], -1))  # type: ignore[arg-type]
    flow.dim(flow.params[again], 0, rows, "producer", line)
    if bias is not None:
        flow.dim(flow.params[bias], 0, rows, "producer", line)
    steps = math.prod(flow.shape(node.args[0])[:-1]) / flow.batch  # type: ignore[arg-type]
    if len(weights) > 4 and weights[4] is not None:  # the state is a projection of the cells
        if flow.counting:
            for weight in (again, weights[4]):
                macs = steps * math.prod(flow.shape(weight))
                flow.fixed_macs.append((node.name, macs, flow.params.get(weight, "")))
        flow.freeze(line, node, "a recurrent layer with a projection keeps its features")
        return flow.none(node)
    hidden = _hidden(flow, node, line.reshape(-1, states))
    flow.dim(flow.params[again], 1, states, "consumer", hidden)
    if flow.counting:
        flow.products.append(
            ProductNote(node, steps * rows * states, [hidden, hidden], flow.params[again])
        )
    return _results(flow, node, hidden)


def _hidden(flow: Flow, node: fx.Node, gates: Labels) -> Labels:
    """One label per hidden feature: all its gates, in all layers and directions of its module, and its states."""
    hidden: Labels = gates[0]
    for other in gates[1:]:
        flow.unite(hidden, other, "a gate of it never leaves")
    weights: Any = node.args[2:] if op_name(node).endswith("_cell") else node.args[2]
    owner = flow.params[weights[1]].rpartition(".")[0]
    first = flow.hidden.setdefault(owner, hidden)
    flow.unite(first, hidden, f"{owner} has one number of features for all its layers")
    given: Any = node.args[1]
    for state in given if isinstance(given, list | tuple) else [given]:
        shape = flow.shape(state)
        lifted = hidden.reshape([1] * (len(shape) - 1) + [-1])
        meet(flow, node, lifted, state, shape=shape)
    return hidden


def _results(flow: Flow, node: fx.Node, hidden: Labels) -> Any:
    value: Any = node.meta["val"]
    many = isinstance(value, list | tuple)
    found = [hidden.reshape([1] * (v.dim() - 1) + [-1]) for v in (value if many else [value])]
    return found if many else found[0]


def identity(flow: Flow, node: fx.Node) -> Any:
    return flow.none(node)


KINDS = tuple(
    name for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for name in (kind, f"{kind}_cell")
)
ROWS: dict[str, Any] = {**dict.fromkeys(KINDS, recurrence), "eye": identity}
