"""From an exported program to groups: walk the op table, then read units and groups off the label classes."""

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from sprig.core.capture import batch_size, capture
from sprig.core.errors import InputError, TraceError
from sprig.core.groups import emptied, fingerprint, unique_names
from sprig.core.norms import NORMS, Norms
from sprig.core.numbers import number_sources
from sprig.core.ops import contracts, labels_of
from sprig.core.ops.flow import Classes, Flow
from sprig.core.ops.notes import ContractionNote
from sprig.core.types import Axis, Consumer, CostTerm, Graph, Group, Norm, Number, Slot

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
    return _Builder(model, program, flow).graph()


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


class _Builder:
    """Turns the notes of a walk into the frozen records."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, flow: Flow) -> None:
        self.model, self.program, self.flow = model, program, flow
        self.classes: Classes = flow.classes
        self.group_of: dict[int, int] = {}  # class -> group
        self.unit_of: dict[int, int] = {}

    def graph(self) -> Graph:
        members = self._groups()
        slots = tuple(
            Slot(n.tensor, n.dim, self.axis(n.labels), n.role)  # type: ignore[arg-type]
            for n in self.flow.slots
            if n.labels.any()
        )
        consumers = self._consumers()
        groups = tuple(self._group(i, units, slots, consumers) for i, units in enumerate(members))
        groups = unique_names(groups)
        tensors: dict[str, Tensor] = dict(self.model.named_parameters())
        tensors.update(self.model.named_buffers())
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        return Graph(
            groups=groups,
            slots=slots,
            consumers=consumers,
            terms=self._terms(tensors, slots),
            frozen=tuple(self.flow.frozen),
            shapes=shapes,
            fingerprint=fingerprint(groups, slots, shapes),
            program=self.program,
            numbers=self._numbers(),
            norms=tuple(Norm(n.node, n.weight, self.axis(n.labels)) for n in self.flow.norms),
        )

    def axis(self, labels: np.ndarray) -> Axis:
        roots = self.classes.roots(labels)
        group = np.array([self.group_of.get(int(r), -1) for r in roots], dtype=np.int64)
        unit = np.array([self.unit_of.get(int(r), -1) for r in roots], dtype=np.int64)
        return Axis(group, unit)

    def _groups(self) -> list[list[int]]:
        """Classes that meet in one produced dimension share one choice; those that never leave have no part in it,
        unless there are no others."""
        meet = Classes()
        meet.parent = list(range(len(self.classes.parent)))
        rows = [
            self.classes.roots(n.labels)
            for n in self.flow.slots
            if n.role == "producer" and n.labels.any()
        ]
        for roots in rows:
            for root in roots[1:].tolist():
                meet.unite(int(roots[0]), root)
        found: dict[int, set[int]] = defaultdict(set)
        for roots in rows:
            for root in roots.tolist():
                if root:
                    found[meet.find(root)].add(root)
        never = self.classes.reason.keys()
        members = [sorted(units - never or units) for units in found.values()]
        members.sort(key=lambda units: units[0])
        for index, units in enumerate(members):
            for number, root in enumerate(units):
                self.group_of[root], self.unit_of[root] = index, number
        return members

    def _group(
        self, index: int, units: list[int], slots: Sequence[Slot], consumers: Sequence[Consumer]
    ) -> Group:
        mine = [s for s in slots if (s.axis.group == index).any()]
        names = {
            role: tuple(dict.fromkeys(s.tensor for s in mine if s.role == role))
            for role in ("producer", "follower")
        }
        channels = {
            s.tensor: int((s.axis.group == index).sum()) for s in mine if s.role == "producer"
        }
        reasons = [self.classes.reason[u] for u in units if u in self.classes.reason]
        reason = reasons[0] if reasons else None
        readers = tuple(i for i, c in enumerate(consumers) if index in c.groups)
        if reason is None and len(units) == 1:
            reason = "all its channels can only leave together"
        if reason is None and not readers:
            reason = "no convolution or linear map reads it"
        if reason is None:
            reason = emptied(index, len(units), mine)
        first = names["producer"][0]
        return Group(
            index=index,
            name=first.rpartition(".")[0] or first,
            size=len(units),
            producers=names["producer"],
            followers=names["follower"],
            consumers=readers,
            channels=max(channels.values()),
            reason=reason,
        )

    def _consumers(self) -> tuple[Consumer, ...]:
        order = {node: i for i, node in enumerate(self.program.graph.nodes)}
        found = []
        for note in self.flow.contractions:
            if note.mixes and note.in_labels.any():
                found.append(
                    Consumer(
                        node=note.node.name,
                        order=order[note.node],
                        kind=note.kind,  # type: ignore[arg-type]
                        weight=note.weight,
                        bias=note.bias,
                        axis=self.axis(note.in_labels),
                        block=note.block,
                        out=len(note.out_labels),
                        positions=int(note.positions if note.places is None else note.places),
                        stride=note.stride,
                        padding=note.padding,
                        dilation=note.dilation,
                        norm=self._norm_behind(note),
                        transposed=note.transposed,
                        argument=note.argument,
                        extra=note.extra,
                    )
                )
        return tuple(sorted(found, key=lambda c: c.order))

    def _norm_behind(self, note: ContractionNote) -> str | None:
        """Prefix of a batch norm with running statistics that alone reads the output."""
        users = list(note.node.users)
        if len(users) != 1 or "batch_norm" not in str(users[0].target):
            return None
        mean = users[0].args[3]
        name = self.flow.params.get(mean) or self._buffer_name(mean)  # type: ignore[arg-type]
        return name.rpartition(".")[0] if name else None

    def _buffer_name(self, node: Any) -> str | None:
        return self.program.graph_signature.inputs_to_buffers.get(getattr(node, "name", ""))

    def _numbers(self) -> tuple[Number, ...]:
        """Lengths that modules may keep beside their tensors: of reshapes, where channels vary along one dimension."""
        found: dict[tuple[str, int, str], Number] = {}
        for note in self.flow.numbers:
            roots = self.classes.roots(note.labels)
            line = self.axis(note.labels[:, 0])
            if (roots == roots[:1]).all() or (line.group < 0).all():
                continue  # nothing leaves along it: this length stays
            key = (note.module, note.length, note.kind)
            found.setdefault(key, Number(note.module, note.length, line, note.kind))  # type: ignore[arg-type]
        return tuple(found.values())

    def _terms(self, tensors: Mapping[str, Tensor], slots: Sequence[Slot]) -> tuple[CostTerm, ...]:
        cut: dict[str, dict[int, Axis]] = defaultdict(dict)
        for slot in slots:
            cut[slot.tensor][slot.dim] = slot.axis
        terms = []
        parameters = {name for name, _ in self.model.named_parameters()}
        for name, tensor in tensors.items():
            axes = cut.get(name, {})
            rest = math.prod(s for d, s in enumerate(tensor.shape) if d not in axes)
            kept = tuple(axes[d] for d in sorted(axes))
            if name in parameters:
                terms.append(CostTerm("params", float(rest), kept, name))
            terms.append(CostTerm("bytes", float(rest * tensor.element_size()), kept, name))
        for note in self.flow.contractions:
            axes_of = [self.axis(note.out_labels)]
            coefficient = note.positions * note.block
            if note.mixes:
                axes_of.append(self.axis(note.in_labels))
            else:
                coefficient *= note.per_group
            terms.append(
                CostTerm(
                    "macs", coefficient, tuple(axes_of), note.node.name, note.weight, note.rows
                )
            )
        for product in self.flow.products:
            axes_of = [self.axis(line) for line in product.lines]
            lengths = math.prod(len(a) for a in axes_of)
            terms.append(
                CostTerm(
                    "macs",
                    product.macs / lengths,
                    tuple(axes_of),
                    product.node.name,
                    product.weight,
                )
            )
        terms += [
            CostTerm("macs", macs, (), where, weight)
            for where, macs, weight in self.flow.fixed_macs
        ]
        return tuple(terms)
