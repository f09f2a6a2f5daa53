"""Block elimination with pivoting: the inner loop of forward and backward selection.

State (unit-diagonal scale): P the Schur complement of H after the units taken so far, Q the residual moment of the
targets. Taking the unit with columns I, where F F^T = P_II^-1:

    gain = tr(P_II^-1 Q_I^T Q_I),   V = P_{:,I} F,   B = Q_I F,   P <- P - V V^T,   Q <- Q - B V^T.

Started on (H^-1, T H^-1) instead of (H, T) the same recursion removes units, and `gain` is the exact cost.
Only the diagonal blocks of P and N_i = Q_i^T Q_i are kept current at every step; the updates of P and Q themselves wait
until a panel is full and are then one matrix product each. Taken units are cut out when an eighth has gone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sprig.methods.greedy.problem import half_inverse, inverse_root

PANEL = 96  # columns whose updates wait
COMPACT = 0.875  # cut when fewer than this part of the stored units is left


class Start(NamedTuple):
    """The candidates of one consumer, base columns projected out, unit-major with equal blocks."""

    p: Tensor  # (U k, U k), unit diagonal before the base was projected out; dummies where units are narrower
    q: Tensor  # (O', U k); the targets rotated to at most as many rows as columns
    units: Tensor  # (U,) unit numbers, ascending; units without columns here do not appear
    block: int  # k
    base: float  # power that the base explains


def prepare(h: Tensor, t: Tensor, columns: Tensor, *, dtype: torch.dtype = torch.float64) -> Start:
    """Order the columns by unit, scale to unit diagonal, project out the base columns."""
    base, layout, units, block = arrange(columns)
    root = inverse_root(h.diagonal())
    dummy = layout < 0
    index = layout.clamp_min(0)
    # A gather of the whole matrix is skipped where the columns already stand in order.
    ordered = len(index) == len(h) and bool((index == torch.arange(len(h))).all())
    scale = root[index].masked_fill(dummy, 0)
    p = (h if ordered else h[index][:, index]) * scale[:, None]
    p *= scale
    q = t[:, index] * scale
    # Dead columns and dummies: 1 on the diagonal, nothing elsewhere.
    p.diagonal().masked_fill_(scale == 0, 1)
    if bool((scale == 0).any()):
        q[:, scale == 0] = 0
    explained = 0.0
    if len(base):
        rb = root[base]
        f = half_inverse(h[base][:, base] * rb[:, None] * rb)
        v = f.mT @ (h[base][:, index] * rb[:, None] * scale)
        b = (t[:, base] * rb) @ f
        p.addmm_(v.mT, v, alpha=-1)
        q.addmm_(b, v, alpha=-1)
        explained = float(b.square().sum())
    if len(q) > q.shape[1]:  # a rotation of the outputs changes no gain
        q = torch.linalg.qr(q, mode="r").R
    return Start(p.to(dtype), q.to(dtype), units, block, explained)


def arrange(columns: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Base columns; candidate columns unit by unit, padded with -1 to equal blocks; unit numbers; block."""
    base = (columns < 0).nonzero().flatten()
    live = (columns >= 0).nonzero().flatten()
    order = live[columns[live].argsort(stable=True)]
    units, counts = columns[live].unique(return_counts=True)
    block = int(counts.max()) if len(counts) else 1
    layout = torch.full((len(units), block), -1)
    layout[torch.arange(block) < counts[:, None]] = order
    return base, layout.flatten(), units, block


