"""Second moments whose bits do not depend on the order in which batches, or processes, are added up.

Floating sums depend on their order. Here every column is first scaled by a power of two, which is exact, so that its
products may be rounded to whole numbers far below their own accuracy; whole numbers below 2^53 add exactly in float64.
What is left, the scatter of the batches' means, is summed at the end, in the order of the batches.

Letters: x input columns (D) of a row, y targets (O), s the power of two of a column. Kept: sum of round(s s (x - m)^T
(x - m)) with m the mean of the rows of its own piece, and m and the count of every piece.
Beyond 2^53 nothing breaks: sums are then rounded as all floating sums are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.ranks import Ranks
from sprig.core.stats import CHUNK, Moments, centre, check_numbers, mirror, panels

FINE = 38  # bits of the first piece's power per column in float64: 2^15 such pieces fit
COARSE = 25  # bits of all pieces' power in int32: 2^6 times that fits
QUIET, SILENT = 2.0**-6, 2.0**-40  # of the usual power of a column
FULL = 2.0**31 - 2.0**26  # where int32 ends, with room for what rounding adds


@dataclass(frozen=True)
class Grid:
    """The power of two of every column, the same in all processes."""

    inputs: Tensor  # (D,) float64
    outputs: Tensor  # (O,)

    @staticmethod
    def of(x: Tensor, y: Tensor | None, *, bits: float) -> "Grid":
        """For columns that have about the power of these rows (n, D) and (n, O)."""
        empty = x.new_zeros(0, dtype=torch.float64)
        return Grid(_scale(x, bits), empty if y is None else _scale(y, FINE))

    @staticmethod
    def shared(
        x: Tensor | None, y: Tensor | None, shape: tuple[int, int], ranks: Ranks, *, bits: float
    ) -> "Grid":
        """The first process's grid in all; the others need no rows."""
        if ranks.alone and x is not None:
            return Grid.of(x, y, bits=bits)
        both = torch.ones(sum(shape), dtype=torch.float64)
        if ranks.first:
            if x is None:
                raise InputError("the first process has no data; give it at least one batch")
            found = Grid.of(x, y, bits=bits)
            both = torch.cat([found.inputs, found.outputs]).cpu()
        ranks.spread_(both)
        return Grid(both[: shape[0]], both[shape[0] :])


def _scale(x: Tensor, bits: float) -> Tensor:
    """(D,) powers of two s for which s^2 times the power of the column is about 2^bits."""
    if not len(x):  # nothing but padding: as for rows of power 1
        x = torch.ones(1, x.shape[1], device=x.device)
    rows = x[:CHUNK]
    _, rows = centre(rows, torch.float32)
    power = rows.square().sum(0).double() * (len(x) / max(len(rows), 1))
    power = power.nan_to_num(nan=1.0, posinf=1.0)  # refused with its name when it is added
    alive = power[power > 0]
    if len(
        alive
    ):  # a column that is silent here may speak later on; int32 has no room for a whisper that gets loud
        usual = float(alive.median())
        silent = power < usual * (SILENT if bits == FINE else QUIET)
        power = power.masked_fill(silent, usual * QUIET)
    else:
        power = x.square().sum(0, dtype=torch.float64).nan_to_num(nan=1.0, posinf=1.0)
        power = power.clamp_min(2.0**-40)
    exponent = np.floor((bits - np.log2(power.cpu().numpy())) / 2).astype(int)
    return torch.from_numpy(np.ldexp(1.0, np.clip(exponent, -90, 90))).to(x.device)


