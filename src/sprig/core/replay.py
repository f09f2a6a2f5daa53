"""Run an exported program node by node: stop before a layer, look at its input, go on with other weights.

The values alive between two nodes are all that is kept, so running only the layers behind a cut costs what those
layers cost (prefix caching), and many batches can be carried forward in step. In-place operations are run as their
plain twins, so that values that were put aside stay as they were.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sprig.core.capture import batch_size, capture
from sprig.core.errors import InputError, TraceError
from sprig.core.graph import canonical_names
from sprig.core.layout import VIEW, on_cpu, takes_images, turned
from sprig.core.norms import norm_of, over_kept
from sprig.core.outputs import answer_of, logits_of
from sprig.core.tracing import distance

Watch = Callable[[tuple[Tensor, ...], Tensor], None]


@dataclass
class Live:
    """Values alive before node number `at`."""

    at: int
    values: dict[fx.Node, Any]
    rows: int  # samples that count; the rest only fill the batch

    def fork(self) -> "Live":
        return Live(self.at, dict(self.values), self.rows)


@dataclass
class Count:
    """How many contraction nodes were run: the unit of work that prefix caching saves."""

    layers: int = 0
    seen: dict[str, int] = field(default_factory=dict)


class Replay:
    """A program at one batch size, with weights handed in at every step."""

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None,
        *, check: bool = True, channels_last: bool = False,
    ) -> None:  # fmt: skip
        """check: compare with the module once; needed once per model. It also finds out whether images may be replayed
        with their channels last in memory, which is faster; without it, `channels_last` says so."""
        kwargs = kwargs or {}
        self.batch = batch_size(args, kwargs)
        self.program = capture(model, args, kwargs)
        self.nodes = list(self.program.graph.nodes)
        self.index = {n.name: i for i, n in enumerate(self.nodes)}
        canonical = canonical_names(model)
        signature = self.program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensor_of = {
            n: canonical.get(named[n.name], named[n.name]) for n in self.nodes if n.name in named
        }
        self.constants = {
            n: self.program.constants[signature.inputs_to_lifted_tensor_constants[n.name]]
            for n in self.nodes
            if n.name in signature.inputs_to_lifted_tensor_constants
        }
        known = {*self.tensor_of, *self.constants}
        self.inputs = [n for n in self.nodes if n.op == "placeholder" and n not in known]
        self.keywords = list(kwargs)
        self.answer, self.logits = self._answer()
        self.plain = {n: _plain(n) for n in self.nodes if n.op == "call_function"}
        self.norms = {n: a for n, a in ((n, norm_of(n)) for n in self.plain) if a is not None}
        self.dies = self._last_uses()
        self.count = Count()
        self.channels_last = channels_last
        if check:
            self._check(model, args, kwargs)

    # ---- running -----------------------------------------------------------------------------
    def start(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        rows: int | None = None,
    ) -> Live:
        named = dict(kwargs or {})
        if set(named) != set(self.keywords):
            raise InputError(
                f"a batch names the inputs {sorted(named)}, expected {sorted(self.keywords)}"
            )
        leaves = pytree.tree_leaves((args, {k: named[k] for k in self.keywords}))
        if self.channels_last:
            leaves = [turned(leaf) for leaf in leaves]
        values = dict(zip(self.inputs, leaves, strict=True))
        return Live(0, values, self.batch if rows is None else rows)

    def advance(
        self, live: Live, weights: Mapping[str, Tensor], stop: int, watch: Mapping[int, Watch] | None = None,
        *, grad: bool = False, alone: bool = False,
    ) -> Live:  # fmt: skip
        """Run nodes up to (not including) number `stop`; `watch[i]` sees node i's inputs and output. Uses up `live`.

        grad: leave a trace for a backward pass to weights that ask for it. alone: nobody holds any of the values,
        no watch keeps one, so the model's own in-place operations may save memory where they are.
        """
        with torch.set_grad_enabled(grad):
            return self._run(live, weights, stop, watch, alone=alone)

    def _run(
        self,
        live: Live,
        weights: Mapping[str, Tensor],
        stop: int,
        watch: Mapping[int, Watch] | None,
        *,
        alone: bool = False,
    ) -> Live:
        values = live.values
        foreign = self._foreign(values, weights) if alone else set()
        for i in range(live.at, min(stop, len(self.nodes))):
            node = self.nodes[i]
            if node.op != "call_function":
                continue
            target = self.plain[node]
            own = node.args[0] if alone and node.args else None
            if target is not node.target and own in values and _place(values[own]) not in foreign:
                target = node.target
            elif target is not node.target and (target is None or _shares(node.args[0], values)):
                target = node.target
                self._set_apart(node.args[0], values, weights)
            inputs = fx.node.map_arg(
                (node.args, node.kwargs), lambda n: self._read(n, values, weights)
            )
            if node in self.norms:
                result = over_kept(self.norms[node], target, *inputs[0], **inputs[1])
            elif target is VIEW:  # with the channels last a view may have to be a copy
                result = torch.ops.aten.reshape.default(*inputs[0])
            else:
                result = target(*inputs[0], **inputs[1])
            if _contracts(node):
                self.count.layers += 1
            if watch and i in watch:
                watch[i](inputs[0], result)
            values[node] = result
            if target is not node.target and isinstance(node.args[0], fx.Node):
                values[node.args[0]] = result  # what the in-place twin would have left behind
            for dead in self.dies[i]:
                values.pop(dead, None)
        return Live(max(stop, live.at), values, live.rows)

    def _foreign(self, values: Mapping[fx.Node, Any], weights: Mapping[str, Tensor]) -> set[int]:
        """Memory that is never written to: the batch, the weights, the program's constants."""
        given = [values[n] for n in self.inputs if n in values]
        return {_place(t) for t in (*given, *weights.values(), *self.program.constants.values())}

    def finish(
        self, live: Live, weights: Mapping[str, Tensor], *, grad: bool = False
    ) -> list[Tensor]:
        """Run to the end; the floating tensors of the answer, cut to the rows that count."""
        live = self.advance(live, weights, len(self.nodes), grad=grad)
        given = [n for n in self.answer if isinstance(n, fx.Node)]
        leaves = [self._read(n, live.values, weights) for n in given]  # one may be given back twice
        return [
            t[: live.rows] if t.dim() and t.shape[0] == self.batch else t
            for t in leaves
            if isinstance(t, Tensor) and t.is_floating_point()
        ]

    def _read(
        self, node: fx.Node, values: Mapping[fx.Node, Any], weights: Mapping[str, Tensor]
    ) -> Any:
        if node in values:
            return values[node]
        if node in self.tensor_of:
            name = self.tensor_of[node]
            return weights[name] if name in weights else self.program.constants[name]
        return self.constants[node]

    def _set_apart(
        self, node: fx.Node, values: dict[fx.Node, Any], weights: Mapping[str, Tensor]
    ) -> None:
        """Give a value and the views of it memory of their own, so that they can be written to."""
        family = {node: self._read(node, values, weights), **_relatives(node, values)}
        base = max(family.values(), key=Tensor.numel)
        fresh, start = base.clone(), base.storage_offset()
        whole = base.numel() and fresh.stride() == base.stride()
        for member, value in family.items():
            offset = value.storage_offset() - start
            if whole and offset >= 0 and offset + _extent(value) <= _extent(base):
                values[member] = fresh.as_strided(value.shape, value.stride(), offset)
            elif member is node:
                values[member] = value.clone()

    def _answer(self) -> tuple[list[Any], bool]:
        """The outputs that the answer consists of, and whether the model calls them its logits."""
        nodes = pytree.tree_leaves(self.nodes[-1].args[0])
        marks = [torch.empty(0) for _ in nodes]
        spec = self.program.call_spec.out_spec
        try:
            output = pytree.tree_unflatten(marks, spec) if spec is not None else marks
        except Exception:  # a container that cannot be made of empty tensors
            return nodes, False
        chosen = {id(leaf) for leaf in pytree.tree_leaves(answer_of(output))}
        picked = [node for node, mark in zip(nodes, marks, strict=True) if id(mark) in chosen]
        return (picked, logits_of(output) is not None) if picked else (nodes, False)

    def _last_uses(self) -> list[list[fx.Node]]:
        last: dict[fx.Node, int] = {}
        for i, node in enumerate(self.nodes):
            if node.op == "call_function":
                last.setdefault(node, i)
            for used in node.all_input_nodes:
                last[used] = i
        dies: list[list[fx.Node]] = [[] for _ in self.nodes]
        for node, i in last.items():
            if self.nodes[i].op != "output" and (node.op == "call_function" or node in self.inputs):
                dies[i].append(node)
        return dies

    def _check(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        twin = copy.deepcopy(model).eval()
        with torch.no_grad():
            expected = twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))
        answer, weights = answer_of(expected), state_of(model)
        if on_cpu(weights.values()) and takes_images(self.inputs, self.plain):
            self.channels_last = True
            try:
                if distance(self.finish(self.start(args, kwargs), weights), answer) <= 1e-4:
                    return
            except RuntimeError:
                pass  # written for one layout only
            self.channels_last = False
        gap = distance(self.finish(self.start(args, kwargs), weights), answer)
        if not gap <= 1e-3:
            raise TraceError(
                f"the exported program gives other outputs than the module (relative difference {gap:.2g}); "
                "the forward pass depends on something beside its inputs and weights"
            )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under its first name, detached (not copied)."""
    out = {name: p.detach() for name, p in model.named_parameters()}
    out.update({name: b.detach() for name, b in model.named_buffers()})
    return out


def _contracts(node: fx.Node) -> bool:
    name = str(node.target)
    return ".conv" in name or ".linear" in name or ".matmul" in name or "scaled_dot" in name


def _plain(node: fx.Node) -> Any:
    """The operation that leaves its arguments alone; None if an in-place one has no such twin."""
    target: Any = node.target
    name = str(target)
    if not name.startswith("aten."):
        return target
    _, packet, overload = name.split(".")
    if not packet.endswith("_") or packet.startswith("_"):
        return target
    return getattr(getattr(torch.ops.aten, packet[:-1], None), overload, None)


def _relatives(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, Tensor]:
    """Other live values in the same memory."""
    own = values.get(node)
    if not isinstance(own, Tensor) or not own.numel():
        return {}
    place = own.untyped_storage().data_ptr()
    others = (
        (n, v) for n, v in values.items() if n is not node and isinstance(v, Tensor) and v.numel()
    )
    return {n: v for n, v in others if v.untyped_storage().data_ptr() == place}


def _place(value: Any) -> int:
    """Where a tensor's memory starts."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0


def _shares(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    return bool(_relatives(node, values))


def _extent(value: Tensor) -> int:
    """How far a tensor reaches in its memory."""
    return (
        1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
        if value.numel()
        else 0
    )
