"""What a consumer sees, summed up once: mergeable second moments of its inputs and targets.

Letters: x input columns (D) of one row (an output position of a convolution, a token, a sample),
y targets (O) of that row. Kept: n rows, the means of x and y, and the centred sums
M = sum (x - mean x)(x - mean x)^T, C = sum (y - mean y)(x - mean x)^T, p = sum (y - mean y)^2.
Merging is the pairwise update of Chan, Golub and LeVeque (1983), so batches, processes and federated
clients just add.
"""

from dataclasses import dataclass, replace
from typing import Literal

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
        mean = w.to(self.mean) @ self.mean
        if bias is not None:
            mean = mean + bias.detach().to(mean)
        power = (cross * w).sum(1, dtype=torch.float64).clamp_min(0)
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
        second = self.second / self.count
        if not centred:
            second.addr_(self.mean, self.mean)
        return second, *self.targets(slice(None), centred=centred)

    def targets(self, columns: Tensor | slice, *, centred: bool = True) -> tuple[Tensor, Tensor]:
        """C and p of `system`, C of some of the input columns."""
        cross, power = self.cross[:, columns] / self.count, self.power / self.count
        if not centred:
            cross.addr_(self.target_mean, self.mean[columns])
            power += self.target_mean**2
        return cross, power

    def check(self) -> "Moments":
        """Refuse moments that nothing can be computed from; returns itself."""
        if not self.count > 0:
            who = self.name or "moments"
            raise InputError(f"{who}: no rows were seen; give at least one batch of data")
        check_numbers(self.name, "inputs", self.second.diagonal())
        check_numbers(self.name, "targets", self.power)
        return self

    @property
    def dead(self) -> Tensor:
        """(D,) True where a column never varies (beyond the rounding of its mean)."""
        variance = self.second.diagonal() / max(self.count, 1.0)
        return variance <= torch.maximum(1e-13 * self.mean**2, 1e-24 * variance.max())


def merge(a: Moments, b: Moments, *, into: bool = False) -> Moments:
    """Moments of the rows of both; `into`: in the memory of b's matrix, which is then used up."""
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
        second=torch.add(a.second, b.second, out=b.second if into else None).addr_(
            narrow, narrow, alpha=pull
        ),
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

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.name = name
        self.count = 0
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.mean, self.target_mean = zeros(inputs), zeros(outputs)
        self.cross, self.power = zeros(outputs, inputs), zeros(outputs)
        self.second = zeros(inputs, inputs, dtype=torch.float32 if compact else torch.float64)

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
        mean, x = centre(x.detach(), self.dtype)
        check_numbers(self.name, "inputs", mean)
        total = self.count + n
        pull = self.count * n / total
        dx = mean - self.mean
        _add_gram(self.second, x)
        self.second.addr_(dx.to(self.second), dx.to(self.second), alpha=pull)
        if y is not None:
            target_mean, y = centre(y.detach(), self.dtype)
            check_numbers(self.name, "targets", target_mean)
            dy = target_mean - self.target_mean
            self.cross += y.mT @ x
            self.cross.addr_(dy, dx, alpha=pull)
            self.power += y.to(torch.float64).square().sum(0) + pull * dy**2
            self.target_mean += dy * (n / total)
        self.mean += dx * (n / total)
        self.count = total

    def moments(self) -> Moments:
        """The sums so far, as a record of its own on the CPU, where selection is solved in float64."""
        return self._moments(copy=True)

    def close(self) -> Moments:
        """The sums, in the memory that they stand in: for the end, as nothing may be added any more."""
        return self._moments(copy=False)

    def _moments(self, *, copy: bool) -> Moments:
        fields = ("second", "mean", "target_mean", "cross", "power")
        sums = {field: getattr(self, field).to("cpu", copy=copy) for field in fields}
        mirror(sums["second"])
        return Moments(count=float(self.count), name=self.name, **sums)


def check_numbers(name: str, label: str, t: Tensor) -> None:
    """Refuse NaN and infinity."""
    if not bool(torch.isfinite(t).all()):
        who = name or "moments"
        raise InputError(f"{who}: its {label} are not finite; look for NaN or inf before it")


def centre(x: Tensor, dtype: torch.dtype, *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean of the rows in float64, and the rows less that mean in the dtype of the product."""
    if dtype == torch.float64:
        mean = x.mean(0, dtype=torch.float64)
        return mean, x.to(dtype) - mean
    # A float32 mean leaves a rest of order 1e-7 x mean; what is centred by it can be averaged exactly enough.
    rough = x.mean(0, dtype=dtype)
    x = torch.sub(x.to(dtype), rough, out=out)
    rest = x.mean(0)
    return rough.double() + rest.double(), x.sub_(rest)


def _add_gram(total: Tensor, x: Tensor) -> None:
    """total += x^T x; of a large matrix only blocks on and below the diagonal (see `mirror`)."""
    size = len(total)
    if size < SYMMETRIC:
        total += x.mT @ x
        return
    for a, b in panels(size):
        if x.dtype == total.dtype:
            total[a:, a:b].addmm_(x[:, a:].mT, x[:, a:b])
        else:
            total[a:, a:b] += x[:, a:].mT @ x[:, a:b]


def mirror(second: Tensor) -> None:
    """Copy what lies below the diagonal to above it, so that the matrix is symmetric to the last bit."""
    for a, b in panels(len(second)):
        second[a:b, b:] = second[b:, a:b].mT
        corner = second[a:b, a:b]
        corner.copy_(corner.tril() + corner.tril(-1).mT)


def panels(size: int) -> list[tuple[int, int]]:
    """Ranges of rows that a matrix is worked through in."""
    step = max(256, -(-size // 8))
    return [(a, min(size, a + step)) for a in range(0, size, step)]
