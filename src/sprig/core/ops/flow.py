"""The labels that ride on the graph, and the book that keeps them.

Every node's tensor carries an integer array with as many dimensions as the tensor; each dimension is either
as long as the tensor's or 1 (the label does not vary along it). An entry names the channel that the element
belongs to; 0 means none. Rows of the op table read and write labels only through this book.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.notes import ContractionNote, NormNote, NumberNote, Part, ProductNote, SlotNote
from sprig.core.types import Frozen

Labels = np.ndarray
NONE = 0


class Classes:
    """Union-find over labels; a class may be frozen, with the reason that came first."""

    def __init__(self) -> None:
        self.parent = [0]
        self.reason: dict[int, str] = {}

    def fresh(self, count: int) -> np.ndarray:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def find(self, label: int) -> int:
        root = label
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[label] != root:
            self.parent[label], label = root, self.parent[label]
        return root

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """Class of each label; the lowest label of a class stands for it."""
        values, inverse = np.unique(labels, return_inverse=True)
        found = np.array([self.find(int(v)) for v in values], dtype=np.int64)
        return found[inverse].reshape(labels.shape)

    def unite(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self.parent[high] = low
        reason = self.reason.pop(high, None)
        if reason is not None:
            self.reason.setdefault(low, reason)

    def freeze(self, label: int, reason: str) -> None:
        if label:
            self.reason.setdefault(self.find(label), reason)


@dataclass
class Flow:
    """State of one walk over one or more graphs of the same model.

    inner: modules whose attention keeps its heads and may lose inner dimensions; elsewhere heads leave whole.
    through: channels that a norm is taken over may leave; `norms` are those norms.
    """

    batch: int
    inner: frozenset[str] = frozenset()
    through: bool = False
    norms: list[NormNote] = field(default_factory=list)
    products: list[ProductNote] = field(default_factory=list)
    numbers: list[NumberNote] = field(default_factory=list)
    # channels that a call takes apart by their places, and where
    ranges: list[tuple[Labels, str]] = field(default_factory=list)
    now: fx.Node | None = None  # the node that is walked
    splits: list[tuple[Labels, fx.Node | None]] = field(default_factory=list)
    buffers: set[fx.Node] = field(default_factory=set)  # labelled only by what they meet
    written: set[fx.Node] = field(
        default_factory=set
    )  # tensors that are changed in place on the way
    extents: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)  # see `extent`
    classes: Classes = field(default_factory=Classes)
    slots: list[SlotNote] = field(default_factory=list)
    contractions: list[ContractionNote] = field(default_factory=list)
    fixed_macs: list[tuple[str, float, str]] = field(default_factory=list)  # node, macs, weight
    frozen: list[Frozen] = field(default_factory=list)
    dims: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    notes: dict[tuple[str, int], SlotNote] = field(default_factory=dict)
    hidden: dict[str, np.ndarray] = field(default_factory=dict)  # of recurrent modules, by name
    params: dict[fx.Node, str] = field(default_factory=dict)
    turned: dict[fx.Node, fx.Node] = field(default_factory=dict)  # W.T → W, for products alone
    values: dict[fx.Node, Any] = field(default_factory=dict)
    parts: dict[fx.Node, Any] = field(default_factory=dict)  # see `part`
    canonical: dict[str, str] = field(default_factory=dict)
    counting: bool = True  # False while walking the training-mode graph

    # ---- reading -----------------------------------------------------------------------------
    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(int(s) for s in node.meta["val"].shape)

    def extent(self, node: fx.Node) -> tuple[int, ...]:
        """The shape, with 1 for dimensions along which the tensor is known to be constant, e.g. zeros."""
        if node in self.extents and root_of(node) not in self.written:
            return self.extents[node]
        return self.shape(node)

    def is_tensor(self, arg: Any) -> bool:
        return isinstance(arg, fx.Node) and hasattr(arg.meta.get("val"), "shape")

    def labels(self, node: fx.Node) -> Labels:
        """Labels of a node's tensor. A parameter used as a plain operand gets labels along its long dimension."""
        part = self.part(node)
        if part is not None and node not in self.params:
            return self._part_labels(node, part)
        if node in self.values:
            found: Labels = self.values[node]
            return found
        shape = self.shape(node)
        if node in self.params and node not in self.buffers:
            long = self.long_dims(node)
            if len(long) == 1:
                along = self.dim(self.params[node], long[0], shape[long[0]], "follower")
                return along.reshape([-1 if d == long[0] else 1 for d in range(len(shape))])
            self.pin(self.params[node], shape)
        return np.zeros([1] * len(shape), dtype=np.int64)

    def part(self, node: Any) -> Part | None:
        """Which rows of which parameter a node is, if it is rows of one."""
        if node in self.params and node not in self.buffers:
            rows = self.shape(node)[0] if self.shape(node) else 0
            return Part(self.params[node], 0, rows, self.shape(node))
        found = self.parts.get(node)
        return found if isinstance(found, Part) else None

    def _part_labels(self, node: fx.Node, part: Part) -> Labels:
        """Rows of a vector carry its labels; rows of anything longer are read in a way that no row follows."""
        if math.prod(part.shape) == part.shape[0]:
            return self.rows(part, "follower").reshape([-1] + [1] * (len(part.shape) - 1))
        self.pin(part.tensor, part.shape)
        return np.zeros([1] * len(part.shape), dtype=np.int64)

    def rows(self, part: Part, role: str) -> np.ndarray:
        """Labels of some rows of a parameter."""
        whole = self.dim(part.tensor, 0, part.shape[0], role)
        return whole[part.start : part.start + part.count]

    def long_dims(self, node: fx.Node) -> list[int]:
        return [d for d, s in enumerate(self.shape(node)) if s > 1]

    def pin(self, tensor: str, shape: tuple[int, ...]) -> None:
        """A parameter is read in a way that no row follows: no part of it may leave, whoever else reads it."""
        for d, size in enumerate(shape):
            if size > 1:
                self.dim(
                    tensor,
                    d,
                    size,
                    "follower",
                    np.zeros(size, dtype=np.int64),
                    f"{tensor} is also used whole",
                )

    def full(self, node: fx.Node, dim: int) -> np.ndarray:
        """Labels along one dimension, as long as the tensor's; zeros if labels also vary elsewhere (then frozen)."""
        labels, shape = self.labels(node), self.shape(node)
        dim %= len(shape)
        others = [d for d in range(len(shape)) if d != dim and labels.shape[d] > 1]
        if others:
            reason = f"channels also vary along dimension {others[0]}"
            labels = self.whole(labels, others, node, reason)
        line = labels.reshape(-1)
        return np.broadcast_to(line, (shape[dim],)) if len(line) == 1 else line

    def whole(self, labels: Labels, dims: Any, node: fx.Node, reason: str) -> Labels:
        """Labels of an operation that needs all of `dims`: what lies along them leaves together, or not at all."""
        labels = self.compact(labels)
        here = [d % labels.ndim for d in dims if labels.shape[d] > 1]
        if not here:
            return labels
        if labels.size == math.prod(
            labels.shape[d] for d in here
        ):  # nothing else varies: all or nothing
            self.freeze(labels, node, reason)
            return np.zeros([1] * labels.ndim, dtype=np.int64)
        for d in here:
            labels = self._alike(labels, d, reason)
        return labels

    def _alike(self, labels: Labels, dim: int, reason: str) -> Labels:
        """Tie the labels along one dimension; what is left of it has length 1."""
        first = np.take(labels, [0], axis=dim)
        self.unite(labels, np.broadcast_to(first, labels.shape), reason)
        return first

    def settle(self) -> None:
        """Every dimension that was split keeps all but one of its factors whole: by default the last may shrink."""
        for split, node in self.splits:
            labels, self.now = self.compact(split), node
            for d in [d for d in range(labels.ndim) if labels.shape[d] > 1][:-1]:
                labels = self._alike(labels, d, "tied to a channel that never leaves")
        self.splits.clear()
        self.now = None

    def varies(self, labels: Labels, dims: Any) -> bool:
        return any(labels.shape[d] > 1 for d in dims) and bool(labels.any())

    # ---- writing -----------------------------------------------------------------------------
    def dim(
        self,
        tensor: str,
        dim: int,
        size: int,
        role: str,
        labels: Any = None,
        reason: str | None = None,
    ) -> np.ndarray:
        """Labels of one dimension of a parameter. The first use makes them, each later use is united with them."""
        key = (tensor, dim)
        if key not in self.dims:
            if labels is None:  # a single channel can never leave: it gets no label
                labels = self.classes.fresh(size) if size > 1 else np.zeros(size, dtype=np.int64)
            self.dims[key] = np.array(labels, dtype=np.int64)
            self.notes[key] = SlotNote(tensor, dim, self.dims[key], role)
            self.slots.append(self.notes[key])
        else:
            if (
                self.notes[key].role == "follower"
            ):  # a contraction reads it too: that part must be zero in a mask
                self.notes[key].role = role
            if labels is not None:
                self.unite(
                    self.dims[key],
                    np.asarray(labels),
                    reason or f"{tensor} is shared with other channels",
                )
        return self.dims[key]

    def unite(self, a: Labels, b: Labels, reason: str) -> None:
        """Tie two label arrays of one shape, entry by entry; an entry tied to none is frozen."""
        pairs = np.unique(np.stack(np.broadcast_arrays(a, b)).reshape(2, -1), axis=1).T
        for left, right in pairs.tolist():
            if left and right:
                self.classes.unite(left, right)
            else:
                self.classes.freeze(left or right, self.placed(reason))

    def tie(self, labels: Labels) -> None:
        """Make one unit of all labels in the array; a none among them freezes the rest."""
        values = np.unique(labels).tolist()
        for value in values[1:]:
            if values[0]:
                self.classes.unite(values[0], value)
            else:
                self.classes.freeze(value, self.placed("tied to a channel that never leaves"))

    def freeze(self, labels: Labels, node: fx.Node, reason: str) -> None:
        """Nothing with these labels may leave, and the graph says why."""
        values = [v for v in np.unique(labels).tolist() if v]
        if not values:
            return
        note = Frozen(op_name(node), module_of(node), source_of(node), reason)
        if note not in self.frozen:
            self.frozen.append(note)
        for value in values:
            self.classes.freeze(value, f"{reason} ({place_of(node)})")

    def placed(self, reason: str) -> str:
        """A reason with the operation that is walked, if there is one."""
        return reason if self.now is None else f"{reason} ({place_of(self.now)})"

    def compact(self, labels: Labels) -> Labels:
        """Shrink dimensions along which the classes do not vary to length 1."""
        if not labels.size or labels.size == 1:
            return labels
        roots = self.classes.roots(labels)
        for d in range(labels.ndim):
            if labels.shape[d] > 1 and (roots == np.take(roots, [0], axis=d)).all():
                labels, roots = np.take(labels, [0], axis=d), np.take(roots, [0], axis=d)
        return labels

    def none(self, node: fx.Node) -> Any:
        """Labels of a result that belongs to no channel."""
        value: Any = node.meta.get("val")
        if isinstance(value, list | tuple):
            return [
                np.zeros([1] * v.dim(), dtype=np.int64) if hasattr(v, "dim") else None
                for v in value
            ]
        return np.zeros([1] * value.dim(), dtype=np.int64) if hasattr(value, "dim") else None


