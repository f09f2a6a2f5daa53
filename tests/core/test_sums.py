"""Moments whose bits do not depend on the order, nor on who adds which piece."""

import math
from typing import Any

import pytest
import torch

from sprig.core.collect import Halves
from sprig.core.errors import InputError
from sprig.core.ranks import ALONE, Ranks
from sprig.core.rows import Rows
from sprig.core.stats import Moments
from sprig.core.sums import COARSE, FINE, Grid, Sums

FIELDS = ("mean", "second", "target_mean", "cross", "power")


def pieces(columns: int = 7, rows: int = 40, many: int = 6) -> list[tuple[Any, Any]]:
    """Columns of very different powers and means; one silent in the first piece, one constant."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for number in range(many):
        x = torch.randn(rows + number, columns, generator=generator) @ torch.randn(
            columns, columns, generator=torch.Generator().manual_seed(1)
        )
        x = x * torch.logspace(-4, 3, columns) + torch.linspace(-50, 50, columns)
        x[:, 2] = 0.25
        if number == 0:
            x[:, 1] = 0
        y = x[:, :3] * 0.5 + torch.randn(len(x), 3, generator=generator)
        found.append((x, y))
    return found


def total(
    data: list[tuple[Any, Any]], order: list[int], *, compact: bool = False, targets: bool = True
) -> tuple[Sums, Grid]:
    columns = data[0][0].shape[1]
    grid = Grid.of(
        data[0][0], data[0][1] if targets else None, bits=(COARSE - 3) if compact else FINE
    )
    sums = Sums(columns, 3 if targets else 0, name="fc", compact=compact)
    for number in order:
        x, y = data[number]
        sums.add(x, y if targets else None, grid, number=number)
    return sums, grid


def same(a: Moments, b: Moments) -> bool:
    return a.count == b.count and all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


def joined(parts: list[Sums]) -> Sums:
    """What an all-reduce does."""
    first, *others = parts
    for other in others:
        first.second += other.second
        first.cross += other.cross
        first.power += other.power
        first.pieces |= other.pieces
    return first


def test_the_moments_are_right() -> None:
    data = pieces()
    sums, grid = total(data, list(range(6)))
    found = sums.close(grid)
    x, y = (torch.cat(side) for side in zip(*data, strict=True))
    exact = Moments.from_rows(x, y)
    scale = exact.second.diagonal().clamp_min(1e-9).sqrt()
    assert found.count == exact.count
    spread = (exact.second.diagonal() / exact.count).sqrt()
    assert bool(((found.mean - exact.mean).abs() <= 1e-8 * spread + 1e-14).all())
    gap = (found.second - exact.second).abs() / scale[:, None] / scale
    assert float(gap.max()) < 1e-5  # the products are in float32
    reach = exact.power.sqrt()[:, None] * scale
    assert float(((found.cross - exact.cross).abs() / reach).max()) < 1e-5
    assert torch.allclose(found.power, exact.power, rtol=1e-6)
    assert torch.equal(found.second, found.second.mT)
    assert float(found.second[2, 2]) < 1e-6, "a constant column has no power"
    assert float(found.second[1, 1]) > 0, "silent at first, heard later"


@pytest.mark.parametrize("compact", [False, True])
def test_neither_order_nor_processes_change_a_bit(compact: bool) -> None:
    data = pieces(columns=300, rows=30)
    sums, grid = total(data, [0, 1, 2, 3, 4, 5], compact=compact, targets=not compact)
    found = sums.close(grid)
    assert found.second.dtype == (torch.float32 if compact else torch.float64)
    for deal in ([[0, 5, 3, 1, 4, 2]], [[0, 2, 4], [1, 3, 5]], [[0], [5, 1], [4], [3, 2]]):
        parts = [total(data, order, compact=compact, targets=not compact)[0] for order in deal]
        assert same(joined(parts).close(grid), found)


def test_plain_merging_would_not_do() -> None:
    """The control: moments merged one by one differ in their last bits from the same, merged backwards."""
    parts = [Moments.from_rows(x, y, precision="float32") for x, y in pieces(300, 30)]
    forth, back = parts[0], parts[-1]
    for number in range(1, len(parts)):
        forth, back = forth + parts[number], back + parts[-1 - number]
    assert not torch.equal(forth.second, back.second)
    assert torch.allclose(forth.second, back.second)


def test_one_column_that_grows_loud_far_from_the_first() -> None:
    """Its products with the others are what int32 does not hold, in a part of the matrix where all else is quiet."""
    data = pieces(columns=600, rows=900, many=2)
    x = data[1][0]
    x[:, 10] = torch.randn(len(x), generator=torch.Generator().manual_seed(2))
    x[:, -1] = 3e9 * x[:, 10]
    sums, grid = total(data, [0, 1], compact=True, targets=False)
    found = sums.close(grid).second.double()
    exact = Moments.from_rows(torch.cat([x for x, _ in data])).second
    scale = exact.diagonal().clamp_min(1e-9).sqrt()
    gap = (found - exact).abs() / scale[:, None] / scale
    assert float(gap[[10, -1]][:, [10, -1]].max()) < 1e-5


def test_numbers_too_large_for_int32_go_over_to_float64() -> None:
    data = pieces(columns=40)
    louder = [(x if n < 3 else 2000 * x, y) for n, (x, y) in enumerate(data)]
    sums, grid = total(louder, list(range(6)), compact=True, targets=False)
    assert sums.second.dtype == torch.float64
    found = sums.close(grid)
    assert found.second.dtype == torch.float32
    exact = Moments.from_rows(torch.cat([x for x, _ in louder]))
    assert torch.allclose(found.second.diagonal().double(), exact.second.diagonal(), rtol=1e-3)
    split = [total(louder, [0, 1, 2], compact=True, targets=False)[0] for _ in "a"]
    late, _ = total(louder, [4, 3, 5], compact=True, targets=False)
    split[0]._widen()
    assert same(joined([split[0], late]).close(grid), found)


def test_a_layer_that_is_silent_at_first_or_sees_only_padding() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    for first in (torch.zeros(20, 4), torch.zeros(0, 4), torch.full((20, 4), 7.0)):
        data = [(first, None), (x, None)]
        sums, grid = total(data, [0, 1], targets=False)
        exact = Moments.from_rows(torch.cat([first, x]))
        assert torch.allclose(sums.close(grid).second, exact.second, rtol=1e-4, atol=1e-6)


def test_nothing_added_is_no_rows() -> None:
    grid = Grid.of(torch.ones(2, 3), None, bits=FINE)
    for sums in (Sums(3), Sums(3, compact=True)):
        assert sums.close(grid).count == 0
    with pytest.raises(InputError, match="no rows were seen"):
        Sums(3, name="fc").close(None).check()


def test_bad_rows_are_refused() -> None:
    grid = Grid.of(torch.ones(2, 3), None, bits=FINE)
    with pytest.raises(InputError, match="fc: expected 3 inputs and 0 targets, found 2 and 0"):
        Sums(3, name="fc").add(torch.ones(2, 2), None, grid, number=0)
    bad = torch.tensor([[1.0, math.nan, 2.0]])
    with pytest.raises(InputError, match="fc: its inputs are not finite"):
        Sums(3, name="fc").add(bad, None, Grid.of(bad, None, bits=FINE), number=0)
    with pytest.raises(InputError, match="the first process has no data"):
        Grid.shared(None, None, (3, 0), Ranks(0, 2), bits=FINE)


def test_the_stated_error_of_drawing_rows_is_the_one_that_is_made() -> None:
    """Over 300 draws of 60 of 400 rows, the spread of the estimated power is what one draw says."""
    rows = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)).exp()
    truth = float((rows - rows.mean(0)).square().sum(1).mean())
    stated, made = [], []
    for seed in range(300):
        where = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:60]
        half = Halves(5, 0, ALONE, pieces=1, name="fc", device=torch.device("cpu"))
        half.add(Rows(rows[where], where, 400), number=0)
        found = half.sampled()
        assert (found["rows"], found["of"]) == (60, 400)
        stated.append(found["error"])
        made.append(float((rows[where] - rows[where].mean(0)).square().sum(1).mean()) / truth)
    spread = float(torch.tensor(made).std())
    assert 0.6 < (sum(stated) / len(stated)) / spread < 1.3
    whole = Halves(5, 0, ALONE, pieces=1, name="fc", device=torch.device("cpu"))
    whole.add(Rows(rows, torch.arange(400), 400), number=0)
    assert whole.sampled()["error"] == 0
