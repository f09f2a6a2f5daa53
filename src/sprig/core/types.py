"""The frozen records that cross folder borders, and nothing that computes.

One polarity everywhere: *keep*. Masks are True, indices and fractions speak of what stays.
Unit and group numbers index `Graph.groups` and the units inside one group; -1 means "never leaves".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Unit = Literal["macs", "params", "bytes", "latency_ms"]


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of a tensor, entry by entry: the group and the unit that each entry belongs to."""

    group: np.ndarray  # (size,) int64, -1: this entry never leaves
    unit: np.ndarray  # (size,) int64, -1 where group is -1

    def __len__(self) -> int:
        return len(self.group)

    def keep(self, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """Boolean mask of the entries that stay; groups that `masks` does not name stay whole."""
        out = np.ones(len(self.group), dtype=bool)
        for index, mask in masks.items():
            here = self.group == index
            out[here] = np.asarray(mask, dtype=bool)[self.unit[here]]
        return out


@dataclass(frozen=True, eq=False)
class Slot:
    """One dimension of one parameter or buffer that is cut when units leave."""

    tensor: str  # name as in `named_parameters` / `named_buffers`
    dim: int
    axis: Axis
    role: Literal["producer", "follower", "consumer"]


@dataclass(frozen=True, eq=False)
class Number:
    """A length that a module's Python may take from an attribute of its own, e.g. its number of heads."""

    module: str
    length: int
    axis: Axis  # what lies along it
    kind: Literal["count", "width", "times", "part", "config"]
    parts: tuple[int, ...] = ()  # of a split: all its lengths, and which of them this is
    place: int = 0


@dataclass(frozen=True, eq=False)
class Consumer:
    """A contraction over channels: a convolution or a linear map that ends the labels of its input.

    Its weight, flattened to (out, in_channels * block), has `block` columns per input channel.
    """

    node: str  # name of the node in the exported graph: one call of the operation
    order: int  # position of that node in data-flow order
    kind: Literal["conv", "linear"]
    weight: str
    bias: str | None
    axis: Axis  # over the input channels of the weight (dimension 1; 0 if transposed)
    block: int  # kernel positions per input channel; 1 for linear
    out: int  # output channels O
    positions: int  # output positions per sample
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    norm: str | None = None  # prefix of the batch norm that alone reads the output, if there is one
    transposed: bool = False  # the weight is (in, out, ...), as of a transposed convolution
    argument: int = 0  # which argument of the node is the input
    extra: tuple[int, ...] = ()  # output_padding of a transposed convolution

    def matrix(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The weight with the outputs first."""
        weight = weights[self.weight]
        return weight.transpose(0, 1) if self.transposed else weight

    def stored(self, matrix: Tensor, old: Tensor) -> Tensor:
        """A weight with the outputs first, perhaps flattened behind them, as the tensor `old` keeps it."""
        if not self.transposed:
            return matrix.reshape(old.shape).to(old)
        back = matrix.reshape(old.shape[1], old.shape[0], *old.shape[2:])
        return back.transpose(0, 1).contiguous().to(old)

    @property
    def groups(self) -> tuple[int, ...]:
        """The groups among the input channels, ascending."""
        return tuple(int(g) for g in np.unique(self.axis.group) if g >= 0)


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over channels that may leave (see core/norms.py)."""

    node: str  # name of its first call in the exported graph; empty: runs only in training mode
    weight: str  # the gain, one entry per channel
    axis: Axis  # over the channels


@dataclass(frozen=True, eq=False)
class Group:
    """All units that share one choice."""

    index: int
    name: str  # the weight's module of the first producer, e.g. "layer1.0.conv1"
    size: int  # number of units
    producers: tuple[str, ...]  # tensor names
    followers: tuple[str, ...]
    consumers: tuple[int, ...]  # indices into Graph.consumers
    channels: int  # channels of all units together, counted at the producers
    reason: str | None = None  # why nothing may leave; None: may be pruned

    @property
    def prunable(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, eq=False)
class CostTerm:
    """coefficient x product over dims of (size kept in that dimension)."""

    unit: Literal["macs", "params", "bytes"]
    coefficient: float
    axes: tuple[Axis, ...]
    where: str  # node or tensor
    weight: str = ""  # of multiply-adds: the tensor whose entries are multiplied; empty: none's
    rows: tuple[int, int] | None = None  # from and before which of its rows; None: all


@dataclass(frozen=True)
class Frozen:
    """An operation that stopped labels: what, where, and how many channels it froze."""

    op: str
    module: str
    source: str
    reason: str


@dataclass(frozen=True, eq=False)
class Part:
    """A submodule that was traced alone, with what it gets and gives while the whole model runs on the example."""

    name: str
    graph: "Graph"  # in the submodule's own names
    first: int  # number of its first group in the graph of the whole model
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@dataclass(frozen=True, eq=False)
class Graph:
    """What `trace` found: groups, the tensor slices tied to them, and what everything costs."""

    groups: tuple[Group, ...]
    slots: tuple[Slot, ...]
    consumers: tuple[Consumer, ...]
    terms: tuple[CostTerm, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]  # of every parameter and buffer
    fingerprint: str  # sha256 over groups, slots and shapes: tells models apart
    numbers: tuple[Number, ...] = ()
    norms: tuple[Norm, ...] = ()  # over channels that may leave
    ranges: tuple[Axis, ...] = ()  # channels that a call takes apart by their places
    program: Any = field(repr=False, default=None)  # torch.export.ExportedProgram; None with parts
    parts: tuple[Part, ...] = field(repr=False, default=())  # where only submodules were traced

    def group(self, name: str) -> Group:
        for g in self.groups:
            if g.name == name:
                return g
        raise KeyError(name)

    @property
    def prunable(self) -> tuple[Group, ...]:
        return tuple(g for g in self.groups if g.prunable)


@dataclass(frozen=True)
class Budget:
    """The most the result may cost. A float in (0, 1] is a fraction of the dense cost, more is absolute."""

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency_ms: float | None = None
    latency: float | None = None


@dataclass(frozen=True)
class GroupPath:
    """The whole order of picks of one group, best first, with the error at every size.

    `errors[n]` is the error with the first n picks (so length size + 1, errors[0] with nothing kept);
    `floor[n]` is a lower bound on the error of *any* n units; `gains[n]` is what pick n brought.
    Errors are relative: 1 is "all of the consumers' output is lost".
    """

    group: str
    order: tuple[int, ...]
    gains: tuple[float, ...]
    errors: tuple[float, ...]
    floor: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A plan plus weights in the *original* shapes (only the tensors that were changed)."""

    plan: Any  # core.plan.Plan
    weights: Mapping[str, Tensor]
    notes: Mapping[str, Any] = field(
        default_factory=dict
    )  # e.g. submodularity ratios, for the certificate


@dataclass(frozen=True)
class Claim:
    """One statement with its number, the tolerance it is held to, the data, and how it was checked."""

    name: str
    statement: str
    passed: bool
    value: float
    tolerance: float | None
    data: str
    how: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """A list of claims that anyone can recheck from the files of a run folder."""

    claims: tuple[Claim, ...]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seed: int

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.claims)


@dataclass(frozen=True)
class Measures:
    """What a model costs and how well it does; the row of every before/after table."""

    macs: int
    params: int
    bytes: int
    latency_ms: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # "1" -> median, low, high
    quality: Mapping[str, float] = field(default_factory=dict)  # "accuracy", "agreement", "kl", ...


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the first parameter or buffer lies; the CPU for a model without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def tensor_of(model: torch.nn.Module, name: str) -> Tensor:
    """The parameter or buffer called `name`."""
    owner, _, attr = name.rpartition(".")
    return getattr(model.get_submodule(owner), attr)


@dataclass(frozen=True)
class GroupRow:
    """One group as the report shows it."""

    name: str
    size: int
    kept: tuple[int, ...]  # unit numbers that stay
    reason: str | None  # why it may not be touched
    macs_share: float  # share of the dense MACs that falls with this group's width
    errors: tuple[float, ...] = ()  # see GroupPath; empty for groups without a path
    floor: tuple[float, ...] = ()
    hurt: tuple[float, ...] = ()  # measured harm to the network's output at every size


@dataclass(frozen=True)
class CurvePoint:
    """One budget along the whole path: what it costs, what was predicted, what was measured (if it was)."""

    fraction: float  # of the dense cost, in the unit of the budget
    macs: int
    params: int
    predicted: float  # predicted harm to the output
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """Everything in a run folder that a report needs."""

    title: str
    config: Mapping[str, Any]
    plan: Any  # core.plan.Plan
    certificate: Certificate | None
    before: Measures
    after: Measures
    groups: tuple[GroupRow, ...]
    curve: tuple[CurvePoint, ...]
    log: tuple[Mapping[str, Any], ...] = ()  # metrics.jsonl, e.g. fine-tuning epochs