VIEWS = frozenset(
    "view reshape expand slice select narrow transpose permute unsqueeze squeeze alias detach split chunk unbind t "
    "getitem flatten unflatten contiguous to diagonal split_with_sizes expand_as swapaxes movedim mT numpy_T "
    "view_as unfold".split()
)


def root_of(node: fx.Node) -> fx.Node:
    """The tensor whose memory a node may show."""
    while (
        node.op == "call_function"
        and op_name(node).removeprefix("<built-in function ").rstrip(">") in VIEWS
    ):
        node = node.args[0]  # type: ignore[assignment]
    return node


def op_name(node: fx.Node) -> str:
    """`aten.relu_.default` -> `relu_`."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "aten" else str(node.target)


def module_of(node: fx.Node) -> str:
    """Dotted name of the innermost module that ran this node."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def place_of(node: fx.Node) -> str:
    """`add in layer1.0; resnet.py:93`."""
    module = module_of(node)
    return f"{op_name(node)}{f' in {module}' if module else ''}; {source_of(node)}"


def source_of(node: fx.Node) -> str:
    """File and line of the innermost frame outside torch, as `file.py:123`."""
    frames = [
        s.strip()
        for s in (node.meta.get("stack_trace") or "").split("\n")
        if s.strip().startswith("File")
    ]
    outside = [f for f in frames if "/torch/" not in f] or frames
    if not outside:
        return "source unknown"
    path, line = outside[-1].split('"')[1], outside[-1].split("line ")[1].split(",")[0]
    return f"{'/'.join(path.split('/')[-2:])}:{line}"