class Elimination:
    """One consumer's P and Q while units are taken, in place."""

    def __init__(self, start: Start, size: int, *, panel: int = PANEL) -> None:
        self.p, self.q, self.block = start.p, start.q, start.block
        self.units = start.units
        self.slot = torch.full((size,), -1)
        self.slot[start.units] = torch.arange(len(start.units))
        self.alive = torch.ones(len(start.units), dtype=torch.bool)
        self.cutoff = 1e-10 if self.p.dtype == torch.float64 else 1e-5
        self.panel = max(1, panel // self.block) * self.block
        self.used = 0
        self._rest()

    def gains(self) -> Tensor:
        """(U stored,) exact gain of each stored unit; 0 for taken ones and those that bring nothing new."""
        if self.block == 1:
            d, n = self.diagonal[:, 0, 0], self.norms[:, 0, 0]
            return torch.where(d > self.cutoff, n / d.clamp_min(self.cutoff), 0).clamp_min(0)
        factor, info = torch.linalg.cholesky_ex(self.diagonal)
        smallest = factor.diagonal(dim1=1, dim2=2).amin(1).square()
        fine = (info == 0) & (smallest > self.cutoff)
        if bool(fine.all()):
            return (torch.cholesky_inverse(factor) * self.norms).sum((1, 2)).clamp_min(0)
        gains = torch.zeros_like(smallest)
        gains[fine] = (torch.cholesky_inverse(factor[fine]) * self.norms[fine]).sum((1, 2))
        f = half_inverse(self.diagonal[~fine], cutoff=self.cutoff)
        gains[~fine] = (f.mT @ self.norms[~fine] @ f).diagonal(dim1=1, dim2=2).sum(1)
        return gains.clamp_min(0)

    def take(self, unit: int) -> float:
        """Take one unit; its gain."""
        return self.take_together([unit])[0]

    def take_together(self, units: Sequence[int]) -> list[float]:
        """Take a few units in one sweep over the matrices; what each brings after those before it."""
        slots = [int(self.slot[u]) for u in units]
        stored = [s for s in slots if s >= 0]
        if len(stored) > 1 and len(stored) * self.block > self.panel - self.used:
            self._flush()
            slots = [int(self.slot[u]) for u in units]
            stored = [s for s in slots if s >= 0]
        if not stored:
            return [0.0] * len(units)
        if len(units) == self.block == 1:
            return [self._take_column(units[0], stored[0])]
        k, used = self.block, self.used
        mine = (torch.tensor(stored)[:, None] * k + torch.arange(k)).flatten()
        vs, bs = self.v[:used], self.b[:used]
        lower = vs[:, mine].mT
        row = self.p[mine] - lower @ vs
        f = self._half(self.diagonal[stored[0]]) if len(stored) == 1 else self._root(row[:, mine])
        if f is None:  # they depend on each other: one after the other
            return [self.take_together([u])[0] for u in units]
        v = (f.mT @ row) * self.mask
        b = f.mT @ (self.q[:, mine].mT - lower @ bs)
        parts = b.square().sum(1).view(len(stored), k).sum(1).tolist()
        w = b @ self.q - (b @ bs.mT) @ vs  # B^T Q, current
        w -= 0.5 * (b @ b.mT) @ v
        if k == 1:
            self.diagonal[:, 0, 0] -= v.square().sum(0)
            self.norms[:, 0, 0] -= 2 * (w * v).sum(0)
        else:
            vu, wu = (m.view(len(m), -1, k).permute(1, 2, 0) for m in (v, w))
            self.diagonal.baddbmm_(vu, vu.mT, alpha=-1)
            down = vu @ wu.mT
            self.norms -= down
            self.norms -= down.mT
        self.v[used : used + len(mine)], self.b[used : used + len(mine)] = v, b
        self.used += len(mine)
        for slot in stored:
            self.alive[slot] = False
        for unit in units:
            self.slot[unit] = -1
        for slot in stored:
            self._close(slot)
        if self.used + k > self.panel:
            self._flush()
        given = iter(parts)
        return [next(given) if s >= 0 else 0.0 for s in slots]

    def _take_column(self, unit: int, slot: int) -> float:
        """`take_together` for one unit of one column, in few calls: there it is calls that take the time."""
        vs, bs = self.v[: self.used], self.b[: self.used]
        d, n = self.diagonal[:, 0, 0], self.norms[:, 0, 0]
        power = float(d[slot])
        f = power**-0.5 if power > self.cutoff else 0.0
        c = vs[:, slot]
        v = torch.addmv(self.p[slot], vs.mT, c, alpha=-1).mul_(self.mask).mul_(f)
        b = torch.addmv(self.q[:, slot], bs.mT, c, alpha=-1).mul_(f)
        part = float(b @ b)
        w = torch.addmv(self.q.mT @ b, vs.mT, bs @ b, alpha=-1).sub_(v, alpha=0.5 * part)
        d.addcmul_(v, v, value=-1)
        n.addcmul_(w, v, value=-2)
        self.v[self.used], self.b[self.used] = v, b
        self.used += 1
        self.alive[slot] = False
        self.slot[unit] = -1
        self._close(slot)
        if self.used + 1 > self.panel:
            self._flush()
        return part

    def _root(self, block: Tensor) -> Tensor | None:
        """Upper F with F^T block F = 1, so that rows follow one another; None where the block is near singular."""
        factor, info = torch.linalg.cholesky_ex(block)
        if int(info) or float(factor.diagonal().min()) ** 2 <= self.cutoff:
            return None
        eye = torch.eye(len(block), dtype=block.dtype)
        return torch.linalg.solve_triangular(factor, eye, upper=False).mT

    def _half(self, block: Tensor) -> Tensor:
        if self.block == 1:
            return torch.where(block > self.cutoff, block.clamp_min(self.cutoff).rsqrt(), 0)
        return half_inverse(block, cutoff=self.cutoff)

    def _close(self, slot: int) -> None:
        """A taken unit neither gains nor changes any more."""
        k = self.block
        self.mask[slot * k : slot * k + k] = 0
        self.norms[slot] = 0
        self.diagonal[slot] = torch.eye(k, dtype=self.p.dtype)

    def _flush(self) -> None:
        """Carry out the updates that wait, cut out what was taken."""
        vs, bs, k = self.v[: self.used], self.b[: self.used], self.block
        left = int(self.alive.sum())
        if left < COMPACT * len(self.alive):
            stay = self.alive.nonzero().flatten()
            columns = (stay[:, None] * k + torch.arange(k)).flatten()
            vs = vs[:, columns]
            self.q = self.q[:, columns]
            self.p = self.p[columns][:, columns]
            self.units, self.alive = self.units[stay], self.alive[stay]
            self.slot[self.units] = torch.arange(left)
        self.p.addmm_(vs.mT, vs, alpha=-1)
        self.q.addmm_(bs.mT, vs, alpha=-1)
        self.used = 0
        self._rest()

    def _rest(self) -> None:
        """Diagonal blocks, norms and empty panels for the P and Q that now stand."""
        u, k = len(self.alive), self.block
        blocks = self.p.view(u, k, u, k).diagonal(dim1=0, dim2=2)  # (k, k, u)
        self.diagonal = blocks.permute(2, 0, 1).contiguous()
        qu = self.q.view(len(self.q), u, k).permute(1, 2, 0)
        self.norms = qu @ qu.mT if k > 1 else self.q.square().sum(0)[:, None, None]
        self.mask = self.alive.to(self.p.dtype).repeat_interleave(k)
        for slot in (~self.alive).nonzero().flatten().tolist():
            self._close(slot)
        self.v = self.p.new_zeros(self.panel, u * k)
        self.b = self.p.new_zeros(self.panel, len(self.q))
