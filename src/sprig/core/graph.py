"""From an exported program to groups: walk the op table, then let `builder` read them off the label classes."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from sprig.core.builder import Builder
from sprig.core.capture import batch_size, capture
from sprig.core.errors import InputError, TraceError
from sprig.core.norms import NORMS, Norms
from sprig.core.numbers import number_sources
from sprig.core.ops import contracts, labels_of
from sprig.core.ops.flow import Flow, root_of
from sprig.core.types import Graph

GIVEN_BACK = "the model gives it back as its output"


def build(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    inner: frozenset[str] = frozenset(),
    program: torch.export.ExportedProgram | None = None,
    norms: Norms = "keep",
) -> Graph:
    """Groups, slots, consumers and costs of a model; nothing is run but the export.

    inner: modules whose attention keeps its heads and may lose inner dimensions. program: one captured before.
    norms: whether channels that a norm is taken over may leave, see core/norms.py.
    """
    if norms not in NORMS:
        raise InputError(f"norms={norms!r}; known are {', '.join(NORMS)}")
    program = capture(model, args, kwargs) if program is None else program
    flow = Flow(
        batch=batch_size(args, kwargs),
        canonical=canonical_names(model),
        inner=inner,
        through=norms == "cut",
    )
    walk(program, flow)
    _share_numbers(model, flow)
    unread = _unread(program, model)
    if unread:  # e.g. auxiliary heads that only training runs: they must be cut too
        try:
            training = capture(model, args, kwargs, train=True)
        except TraceError as error:
            training = None
            warnings.warn(
                f"{len(unread)} tensors are read only in training mode, where the model cannot be traced with these "
                f"inputs ({error}): {unread[0]} and the like stay as they are, and a cut model may not train; give "
                "inputs that the model can be trained on",
                stacklevel=2,
            )
        if training is not None:
            flow.counting = False
            walk(training, flow)
    return Builder(model, program, flow).graph()


def _share_numbers(model: nn.Module, flow: Flow) -> None:
    """Where a module keeps one number of heads for several tensors, their heads leave together."""
    first: dict[tuple[str, int], np.ndarray] = {}
    for note in flow.numbers:
        line = note.labels[:, 0]
        if note.kind != "count" or len(set(flow.classes.roots(line).tolist())) < note.length:
            continue
        if number_sources(model, note.module, note.length, note.kind):
            met = first.setdefault((note.module, note.length), line)
            flow.unite(met, line, f"{note.module} has one number for heads that stay")


def walk(program: torch.export.ExportedProgram, flow: Flow) -> None:
    """Carry labels through every node of a program, in order."""
    flow.params.clear()
    flow.values.clear()
    flow.buffers.clear()
    flow.parts.clear()
    flow.turned.clear()
    flow.written = _written(program)
    wanted = _wanted(program)
    named: dict[str, Any] = dict(program.graph_signature.inputs_to_parameters)
    named.update(program.graph_signature.inputs_to_buffers)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                flow.params[node] = flow.canonical.get(named[node.name], named[node.name])
                if node.name in program.graph_signature.inputs_to_buffers:
                    flow.buffers.add(node)
            else:
                flow.values[node] = flow.none(node)
        elif node.op == "call_function" and node in wanted and _has_tensor(node):
            flow.values[node] = labels_of(flow, node)
        elif node.op == "output":
            for arg in node.all_input_nodes:
                if flow.is_tensor(arg):
                    flow.freeze(flow.labels(arg), arg, GIVEN_BACK)
    flow.settle()


def _wanted(program: torch.export.ExportedProgram) -> set[fx.Node]:
    """Nodes that an output, a contraction or a change in place depends on; e.g. not attention weights nobody reads."""
    found: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        if node.op == "output" or node in found or _acts(node):
            found.add(node)
            found.update(node.all_input_nodes)
    return found


def _written(program: torch.export.ExportedProgram) -> set[fx.Node]:
    """Tensors that are written to, as a whole or through a view."""
    found = set()
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable or not node.args:
            continue
        if isinstance(node.args[0], fx.Node):
            found.add(root_of(node.args[0]))
    return found


def _acts(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return contracts(node) or bool(schema is not None and schema.is_mutable)


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> its first name (tied tensors have several)."""
    first: dict[int, str] = {}
    out = {}
    for named in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in named:
            out[name] = first.setdefault(id(tensor), name)
    return out


def _has_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    many = value if isinstance(value, list | tuple) else [value]
    return any(hasattr(v, "shape") for v in many)


def _unread(program: torch.export.ExportedProgram, model: nn.Module) -> list[str]:
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    by_name = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind in kinds
    }
    read = {by_name[n.name] for n in program.graph.nodes if n.name in by_name and n.users}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    ids = {id(tensors[name]) for name in read if name in tensors}
    return [name for name, p in tensors.items() if id(p) not in ids]
