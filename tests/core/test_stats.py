"""Moments against plain sums, merging, sampled im2col rows against the convolution itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sprig.core import stats
from sprig.core.errors import InputError
from sprig.core.rows import rows, targets_at
from sprig.core.stats import Accumulator, Moments, merge


def _rows(n: int, d: int, o: int, *, seed: int = 0, mean: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) + mean
    return x, x[:, :1] * 2 + torch.randn(n, o, generator=g, dtype=torch.float64)


def _same(a: Moments, b: Moments, *, tol: float = 1e-10) -> None:
    assert a.count == pytest.approx(b.count)
    for field in ("mean", "second", "target_mean", "cross", "power"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=tol, atol=tol)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("chunk", [7, 8192])
def test_moments_are_the_plain_sums(precision, chunk, monkeypatch):
    monkeypatch.setattr(stats, "CHUNK", chunk)
    x, y = _rows(50, 6, 3)
    m = Moments.from_rows(x, y, precision=precision)
    tol = 1e-10 if precision == "float64" else 1e-4
    xc, yc = x - x.mean(0), y - y.mean(0)
    _same(m, Moments(50.0, x.mean(0), xc.T @ xc, y.mean(0), yc.T @ xc, (yc**2).sum(0)), tol=tol)
    second, cross, power = m.system(centred=False)
    torch.testing.assert_close(second, x.T @ x / 50, rtol=tol, atol=tol)
    torch.testing.assert_close(cross, y.T @ x / 50, rtol=tol, atol=tol)
    torch.testing.assert_close(power, (y**2).mean(0), rtol=tol, atol=tol)


def test_large_symmetric_product_equals_the_full_one(monkeypatch):
    x, _ = _rows(40, 700, 1)
    full = Moments.from_rows(x)
    monkeypatch.setattr(stats, "SYMMETRIC", 16)
    for precision, tol in (("float64", 1e-10), ("float32", 1e-3)):
        half = Moments.from_rows(x, precision=precision)
        _same(half, full, tol=tol)
        assert torch.equal(half.second, half.second.T)


def test_merging_in_any_grouping_equals_one_pass():
    x, y = _rows(60, 5, 2)
    parts = [Moments.from_rows(x[a:b], y[a:b]) for a, b in ((0, 7), (7, 30), (30, 60))]
    whole = Moments.from_rows(x, y)
    _same(parts[0] + parts[1] + parts[2], whole)
    _same(parts[2] + (parts[1] + parts[0]), whole)
    _same(Moments.empty(5, 2) + whole, whole)
    _same(whole + Moments.empty(5, 2), whole)
    streamed = Accumulator(5, 2)
    for a, b in ((0, 7), (7, 30), (30, 60)):
        streamed.add(x[a:b], y[a:b])
    _same(streamed.moments(), whole)
    _same(whole.scaled(3.0), whole + whole + whole)


def test_centring_survives_a_large_mean():
    x, _ = _rows(2000, 3, 1, mean=1e4)
    true = torch.cov(x.T, correction=0) * 2000
    torch.testing.assert_close(Moments.from_rows(x).second, true, rtol=1e-9, atol=1e-9)
    rough = Moments.from_rows(x.float(), precision="float32").second
    torch.testing.assert_close(rough, true, rtol=1e-2, atol=2.0)


def test_own_output_needs_no_targets():
    x, _ = _rows(30, 6, 1)
    w, bias = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    _same(Moments.from_rows(x).own(w, bias=bias), Moments.from_rows(x, x @ w.T + bias))
    _same(Moments.from_rows(x).own(w.reshape(4, 3, 2)), Moments.from_rows(x, x @ w.T))


def test_columns_can_be_taken_and_dead_ones_are_known():
    x, y = _rows(30, 6, 2)
    x[:, 4] = 7.3
    m = Moments.from_rows(x, y)
    assert m.dead.tolist() == [False] * 4 + [True, False]
    columns = torch.tensor([5, 1])
    _same(m.taking(columns), Moments.from_rows(x[:, columns], y))


CONVS = [
    (1, {"kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (1,)}, (9,)),
    (2, {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}, (6, 5)),
    (2, {"kernel": (3, 2), "stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)}, (8, 7)),
    (2, {"kernel": (1, 1), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}, (5, 5)),
    (
        3,
        {"kernel": (2, 3, 1), "stride": (1, 2, 1), "padding": (1, 1, 0), "dilation": (1, 1, 1)},
        (4, 5, 3),
    ),
]


@pytest.mark.parametrize(("dims", "conv", "space"), CONVS)
@pytest.mark.parametrize("limit", [None, 11])
def test_rows_times_weight_is_the_convolution(dims, conv, space, limit):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, *space, generator=g, dtype=torch.float64)
    w = torch.randn(5, 4, *conv["kernel"], generator=g, dtype=torch.float64)
    apply = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    y = apply(x, w, stride=conv["stride"], padding=conv["padding"], dilation=conv["dilation"])
    taken = rows(x, "conv", **conv, limit=limit, generator=g)
    total = y.numel() // 5
    assert len(taken.x) == (total if limit is None else 11)
    assert len(taken.where.unique()) == len(taken.where)
    torch.testing.assert_close(taken.x @ w.flatten(1).T, targets_at(y, taken.where, "conv"))


UPS = [
    (1, {"kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (2,), "extra": (1,)}, (6,)),
    (2, {"kernel": (2, 2), "stride": (2, 2)}, (4, 3)),
    (2, {"kernel": (3, 4), "stride": (1, 3), "padding": (1, 0), "extra": (0, 2)}, (5, 4)),
    (3, {"kernel": (2, 3, 1), "stride": (3, 2, 1), "padding": (0, 1, 0)}, (3, 4, 2)),
]


@pytest.mark.parametrize(("dims", "conv", "space"), UPS)
@pytest.mark.parametrize("limit", [None, 11])
def test_rows_times_weight_is_the_transposed_convolution(dims, conv, space, limit):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, *space, generator=g, dtype=torch.float64)
    w = torch.randn(4, 5, *conv["kernel"], generator=g, dtype=torch.float64)
    apply = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    named = {"output_padding" if k == "extra" else k: v for k, v in conv.items() if k != "kernel"}
    y = apply(x, w, **named)
    taken = rows(x, "conv", **conv, transposed=True, limit=limit, generator=g)
    assert len(taken.x) == (y.numel() // 5 if limit is None else 11)
    matrix = w.transpose(0, 1).flatten(1)
    torch.testing.assert_close(taken.x @ matrix.T, targets_at(y, taken.where, "conv"))


def test_linear_rows_and_their_targets():
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 7, 4, generator=g), torch.randn(3, 4, generator=g)
    taken = rows(x, "linear", limit=5, generator=g)
    assert taken.x.shape == (5, 4)
    torch.testing.assert_close(taken.x @ w.T, targets_at(x @ w.T, taken.where, "linear"))
    assert torch.equal(rows(x, "linear").x, x.reshape(-1, 4))


def test_sampling_is_even_over_positions_and_fixed_by_the_seed():
    x = torch.zeros(2, 1, 4, 4)
    seen = torch.zeros(32)
    g = torch.Generator().manual_seed(0)
    for _ in range(400):
        seen[rows(x, "conv", limit=8, generator=g).where] += 1
    assert seen.min() > 60 and seen.max() < 140  # expectation 100, deviation 8.7
    one, two = (
        rows(x, "conv", limit=8, generator=torch.Generator().manual_seed(5)).where for _ in range(2)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused_by_name(bad):
    x, y = _rows(10, 3, 2)
    spoilt = x.clone()
    spoilt[4, 1] = bad
    with pytest.raises(InputError, match=r"conv7: its inputs are not finite"):
        Moments.from_rows(spoilt, y, name="conv7")
    spoilt = y.clone()
    spoilt[4, 1] = bad
    with pytest.raises(InputError, match=r"conv7: its targets are not finite"):
        Moments.from_rows(x, spoilt, name="conv7")
    w = torch.ones(2, 3)
    w[0, 0] = bad
    with pytest.raises(InputError, match=r"conv7: its targets are not finite"):
        Moments.from_rows(x, name="conv7").own(w).check()
    broken = Moments.from_rows(x, name="conv7")
    broken.second[0, 0] = bad
    with pytest.raises(InputError, match=r"conv7: its inputs are not finite"):
        broken.check()


def test_what_does_not_fit_is_refused():
    x, y = _rows(10, 3, 2)
    m = Moments.from_rows(x, y, name="fc")
    with pytest.raises(InputError, match="fc: no rows"):
        Moments.empty(3, name="fc").check()
    with pytest.raises(InputError, match="expected rows of 3"):
        Accumulator(3).add(x[:, :2])
    with pytest.raises(InputError, match=r"expected targets of shape \(10, 2\)"):
        Accumulator(3, 2).add(x)
    with pytest.raises(InputError, match="cannot add"):
        merge(m, Moments.from_rows(x))
    with pytest.raises(InputError, match="not positive"):
        m.scaled(0)
    with pytest.raises(InputError, match="4 columns"):
        m.own(torch.ones(2, 4))
    with pytest.raises(InputError, match="over 2 dimensions"):
        rows(torch.zeros(1, 1, 4, 4), "conv", kernel=(3,))
    with pytest.raises(InputError, match="too small"):
        rows(torch.zeros(1, 1, 2, 2), "conv", kernel=(3, 3))
    with pytest.raises(InputError, match="Generator"):
        rows(torch.zeros(1, 1, 4, 4), "conv", limit=2)