class Scratch:
    """Memory that is used over and over: to be given fresh memory takes longer than to add up what is put there."""

    def __init__(self) -> None:
        self.kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def take(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(rows, columns) of anything, until the next call with that type."""
        kept = self.kept.get((dtype, device))
        if kept is None or len(kept) < rows * columns:
            kept = self.kept[dtype, device] = torch.empty(
                rows * columns, dtype=dtype, device=device
            )
        return kept[: rows * columns].view(rows, columns)


class Sums:
    """Adds pieces of data in any order, in any process, to the same bits."""

    def __init__(
        self,
        inputs: int,
        outputs: int = 0,
        *,
        name: str = "",
        device: torch.device | str = "cpu",
        compact: bool = False,
        scratch: tuple[Scratch, Scratch] | None = None,
    ) -> None:
        """`compact` keeps the D x D matrix in int32, half the memory, as long as its numbers fit.

        scratch: for rows and for products; sums that are added to one after the other can share it.
        """
        self.scratch = scratch or (Scratch(), Scratch())
        self.name, self.half, self.compact = name, compact, compact
        self.inputs, self.outputs = inputs, outputs
        self.device = torch.device(device)
        kind = torch.int32 if compact else torch.float64
        self.second = torch.zeros(inputs, inputs, dtype=kind, device=device)
        self.cross = torch.zeros(outputs, inputs, dtype=torch.float64, device=device)
        self.power = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.pieces: dict[tuple[int, int], tuple[int, Tensor, Tensor]] = {}  # count, means

    def add(self, x: Tensor, y: Tensor | None, grid: Grid, *, number: int) -> None:
        """Rows (n, D) and targets (n, O) of the piece of that number, all of them at once."""
        found = 0 if y is None else y.shape[1]
        if x.shape[1] != self.inputs or found != self.outputs:
            raise InputError(
                f"{self.name or 'moments'}: expected {self.inputs} inputs and {self.outputs} targets, found "
                f"{x.shape[1]} and {found}"
            )
        for at in range(0, len(x), CHUNK):
            part = None if y is None else y[at : at + CHUNK]
            self._add(x[at : at + CHUNK], part, grid, (number, at))

    def _add(self, x: Tensor, y: Tensor | None, grid: Grid, at: tuple[int, int]) -> None:
        room = self.scratch[0].take(len(x), x.shape[1], torch.float32, x.device)
        mean, x = centre(x.detach(), torch.float32, out=room)
        check_numbers(self.name, "inputs", mean)
        x = x.mul_(grid.inputs.to(x))
        self._gram(x)
        target_mean = torch.zeros(0, dtype=torch.float64)
        if y is not None:
            target_mean, y = centre(y.detach(), torch.float32)
            check_numbers(self.name, "targets", target_mean)
            y = y.mul_(grid.outputs.to(y))
            self.cross += (y.mT @ x).round_()
            self.power += y.double().square().sum(0).round_()
        self.pieces[at] = (len(x), mean.cpu(), target_mean.cpu())

    def _gram(self, x: Tensor) -> None:
        """second += x^T x in whole numbers, on and below the diagonal (see `mirror`)."""
        scratch, size = self.scratch[1], len(self.second)
        if self.compact:
            # int32 is left before a number gets too large for it; none is larger than the largest on the diagonal
            squares = torch.mul(x, x, out=scratch.take(len(x), size, x.dtype, x.device))
            power = squares.sum(0).double() + self.second.diagonal()
            if float(power.max()) >= FULL:
                self._widen()
        for a, b in panels(size):
            product = scratch.take(size - a, b - a, x.dtype, x.device)
            torch.mm(x[:, a:].mT, x[:, a:b], out=product).round_()
            whole = scratch.take(size - a, b - a, self.second.dtype, x.device)
            self.second[a:, a:b] += whole.copy_(product)

    def _widen(self) -> None:
        self.second, self.compact = self.second.double(), False

    def merge(self, ranks: Ranks) -> None:
        """Add up what all processes have."""
        if ranks.alone:
            return
        if self.half:  # all must know whether the sum fits, and whether all still have whole numbers of 32 bits
            wide = torch.tensor([float(not self.compact)], dtype=torch.float64)
            told = ranks.add_(torch.cat([wide, self.second.diagonal().cpu().double()]))
            if self.compact and (float(told[0]) > 0 or float(told[1:].max()) >= FULL):
                self._widen()
        for a, b in panels(len(self.second)):
            rows = self.second[a:b]
            rows.copy_(ranks.add_(rows.contiguous()))
        ranks.add_(self.cross)
        ranks.add_(self.power)
        parts = ranks.gather(self.pieces)
        self.pieces = {at: piece for part in parts for at, piece in part.items()}

    def close(self, grid: Grid | None) -> Moments:
        """The moments on the CPU, in the memory that they stand in: nothing may be added any more."""
        order = sorted(self.pieces)
        counts = torch.tensor([self.pieces[at][0] for at in order], dtype=torch.float64)
        total = float(counts.sum())
        if grid is None or not total:
            return Moments(
                0.0, torch.zeros(self.inputs, dtype=torch.float64), self._real(None).cpu(),
                torch.zeros(self.outputs, dtype=torch.float64), self.cross.cpu(), self.power.cpu(), self.name,
            )  # fmt: skip
        means = torch.stack([self.pieces[at][1] for at in order])
        targets = torch.stack([self.pieces[at][2] for at in order])
        mean, target_mean = (counts @ m / total for m in (means, targets))
        root = counts.sqrt()[:, None]
        dx, dy = (means - mean) * root, (targets - target_mean) * root
        second = self._real(grid.inputs).cpu()
        second.addmm_(dx.mT.to(second), dx.to(second))
        mirror(second)
        columns, outputs = grid.inputs.cpu(), grid.outputs.cpu()
        cross = self.cross.cpu() / outputs[:, None] / columns
        power = self.power.cpu() / outputs.square() + dy.square().sum(0)
        return Moments(total, mean, second, target_mean, cross + dy.mT @ dx, power, self.name)

    def _real(self, scale: Tensor | None) -> Tensor:
        """From whole numbers to real ones; int32 becomes float32 where it stands."""
        if scale is None:
            scale = torch.ones(self.inputs, dtype=torch.float64, device=self.device)
        if self.half and not self.compact:
            out = torch.empty(self.second.shape, dtype=torch.float32, device=self.second.device)
        else:
            out = self.second.view(torch.float32) if self.compact else self.second
        kind = torch.float32 if self.compact else torch.float64  # powers of two: exact in either
        down = scale.reciprocal().to(self.second.device, kind)
        for a, b in panels(len(out)):
            rows = self.second[a:b].to(kind)
            out[a:b] = rows.mul_(down[a:b, None]).mul_(down)
        return out
