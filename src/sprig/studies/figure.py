"""A plot of a study as one SVG that stands alone: in a page, in Markdown, in an editor.

Arms differ by colour, by dash and by mark, since colour alone says nothing to many readers.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from sprig.report.numbers import is_finite, number
from sprig.report.plots import SHAPES
from sprig.report.svg import Scale, el, linear_scale
from sprig.studies.record import Curve, Dots, Plot

WIDTH, LEFT, TOP, RIGHT = 760.0, 78.0, 42.0, 18.0
HEIGHT = 300.0  # of the drawing area
ROW = 22.0  # of the legend, and of an arm in a dot plot
# eight colours that stay apart for most eyes (Okabe and Ito), black first
COLOURS = (
    "#1b211d",
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a6a00",
)
DASHES = (None, "7 4", "2 3", "9 3 2 3", None, "7 4", "2 3", "9 3 2 3")
STYLE = (
    "text{font:13px "
    "system-ui,sans-serif;fill:#1b211d}.t{font-weight:600;font-size:15px}.s{fill:#59625c;font-size:12px}"
    ".g{stroke:#e3e1d8}.a{stroke:#8b938d}.c{fill:none;stroke-width:2}"
)


def draw(plot: Plot | Dots) -> Markup:
    """The plot as SVG."""
    return _dots(plot) if isinstance(plot, Dots) else _lines(plot)


def scale_of(values: Sequence[float], log: bool) -> Scale:
    """A scale with a little room; logarithmic ones leave out what is not positive."""
    if not log:
        return linear_scale(values)
    seen = [v for v in values if is_finite(v) and v > 0]
    low, high = (min(seen), max(seen)) if seen else (0.1, 1.0)
    room = max(high / low, 1.3) ** 0.04
    return Scale(low / room, high * room, log=True)


def ticks(scale: Scale) -> list[float]:
    """Round values of a scale: decades where there are enough of them, else 1, 2, 5 of each."""
    if not scale.log:
        return list(scale.ticks(6))
    low, high = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    stride = max(1, math.ceil((high - low) / 8))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    found = [m * 10.0**e for e in range(low, high + 1, stride) for m in steps]
    return [t for t in found if scale.low * (1 - 1e-9) <= t <= scale.high * (1 + 1e-9)]


def _lines(plot: Plot) -> Markup:
    xs = [x for c in plot.curves for x, _ in c.points]
    ys = [y for c in plot.curves for _, y in c.points]
    ys += [y for c in plot.curves for _, *ends in c.bars for y in ends]
    across, up = scale_of(xs, plot.log_x), scale_of(ys, plot.log_y)
    wide = WIDTH - LEFT - RIGHT

    def at(x: float, y: float) -> tuple[float, float] | None:
        if not (is_finite(x) and is_finite(y)) or (plot.log_y and y <= 0):
            return None
        if plot.log_x and x <= 0:
            return None
        return LEFT + wide * across(x), TOP + HEIGHT * (1 - up(y))

    parts = _frame(plot.title, plot.x, across, HEIGHT)
    for t in ticks(up):
        y = TOP + HEIGHT * (1 - up(t))
        parts.append(el("line", class_="g", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(el("text", number(t, 3), class_="s", x=LEFT - 6, y=y + 4, text_anchor="end"))
    parts.append(el("text", plot.y, class_="s", x=4.0, y=TOP - 8))
    for index, curve in enumerate(plot.curves):
        parts += _curve(curve, index, at)
    bottom = TOP + HEIGHT + 52
    for index, curve in enumerate(plot.curves):
        x = LEFT + (index % 2) * wide / 2
        y = bottom + (index // 2) * ROW
        parts.append(_path(f"M{x:.1f} {y - 4:.1f}h26", index))
        parts.append(_mark(x + 13, y - 4, index))
        parts.append(el("text", curve.name, x=x + 34, y=y))
    rows = -(-len(plot.curves) // 2)
    described = "; ".join(_told(c) for c in plot.curves)
    return _svg(parts, bottom + rows * ROW, plot.title, described)


def _curve(curve: Curve, index: int, at: object) -> list[Markup]:
    assert callable(at)
    parts = []
    for x, low, high in curve.bars:
        ends = at(x, low), at(x, high)
        if ends[0] and ends[1]:
            (a, b), (_, c) = ends
            parts.append(
                el(
                    "path",
                    class_="c",
                    d=f"M{a:.1f} {b:.1f}V{c:.1f}",
                    stroke=_colour(index),
                    opacity="0.45",
                )
            )
    spots = [at(x, y) for x, y in curve.points]
    path, pen = "", False
    for spot in spots:
        if spot is None:
            pen = False
            continue
        path += f"{'L' if pen else 'M'}{spot[0]:.1f} {spot[1]:.1f}"
        pen = True
    if path:
        parts.append(_path(path, index))
    if len(spots) <= 24:
        parts += [_mark(spot[0], spot[1], index) for spot in spots if spot]
    return parts


def _dots(plot: Dots) -> Markup:
    values = [v for _, row in plot.rows for v in row]
    across = scale_of(values, plot.log)
    left = 290.0
    high = ROW * len(plot.rows) + 10
    parts = _frame(plot.title, plot.x, across, high, left=left)
    for row, (name, seen) in enumerate(plot.rows):
        y = TOP + 5 + ROW * (row + 0.5)
        parts.append(el("text", name, x=left - 12, y=y + 4, text_anchor="end"))
        spots = [
            left + (WIDTH - left - RIGHT) * across(v)
            for v in seen
            if is_finite(v) and not (plot.log and v <= 0)
        ]
        if spots:
            parts.append(el("line", class_="a", x1=min(spots), x2=max(spots), y1=y, y2=y))
        parts += [_mark(x, y, 2) for x in spots]
    told = "; ".join(f"{name}: {', '.join(number(v, 3) for v in seen)}" for name, seen in plot.rows)
    return _svg(parts, TOP + high + 48, plot.title, told)


def _frame(
    title: str, label: str, across: Scale, high: float, *, left: float = LEFT
) -> list[Markup]:
    """Title, horizontal axis and its ticks."""
    bottom = TOP + high
    parts = [el("text", title, class_="t", x=4.0, y=18.0)]
    last = -math.inf
    for t in ticks(across):
        x = left + (WIDTH - left - RIGHT) * across(t)
        parts.append(el("line", class_="g", x1=x, x2=x, y1=TOP, y2=bottom))
        if x - last > 34:
            parts.append(
                el("text", number(t, 3), class_="s", x=x, y=bottom + 16, text_anchor="middle")
            )
            last = x
    parts.append(el("line", class_="a", x1=left, x2=WIDTH - RIGHT, y1=bottom, y2=bottom))
    parts.append(
        el(
            "text",
            label,
            class_="s",
            x=(left + WIDTH - RIGHT) / 2,
            y=bottom + 34,
            text_anchor="middle",
        )
    )
    return parts


def _svg(parts: Sequence[Markup], high: float, title: str, described: str) -> Markup:
    return el(
        "svg",
        el("title", title),
        el("desc", described),
        el("style", Markup(STYLE)),
        el("rect", width="100%", height="100%", fill="#fffefb"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:.0f} {high:.0f}",
        role="img",
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _path(d: str, index: int) -> Markup:
    dash = DASHES[index % len(DASHES)]
    return el("path", class_="c", d=d, stroke=_colour(index), stroke_dasharray=dash)


def _mark(x: float, y: float, index: int) -> Markup:
    shape = SHAPES[index % len(SHAPES)][1]
    return el(
        "path", d=shape, fill=_colour(index), transform=f"translate({x:.1f} {y:.1f}) scale(.8)"
    )


def _told(curve: Curve) -> str:
    ends = [p for p in curve.points if is_finite(p[1])]
    if not ends:
        return f"{curve.name}: nothing"
    first, last = ends[0], ends[-1]
    said = [f"{number(y, 3)} at {number(x, 3)}" for x, y in (first, last)]
    return f"{curve.name}: {' to '.join(said)}"
