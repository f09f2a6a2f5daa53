"""Recurrent layers of an exported program, taken apart: a linear map of the inputs, and a recurrence.

What a layer makes of its inputs is one linear map for all steps at once: as a node of its own it is a reader like any
other, whose columns may leave and which is solved anew. What is left is the same layer whose inputs are the gates'
sums already: its own input weight is the identity. Layers and directions become one call each.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

aten: Any = torch.ops.aten
SEQUENCES = tuple(getattr(aten, n).input for n in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
CELLS = tuple(getattr(aten, f"{n}_cell").default for n in ("lstm", "gru", "rnn_tanh", "rnn_relu"))


def apart(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Take every recurrent layer of a program apart, in place. (No export has packed sequences.)"""
    graph = program.graph_module.graph
    found = [n for n in graph.nodes if n.op == "call_function" and n.target in SEQUENCES + CELLS]
    for node in found:
        made = _Maker(node)
        with graph.inserting_before(node):
            result = made.sequence() if node.target in SEQUENCES else made.cell()
        if isinstance(result, fx.Node):
            node.replace_all_uses_with(result)
        else:
            for user in list(node.users):  # one of several results
                user.replace_all_uses_with(result[user.args[1]])
                graph.erase_node(user)
        graph.erase_node(node)
    if found:
        program.graph_module.recompile()
    return program


class _Maker:
    """Writes the calls that stand for one node."""

    def __init__(self, node: fx.Node) -> None:
        self.node, self.graph = node, node.graph
        value = node.meta["val"]
        self.mode = (value[0] if isinstance(value, list | tuple) else value).fake_mode

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        made = self.graph.call_function(target, args, kwargs)
        for key in ("nn_module_stack", "stack_trace"):
            if key in self.node.meta:
                made.meta[key] = self.node.meta[key]
        values = pytree.tree_map_only(fx.Node, lambda n: n.meta["val"], (args, kwargs))
        with self.mode, torch.no_grad():
            made.meta["val"] = target(*values[0], **values[1])
        return made

    def item(self, node: fx.Node, index: int) -> fx.Node:
        made = self.graph.call_function(operator.getitem, (node, index))
        made.meta.update({**node.meta, "val": node.meta["val"][index]})
        return made

    def gates(self, x: Any, weight: Any, bias: Any) -> tuple[fx.Node, fx.Node, fx.Node | None]:
        """What the inputs bring to the gates; then the input weight and bias that leave it as it is."""
        sums = self.call(aten.linear.default, x, weight, bias)
        like: Tensor = sums.meta["val"]
        kind = {"dtype": like.dtype, "device": like.device}
        same = self.call(aten.eye.default, like.shape[-1], **kind)
        none = None if bias is None else self.call(aten.zeros.default, [like.shape[-1]], **kind)
        return sums, same, none

    def cell(self) -> Any:
        x, state, enter, again, *biases = self.node.args
        biases += [None] * (2 - len(biases))
        sums, same, none = self.gates(x, enter, biases[0])
        made = self.call(self.node.target, sums, state, same, again, none, biases[1])
        if not isinstance(made.meta["val"], list | tuple):
            return made
        return [self.item(made, i) for i in range(len(made.meta["val"]))]

    def sequence(self) -> list[fx.Node]:
        x, states, weights, has_biases, layers, chance, train, both, batch_first = self.node.args
        many = isinstance(states, list | tuple)
        given: Any = list(states) if many else [states]  # type: ignore[arg-type]
        turns = 2 if both else 1
        each = len(weights) // (layers * turns)  # type: ignore[arg-type, operator]
        lasts: list[list[fx.Node]] = [[] for _ in given]
        for layer in range(layers):  # type: ignore[arg-type]
            outs = []
            for turn in range(turns):
                at = layer * turns + turn
                mine: Any = weights[at * each : (at + 1) * each]  # type: ignore[index]
                start = [self.call(aten.slice.Tensor, s, 0, at, at + 1) for s in given]
                time = [1 if batch_first else 0]
                sums, same, none = self.gates(x, mine[0], mine[2] if has_biases else None)
                if turn:
                    sums = self.call(aten.flip.default, sums, time)
                held = [same, mine[1], none, *mine[3:]] if has_biases else [same, *mine[1:]]
                made = self.call(
                    self.node.target, sums, start if many else start[0], held, has_biases, 1, 0.0,
                    False, False, batch_first,
                )  # fmt: skip
                y, *ends = [self.item(made, i) for i in range(len(made.meta["val"]))]
                outs.append(self.call(aten.flip.default, y, time) if turn else y)
                for kept, end in zip(lasts, ends, strict=True):
                    kept.append(end)
            x = self.call(aten.cat.default, outs, -1) if both else outs[0]
            if train and chance and layer + 1 < layers:  # type: ignore[operator]
                x = self.call(aten.dropout.default, x, chance, True)
        joined = [k[0] if len(k) == 1 else self.call(aten.cat.default, k, 0) for k in lasts]
        return [x, *joined]  # type: ignore[list-item]
