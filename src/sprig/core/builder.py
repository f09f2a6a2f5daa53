"""From the notes of a walk to the frozen records: units and groups, what is cut with them, what all costs."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.groups import KEEPS, emptied, fingerprint, unique_names
from sprig.core.ops.flow import Classes, Flow
from sprig.core.ops.notes import ContractionNote
from sprig.core.types import Axis, Consumer, CostTerm, Graph, Group, Norm, Number, Slot


class Builder:
    """Turns the notes of a walk into the frozen records."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, flow: Flow) -> None:
        self.model, self.program, self.flow = model, program, flow
        self.classes: Classes = flow.classes
        self.group_of: dict[int, int] = {}  # class -> group
        self.unit_of: dict[int, int] = {}

    def graph(self) -> Graph:
        members, slots = self._members()
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
            ranges=tuple(self.axis(line) for line, _ in self.flow.ranges if line.any()),
            norms=tuple(Norm(n.node, n.weight, self.axis(n.labels)) for n in self.flow.norms),
        )

    def _members(self) -> tuple[list[list[int]], tuple[Slot, ...]]:
        """The units of every group, and what lies along each dimension.

        A tensor, or a range of one, that holds only some of the units of a group keeps the first of them, or it could
        be left without any.
        """
        notes = [n for n in self.flow.slots if n.labels.any()]
        lines = [(n.tensor, n.labels.reshape(-1)) for n in notes]
        lines += [(f"a part ({place})", line) for line, place in self.flow.ranges if line.any()]
        while True:
            members = self._groups()
            slots = tuple(Slot(n.tensor, n.dim, self.axis(n.labels), n.role) for n in notes)  # type: ignore[arg-type]
            bare = [
                (int(self.classes.find(int(line[0]))), name)
                for name, line in lines
                if emptied(self.axis(line), members)
            ]
            bare = [(root, name) for root, name in bare if root not in self.classes.reason]
            if not bare:
                return members, slots
            self.classes.freeze(bare[0][0], f"{bare[0][1]} {KEEPS}")

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
        self.group_of, self.unit_of = {}, {}
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
        found: dict[tuple[Any, ...], Number] = {}
        for note in self.flow.numbers:
            roots = self.classes.roots(note.labels)
            line = self.axis(note.labels[:, 0])
            if (roots == roots[:1]).all() or (line.group < 0).all():
                continue  # nothing leaves along it: this length stays
            key = (note.module, note.length, note.kind, note.parts, note.place)
            made = Number(note.module, note.length, line, note.kind, note.parts, note.place)  # type: ignore[arg-type]
            found.setdefault(key, made)
            shared = replace(made, kind="config", parts=(), place=0)
            found.setdefault((note.module, note.length, "config"), shared)
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
