"""Numbers and drawing helpers: rounding at the edges of a prefix, refusals, properties over many values."""

import math

import numpy as np
import pytest

from sprig.report import numbers as n
from sprig.report.network import FINEST, bitmap, strip
from sprig.report.svg import Scale, coord, linear_scale, log_scale, runs, thin

PREFIX = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def test_si_is_within_its_last_digit_and_never_shows_a_thousand():
    rng = np.random.default_rng(0)
    edges = [9_999, 10_000, 999_950, 999_949, 999_999_999]
    for value in [*(10 ** rng.uniform(0, 14, 500)).astype(np.int64).tolist(), *edges]:
        text, _, prefix = n.si(value).partition(" ")
        shown = float(text.replace(",", ""))
        assert shown * PREFIX[prefix] == pytest.approx(value, rel=5.1e-4)
        assert not prefix or prefix == "T" or 1 <= shown < 1000 or (prefix == "k" and shown < 1000)


def test_percent_never_rounds_to_all_or_nothing():
    assert n.percent(1.0) == "100%"
    assert n.percent(0.0) == "0%"
    for part in (0.99996, 0.9999999, 1e-5, 1e-9, 1.00001):
        assert n.percent(part) not in ("100%", "0%", "100.0%", "0.00%")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_not_finite_is_said(value):
    for say in (n.si, n.number, n.percent, n.points, n.milliseconds, n.exact):
        assert say(value) == n.NOT_FINITE
    assert n.times(value, 1.0) is None
    assert n.pair(value, value) == (n.NOT_FINITE, n.NOT_FINITE)


def test_what_is_no_number_is_missing():
    assert n.number("x") == n.MISSING
    assert n.milliseconds(None) == n.MISSING


def test_exact_gives_the_number_back():
    for value in (0.1, 1 / 3, 5e-324, 2**53 + 1, np.float64(0.3), np.int64(7)):
        assert type(value)(n.exact(value)) == value


def test_pair_tells_different_numbers_apart():
    left, right = n.pair(0.10000001, 0.1)
    assert left != right
    assert n.pair(0.5, None) == ("0.5", n.MISSING)
    assert n.pair(0.5, 0.5) == ("0.5", "0.5")


def test_huge_numbers_and_times():
    assert n.number(1e300) == "1e300"
    assert n.times(1e6, 1.0) == "1,000,000×"
    assert n.points(0.0001) == "+0.01 points"


def test_drawing_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="finite coordinates, found nan"):
        coord(math.nan)


@pytest.mark.parametrize(
    "scale", [linear_scale([0.952, 0.966]), linear_scale([3.0]), linear_scale([]), Scale(0, 100)]
)
def test_linear_ticks_lie_inside_evenly(scale):
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 6
    assert all(scale.low - 1e-9 <= t <= scale.high + 1e-9 for t in ticks)
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_log_scale_covers_powers_of_ten():
    scale = log_scale([0.5, 3e-9, 0.0, math.nan], decades=5)
    assert (scale.low, scale.high) == (pytest.approx(1e-5), 1.0)
    assert (scale(0.0), scale(1e-9), scale(1.0), scale(7.0)) == (0.0, 0.0, 1.0, 1.0)
    assert log_scale([]).ticks()
    assert log_scale([1.0]).low < log_scale([1.0]).high


def test_thin_and_runs_lose_nothing_they_must_keep():
    rng = np.random.default_rng(1)
    for size in (1, 2, 17, 1000):
        picked = thin(size, 12, must=(size // 3,))
        assert picked == sorted(set(picked))
        assert {0, size - 1, size // 3} <= set(picked)
        kept = np.flatnonzero(rng.random(size) < 0.5).tolist()
        assert [first + i for first, length in runs(kept) for i in range(length)] == kept
        bits = "".join(f"{int(d, 16):04b}" for d in bitmap(kept, size))
        assert [i for i, b in enumerate(bits) if b == "1"] == kept


def test_wide_groups_share_stripes():
    size = 3 * FINEST + 1
    whole = strip(range(size), size)
    assert len(whole) == 1
    assert 'class="units"' in whole[0]
    half = strip(range(0, size, 2), size)
    assert any("units some" in part for part in half)
    assert strip((), 8) == []
