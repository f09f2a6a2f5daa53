"""A few small functions that write inline SVG: elements, scales, ticks, and lines with gaps.

Everything is placed in percent of the drawing area, and curves live in a nested viewport that stretches,
so a figure follows the width of the page while its text keeps its size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sprig.report.numbers import is_finite

Point = tuple[float, float]


def el(name: str, *children: str, **attributes: object) -> Markup:
    """One element; text is escaped, a trailing underscore and underscores in names are translated.

    >>> str(el("text", "a < b", class_="x", text_anchor="end", y=1.50))
    '<text class="x" text-anchor="end" y="1.5">a &lt; b</text>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(coord(v) if isinstance(v, float) else v)}"'
        for key, v in attributes.items()
        if v is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def coord(value: float) -> str:
    """A coordinate with at most two decimals; refuses what is not finite.

    >>> coord(1.0), coord(0.126), coord(-0.001)
    ('1', '0.13', '0')
    """
    if not is_finite(value):
        raise ValueError(f"a drawing needs finite coordinates, found {value}")
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def share(value: float) -> str:
    """A position as a percentage of the drawing area."""
    return f"{coord(100 * value)}%"


@dataclass(frozen=True)
class Scale:
    """Maps values to 0..1, linearly or by their logarithm; what lies outside is drawn at the edge."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            if value <= self.low:
                return 0.0
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values inside the scale, at most `most`."""
        if self.log:
            bottom, top = round(math.log10(self.low)), round(math.log10(self.high))
            stride = max(1, math.ceil((top - bottom) / max(1, most - 1)))
            return tuple(10.0**e for e in range(top, bottom - 1, -stride))[::-1]
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(i * step for i in range(first, last + 1))


def linear_scale(values: Iterable[float], *, room: float = 0.08) -> Scale:
    """A linear scale around the finite values, with a little room, never empty.

    >>> linear_scale([1.0, 1.0]).low < 1 < linear_scale([1.0, 1.0]).high
    True
    """
    finite = [float(v) for v in values if is_finite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    spread = (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - room * spread, high + room * spread)


def log_scale(values: Iterable[float], *, decades: int = 6) -> Scale:
    """A logarithmic scale from a power of ten to a power of ten, at most `decades` below the largest.

    >>> log_scale([1.0, 0.02, 0.0])
    Scale(low=0.01, high=1.0, log=True)
    """
    finite = [float(v) for v in values if is_finite(v) and v > 0]
    if not finite:
        return Scale(1e-2, 1.0, log=True)
    top = math.ceil(math.log10(max(finite)) - 1e-9)
    low = math.floor(math.log10(min(finite)) + 1e-9)
    low = min(top - 1, max(low, top - decades))
    return Scale(10.0**low, 10.0**top, log=True)


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * (1 - 1e-9)), 10 * power)


def line(points: Sequence[Point], *, side: float = 1000.0) -> str:
    """Path data through points in 0..1 (y upwards); a point that is not finite leaves a gap.

    >>> line([(0.0, 0.0), (0.5, 1.0), (1.0, float("nan"))])
    'M0 1000L500 0'
    """
    out, pen_down = [], False
    for x, y in points:
        if not (is_finite(x) and is_finite(y)):
            pen_down = False
            continue
        out.append(f"{'L' if pen_down else 'M'}{round(x * side)} {round((1 - y) * side)}")
        pen_down = True
    return "".join(out)


def runs(kept: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, length) of their runs.

    >>> runs((0, 1, 2, 5, 7, 8))
    [(0, 3), (5, 1), (7, 2)]
    """
    out: list[tuple[int, int]] = []
    for unit in kept:
        if out and out[-1][0] + out[-1][1] == unit:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((unit, 1))
    return out


def thin(length: int, most: int, must: Iterable[int] = ()) -> list[int]:
    """At most about `most` indices of `length`, evenly spread, with both ends and all of `must`.

    >>> thin(5, 10), thin(101, 3, must=(7,))
    ([0, 1, 2, 3, 4], [0, 7, 50, 100])
    """
    if length <= most:
        return list(range(length))
    picked = {round(i * (length - 1) / (most - 1)) for i in range(most)}
    return sorted(picked | {i for i in must if 0 <= i < length})
