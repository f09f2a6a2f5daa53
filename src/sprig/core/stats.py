"""What a consumer sees, summed up once: mergeable second moments of its inputs and targets.

Letters: x input columns (D) of one row (an output position of a convolution, a token, a sample),
y targets (O) of that row. Kept: n rows, the means of x and y, and the centred sums
M = sum (x - mean x)(x - mean x)^T, C = sum (y - mean y)(x - mean x)^T, p = sum (y - mean y)^2.
Merging is the pairwise update of Chan, Golub and LeVeque (1983), so batches, processes and federated
clients just add.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sprig.core.errors import InputError

Precision = Literal["float64", "float32"]

# Rows per product: bounds the memory of a chunk and the rounding of a float32 product.
CHUNK = 8192
# Below this many columns one full product beats several half-sized ones.
SYMMETRIC = 1024


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the rows of one consumer; add two with `+`.

    >>> x = torch.arange(12.0).reshape(6, 2) ** 2
    >>> both = Moments.from_rows(x[:2]) + Moments.from_rows(x[2:])
    >>> bool(torch.allclose(both.second, Moments.from_rows(x).second))
    True
    """

    count: float  # rows
    mean: Tensor  # (D,)
    second: Tensor  # (D, D), centred
    target_mean: Tensor  # (O,); O is 0 while no target is known
    cross: Tensor  # (O, D), centred
    power: Tensor  # (O,), centred
    name: str = ""

    @staticmethod
    def empty(inputs: int, outputs: int = 0, *, name: str = "") -> "Moments":
        """No rows yet."""
        return Accumulator(inputs, outputs, name=name).moments()

    @staticmethod
    def from_rows(
        x: Tensor, y: Tensor | None = None, *, name: str = "", precision: Precision = "float64"
    ) -> "Moments":
        """Moments of rows x (n, D) and, where the target is not the consumer's own output, y (n, O)."""
        outputs = 0 if y is None else y.shape[-1]
        sums = Accumulator(x.shape[-1], outputs, name=name, precision=precision, device=x.device)
        return sums.add(x, y).moments()

    def __add__(self, other: "Moments") -> "Moments":
        return merge(self, other)

    def scaled(self, factor: float) -> "Moments":
        """Each row counted `factor` times, e.g. to weigh clients."""
        if not factor > 0:
            raise InputError(f"{self.name or 'moments'}: scale {factor} is not positive")
        sums = {field: getattr(self, field) * factor for field in ("second", "cross", "power")}
        return replace(self, count=self.count * factor, **sums)

    def own(self, weight: Tensor, *, bias: Tensor | None = None) -> "Moments":
        """With the consumer's own output as the target: y = W x (+ bias), so C = W M."""
        w = weight.detach().flatten(1).to(self.second)
        if w.shape[1] != len(self.mean):
            raise InputError(
                f"{self.name or 'moments'}: the weight has {w.shape[1]} columns, the inputs {len(self.mean)}"
            )
        cross = w @ self.second
        mean = w @ self.mean if bias is None else w @ self.mean + bias.detach().to(w)
        power = (cross * w).sum(1).clamp_min(0)
        return replace(self, target_mean=mean, cross=cross, power=power)

    def taking(self, columns: Tensor) -> "Moments":
        """Of some of the input columns only."""
        return replace(
            self,
            mean=self.mean[columns],
            second=self.second[columns[:, None], columns],
            cross=self.cross[:, columns],
        )

    def system(self, *, centred: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """M, C and p per row (divided by the count); raw instead of centred where nothing absorbs a mean."""
        self.check()
        second, cross, power = (t / self.count for t in (self.second, self.cross, self.power))
        if not centred:
            second.addr_(self.mean, self.mean)
            cross.addr_(self.target_mean, self.mean)
            power += self.target_mean**2
        return second, cross, power

    def check(self) -> "Moments":
        """Refuse moments that nothing can be computed from; returns itself."""
        if not self.count > 0:
            who = self.name or "moments"
            raise InputError(f"{who}: no rows were seen; give at least one batch of data")
        _finite(self.name, "inputs", self.second.diagonal())
        _finite(self.name, "targets", self.power)
        return self

    @property
    def dead(self) -> Tensor:
        """(D,) True where a column never varies (beyond the rounding of its mean)."""
        variance = self.second.diagonal() / max(self.count, 1.0)
        return variance <= torch.maximum(1e-13 * self.mean**2, 1e-24 * variance.max())


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the rows of both."""
    if a.second.shape != b.second.shape or a.cross.shape != b.cross.shape:
        raise InputError(
            f"{a.name or 'moments'}: cannot add moments of {tuple(a.cross.shape)} and "
            f"{tuple(b.cross.shape)} (outputs, inputs)"
        )
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    dx, dy = b.mean - a.mean, b.target_mean - a.target_mean
    narrow = dx.to(a.second)
    pull = a.count * b.count / count
    return Moments(
        count=count,
        mean=a.mean + dx * (b.count / count),
        second=(a.second + b.second).addr_(narrow, narrow, alpha=pull),
        target_mean=a.target_mean + dy * (b.count / count),
        cross=(a.cross + b.cross).addr_(dy, dx, alpha=pull),
        power=a.power + b.power + pull * dy**2,
        name=a.name or b.name,
    )


class Accumulator:
    """Adds batches in place; the same sums as merging `Moments`, without a new D x D matrix per batch."""

    def __init__(
        self,
        inputs: int,
        outputs: int = 0,
        *,
        name: str = "",
        precision: Precision = "float64",
        device: torch.device | str = "cpu",
        compact: bool = False,
    ) -> None:
        """`compact` keeps the D x D matrix in float32, half the memory, with products in float32."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.name = name
        self.count = 0
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.mean, self.target_mean = zeros(inputs), zeros(outputs)
        self.cross, self.power = zeros(outputs, inputs), zeros(outputs)
        self.second = zeros(inputs, inputs).float() if compact else zeros(inputs, inputs)

    def add(self, x: Tensor, y: Tensor | None = None) -> "Accumulator":
        """Add rows x (n, D) and, if targets are kept, y (n, O)."""
        who = self.name or "moments"
        inputs, outputs = len(self.mean), len(self.target_mean)
        if x.ndim != 2 or x.shape[1] != inputs:
            raise InputError(
                f"{who}: expected rows of {inputs} inputs, found shape {tuple(x.shape)}"
            )
        found = (len(x), 0) if y is None else tuple(y.shape)
        if found != (len(x), outputs):
            raise InputError(f"{who}: expected targets of shape {(len(x), outputs)}, found {found}")
        for at in range(0, len(x), CHUNK):
            self._add(x[at : at + CHUNK], y[at : at + CHUNK] if y is not None and outputs else None)
        return self

    def _add(self, x: Tensor, y: Tensor | None) -> None:
        n = len(x)
        mean, x = _centre(x.detach(), self.dtype)
        _finite(self.name, "inputs", mean)
        total = self.count + n
        pull = self.count * n / total
        dx = mean - self.mean
        _add_gram(self.second, x)
        self.second.addr_(dx.to(self.second), dx.to(self.second), alpha=pull)
        if y is not None:
            target_mean, y = _centre(y.detach(), self.dtype)
            _finite(self.name, "targets", target_mean)
            dy = target_mean - self.target_mean
            self.cross += y.mT @ x
            self.cross.addr_(dy, dx, alpha=pull)
            self.power += y.to(torch.float64).square().sum(0) + pull * dy**2
            self.target_mean += dy * (n / total)
        self.mean += dx * (n / total)
        self.count = total

    def moments(self) -> Moments:
        """The sums so far, as a record of its own on the CPU, where selection is solved in float64."""
        second = self.second.to("cpu", copy=True)
        _mirror(second)
        fields = ("mean", "target_mean", "cross", "power")
        rest = {field: getattr(self, field).to("cpu", copy=True) for field in fields}
        return Moments(count=float(self.count), second=second, name=self.name, **rest)


def _finite(name: str, label: str, t: Tensor) -> None:
    if not bool(torch.isfinite(t).all()):
        who = name or "moments"
        raise InputError(f"{who}: its {label} are not finite; look for NaN or inf before it")


def _centre(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean of the rows in float64, and the rows less that mean in the dtype of the product."""
    mean = x.mean(0, dtype=torch.float64)
    if dtype == torch.float64:
        return mean, x.to(dtype) - mean
    # A float32 mean leaves a rest of order 1e-7 x mean; taking it out again keeps the chunk centred.
    rough = mean.to(dtype)
    return mean, (x.to(dtype) - rough) - (mean - rough).to(dtype)


def _add_gram(total: Tensor, x: Tensor) -> None:
    """total += x^T x; of a large matrix only blocks on and below the diagonal (see `_mirror`)."""
    size = len(total)
    if size < SYMMETRIC:
        total += x.mT @ x
        return
    for a, b in _panels(size):
        if x.dtype == total.dtype:
            total[a:, a:b].addmm_(x[:, a:].mT, x[:, a:b])
        else:
            total[a:, a:b] += x[:, a:].mT @ x[:, a:b]


def _mirror(second: Tensor) -> None:
    """Copy what lies below the diagonal to above it, so that the matrix is symmetric to the last bit."""
    for a, b in _panels(len(second)):
        second[a:b, b:] = second[b:, a:b].mT
        corner = second[a:b, a:b]
        corner.copy_(corner.tril() + corner.tril(-1).mT)


def _panels(size: int) -> list[tuple[int, int]]:
    step = max(256, -(-size // 8))
    return [(a, min(size, a + step)) for a in range(0, size, step)]


class Rows(NamedTuple):
    """Sampled rows of a consumer's input and where they were taken."""

    x: Tensor  # (P, D); columns ordered as `weight.flatten(1)`: channel, then kernel position
    where: Tensor  # (P,) ascending positions in (sample, *output size) flattened


def rows(
    x: Tensor,
    kind: Literal["conv", "linear"],
    *,
    kernel: Sequence[int] = (),
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> Rows:
    """The rows that a consumer multiplies with its flattened weight, at most `limit` of them.

    Positions are drawn without replacement, all equally likely, *before* anything is unfolded, so cost and
    memory go with the sample. Convolutions of any dimension, zero padding. For a grouped convolution give
    the channels of one conv group. Take the targets at the same places with `targets_at`.

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> rows(image, "conv", kernel=(2, 2), stride=(2, 2)).x
    tensor([[ 0.,  1.,  4.,  5.],
            [ 2.,  3.,  6.,  7.],
            [ 8.,  9., 12., 13.],
            [10., 11., 14., 15.]])
    """
    x = x.detach()
    if kind == "linear":
        flat = x.reshape(-1, x.shape[-1])
        where = _sample(len(flat), limit, generator)
        return Rows(flat[where] if len(where) < len(flat) else flat, where.to(x.device))
    space = x.shape[2:]
    dims = len(space)
    kernel = tuple(kernel) or (1,) * dims
    stride, dilation = tuple(stride) or (1,) * dims, tuple(dilation) or (1,) * dims
    padding = tuple(padding) or (0,) * dims
    if not len(kernel) == len(stride) == len(dilation) == len(padding) == dims:
        raise InputError(
            f"a convolution over {dims} dimensions needs {dims} numbers each for kernel, stride, padding "
            f"and dilation; found {kernel}, {stride}, {padding}, {dilation}"
        )
    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(space, padding, dilation, kernel, stride, strict=True)
    ]
    if min(out) < 1:
        raise InputError(f"an input of size {tuple(space)} is too small for a kernel of {kernel}")
    where = _sample(len(x) * reduce(int.__mul__, out), limit, generator).to(x.device)
    pixels = x.movedim(1, -1)  # a view: only the sampled places are ever copied
    sample, corner = _corners(where, out, stride, padding)
    taps = []
    for tap in product(*(range(k) for k in kernel)):
        index, inside = [sample], torch.ones_like(where, dtype=torch.bool)
        for c, t, d, s in zip(corner, tap, dilation, space, strict=True):
            at = c + t * d
            inside &= (at >= 0) & (at < s)
            index.append(at.clamp(0, s - 1))
        picked = pixels[tuple(index)]
        taps.append(picked if bool(inside.all()) else picked.masked_fill(~inside[:, None], 0))
    columns = taps[0] if len(taps) == 1 else torch.stack(taps, -1).flatten(1)
    return Rows(columns, where)


def targets_at(y: Tensor, where: Tensor, kind: Literal["conv", "linear"]) -> Tensor:
    """The rows (P, O) of an output (N, O, ...) of a convolution, or (..., O) of a linear map, at `where`."""
    last = y.detach().movedim(1, -1) if kind == "conv" else y.detach()
    if last.ndim == 2:
        return last[where]
    return last[torch.unravel_index(where, last.shape[:-1])]


def _sample(total: int, limit: int | None, generator: torch.Generator | None) -> Tensor:
    if limit is None or limit >= total:
        return torch.arange(total)
    if generator is None:
        raise InputError(
            "sampling positions needs a torch.Generator, so that a seed fixes the sample"
        )
    return torch.randperm(total, generator=generator)[:limit].sort().values


def _corners(
    where: Tensor, out: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Sample number, and first input coordinate per dimension, of each output position."""
    corner: list[Tensor] = []
    for size, step, pad in zip(reversed(out), reversed(stride), reversed(padding), strict=True):
        corner.insert(0, where % size * step - pad)
        where = where // size
    return where, corner
