"""What a walk writes down before groups exist."""

from dataclasses import dataclass

import numpy as np
from torch import fx


@dataclass
class SlotNote:
    """One dimension of one tensor, with labels, before groups exist."""

    tensor: str
    dim: int
    labels: np.ndarray
    role: str


@dataclass
class ContractionNote:
    """One convolution or linear map, before groups exist."""

    node: fx.Node
    kind: str
    weight: str
    bias: str | None
    in_labels: np.ndarray
    out_labels: np.ndarray
    block: int
    per_group: int  # input channels that each output channel reads (all of them for groups=1)
    positions: float
    mixes: bool  # reads all input channels: a consumer
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False  # the weight is (in, out, ...)
    argument: int = 0  # which argument of the node is the input
    extra: tuple[int, ...] = ()  # output_padding
    places: float | None = None  # output positions, where the cost counts input positions
    rows: tuple[int, int] | None = None  # of the weight, where it is a part of a larger one


@dataclass
class ProductNote:
    """One product of computed tensors: multiply-adds per sample, and the labels they are linear in."""

    node: fx.Node
    macs: float
    lines: list[np.ndarray]
    weight: str = ""  # the one factor that is a parameter, if one is


@dataclass
class NormNote:
    """A norm over channels that may leave."""

    node: str
    weight: str
    labels: np.ndarray


@dataclass
class NumberNote:
    """A reshape that names a length: the module that did it, the length, and labels along that dimension."""

    module: str
    length: int
    labels: np.ndarray  # (length, whatever else varies)
    kind: str  # "count" of heads or the like, a "width", "times" that something is repeated, or a "part" of a split
    parts: tuple[int, ...] = ()  # all lengths of the split, and which of them this is
    place: int = 0


@dataclass(frozen=True)
class Part:
    """Some rows of a parameter, e.g. the queries' share of a fused projection."""

    tensor: str
    start: int
    count: int
    shape: tuple[int, ...]  # of the whole parameter
