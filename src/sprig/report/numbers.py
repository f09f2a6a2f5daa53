"""Numbers as people read them: one helper per kind, used by every view.

A value that is not finite is said in words, so no view ever prints a bare `nan` or `inf`.
"""

import math
import numbers
import re
from typing import Any, TypeGuard

MISSING = "–"
NOT_FINITE = "not finite"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_number(value: Any) -> TypeGuard[float]:
    """True for real numbers, finite or not; booleans are not numbers here.

    >>> is_number(3), is_number(True), is_number("3")
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[float]:
    """True for real numbers that are neither infinite nor NaN."""
    return is_number(value) and math.isfinite(value)


def exact(value: Any) -> str:
    """Every digit of a number, so that nothing rounded is ever the only thing on the page.

    >>> exact(385100123), exact(0.1)
    ('385100123', '0.1')
    """
    if not is_finite(value):
        return NOT_FINITE
    return str(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))


def si(value: float, unit: str = "") -> str:
    """Four digits and an SI prefix; integers below ten thousand in full.

    >>> si(385_100_123), si(25_557_032, "B"), si(9_999), si(999_999_999)
    ('385.1 M', '25.56 MB', '9,999', '1.000 G')
    """
    if not is_finite(value):
        return NOT_FINITE
    if abs(value) < 1e4:
        plain = f"{int(value):,}" if float(value).is_integer() else number(value)
        return f"{plain} {unit}".rstrip()
    for scale, prefix in _PREFIXES:
        scaled = value / scale
        if abs(scaled) >= 0.99995:  # what would round up to 1000 of the next smaller prefix
            size = abs(float(f"{abs(scaled):.4g}"))
            decimals = max(0, 3 - math.floor(math.log10(size)))
            return f"{scaled:,.{decimals}f} {prefix}{unit}"
    raise AssertionError("unreachable: a value of ten thousand or more has a prefix")


def number(value: Any, digits: int = 4) -> str:
    """A number of unknown kind: `digits` significant ones, scientific when very small or large.

    >>> number(0.25), number(3.21e-7), number(64), number(2_050_000_000), number(0.0)
    ('0.25', '3.21e-7', '64', '2.050 G', '0')
    """
    if not is_finite(value):
        return NOT_FINITE if is_number(value) else MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if isinstance(value, numbers.Integral) or (float(value).is_integer() and size < 1e15):
        return si(value)
    if 1e-3 <= size < 1e4:
        return f"{value:.{digits}g}"
    if 1e4 <= size < 1e15:
        return si(value)
    return re.sub(r"e([-+])0*", lambda m: "e" + m[1].strip("+"), f"{value:.{digits - 1}g}")


def pair(value: Any, tolerance: Any) -> tuple[str, str]:
    """A number and what it is held to, with enough digits that different numbers look different.

    >>> pair(300_000_001, 300_000_000)
    ('300,000,001', '300,000,000')
    >>> pair(0.5, 0.51)
    ('0.5', '0.51')
    >>> pair(14_513_176, 14_513_212.799999999), pair(30_001, 30_000.9)
    (('14,513,176', '14,513,213'), ('30,001.0', '30,000.9'))
    """
    left, right = number(value), number(tolerance) if tolerance is not None else MISSING
    if left == right and is_finite(value) and is_finite(tolerance) and value != tolerance:
        if min(abs(value), abs(tolerance)) >= 1e4:  # no more decimals than tell them apart
            for decimals in range(16):
                left, right = f"{value:,.{decimals}f}", f"{tolerance:,.{decimals}f}"
                if left != right:
                    return left, right
        return _full(value), _full(tolerance)
    return left, right


def _full(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else repr(float(value))


def percent(share: float) -> str:
    """A share of one as a percentage; only exactly all is "100%", only exactly nothing is "0%".

    >>> percent(0.4978), percent(1.0), percent(0.99999), percent(0.0312)
    ('49.8%', '100%', '99.999%', '3.12%')
    """
    if not is_finite(share):
        return NOT_FINITE
    scaled = 100 * share
    if scaled in (0.0, 100.0):
        return f"{scaled:.0f}%"
    text = f"{scaled:.1f}" if abs(scaled) >= 10 else f"{scaled:.2f}"
    decimals = 2
    while float(text) == 100.0:  # ends: `scaled` itself is another number
        decimals += 1
        text = f"{scaled:.{decimals}f}"
    return f"{number(scaled, 3) if float(text) == 0.0 else text}%"


def points(change: float) -> str:
    """The difference of two shares, in percentage points with its sign.

    >>> points(-0.004), points(0.0)
    ('−0.4 points', 'unchanged')
    """
    if not is_finite(change):
        return NOT_FINITE
    scaled = 100 * change
    if abs(scaled) < 1e-9:
        return "unchanged"
    text = f"{abs(scaled):.1f}" if abs(scaled) >= 0.05 else f"{abs(scaled):.2g}"
    return f"{'−' if scaled < 0 else '+'}{text} points"


def milliseconds(value: Any) -> str:
    """A time in milliseconds, three digits.

    >>> milliseconds(12.345), milliseconds(0.8312), milliseconds(1234.5)
    ('12.3 ms', '0.831 ms', '1,234 ms')
    """
    if not is_number(value):
        return MISSING
    if not is_finite(value):
        return NOT_FINITE
    return f"{value:,.0f} ms" if abs(value) >= 100 else f"{value:.3g} ms"


def times(larger: float, smaller: float) -> str | None:
    """How many times one fits into the other; None where that cannot be said.

    >>> times(4.0, 2.0), times(1.0, 0.0)
    ('2.00×', None)
    """
    if not (is_finite(larger) and is_finite(smaller)) or smaller <= 0 or larger < 0:
        return None
    ratio = larger / smaller
    return f"{ratio:.2f}×" if ratio < 100 else f"{ratio:,.0f}×"


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a long name: both its ends tell where in the network it lies.

    >>> shorten("features.denseblock4.denselayer16.conv1", 20)
    'features.d…r16.conv1'
    """
    if len(text) <= width:
        return text
    left = width // 2
    right = width - left - 1
    return f"{text[:left]}…{text[len(text) - right :]}"
