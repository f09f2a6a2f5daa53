"""The curves of the report: error of a group, quality over the budget, the log of a fine-tuning run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sprig.core.types import GroupRow, RunRecord
from sprig.report import facts
from sprig.report import numbers as n
from sprig.report.svg import Point, Scale, el, line, linear_scale, log_scale, share, thin

SHAPES = (
    ("circle", "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z"),
    ("square", "M-4.5-4.5h9v9h-9z"),
    ("diamond", "M0-7.5L7.5 0L0 7.5L-7.5 0z"),
)
_CLOCKS = ("epoch", "step", "iteration", "round")
_STAGES = ("stage", "phase", "event", "kind", "name")


@dataclass(frozen=True)
class Mark:
    """One point with a shape of its own, since colour alone says nothing to many readers."""

    x: float
    y: float
    shape: str
    text: str


@dataclass(frozen=True)
class Panel:
    """A figure with the words that go above it."""

    title: str
    note: str
    figure: Markup
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """The rows of a log that belong together, as panels and as a table."""

    name: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    skipped: int


def chart(
    x: Scale,
    y: Scale,
    *,
    title: str,
    desc: str,
    curves: Sequence[tuple[str, Sequence[Point]]] = (),
    under: Sequence[Point] = (),
    marks: Sequence[Mark] = (),
    rule: float | None = None,
    x_ticks: Sequence[tuple[float, str]] = (),
    y_ticks: Sequence[tuple[float, str]] = (),
    kind: str = "chart",
) -> Markup:
    """Curves as (class, points), an area under a curve, marks and ticks; all in units of the scales."""
    parts = [el("title", title), el("desc", desc)]
    for value, text in y_ticks:
        at = share(1 - y(value))
        parts.append(el("line", class_="grid", x1="0", x2="100%", y1=at, y2=at))
        parts.append(el("text", text, class_="tick", x="-8", y=at, dy="0.32em", text_anchor="end"))
    for value, text in x_ticks:
        at = share(x(value))
        parts.append(el("line", class_="grid", x1=at, x2=at, y1="0", y2="100%"))
        parts.append(
            el("text", text, class_="tick", x=at, y="100%", dy="1.5em", text_anchor="middle")
        )
    parts.append(el("line", class_="axis", x1="0", x2="100%", y1="100%", y2="100%"))
    inner = []
    if under:
        top = line([(x(a), y(b)) for a, b in under if n.is_finite(a) and n.is_finite(b)])
        first, last = (round(1000 * x(p[0])) for p in (under[0], under[-1]))
        if top:
            inner.append(el("path", class_="never", d=f"{top}L{last} 1000L{first} 1000z"))
    for css, points in curves:
        d = line([(x(a), y(b)) if n.is_finite(b) else (a, b) for a, b in points])
        if d:
            inner.append(el("path", class_=f"curve {css}", d=d))
    if inner:
        parts.append(
            el(
                "svg",
                *inner,
                viewBox="0 0 1000 1000",
                preserveAspectRatio="none",
                width="100%",
                height="100%",
            )
        )
    if rule is not None:
        at = share(x(rule))
        parts.append(el("line", class_="rule", x1=at, x2=at, y1="0", y2="100%"))
    parts += [mark(x, y, m) for m in marks if n.is_finite(m.x) and n.is_finite(m.y)]
    return el("svg", *parts, class_=kind, role="img")


def mark(x: Scale, y: Scale, m: Mark) -> Markup:
    """A mark that keeps its size whatever the figure's width."""
    shape = el("path", el("title", m.text), class_=f"mark {m.shape}", d=dict(SHAPES)[m.shape])
    return el("svg", shape, x=share(x(m.x)), y=share(1 - y(m.y)), overflow="visible")


def error_scale(groups: Sequence[GroupRow]) -> Scale:
    """One scale for the error curves of all groups, so that they can be compared by eye."""
    seen = [1.0]
    for row in groups:
        seen += [v for v in (facts.error_at(row, row.errors),) if v is not None]
        seen += row.errors[:1]
    scale = log_scale([v for v in seen if n.is_finite(v) and v <= 100], decades=5)
    low = max(scale.low / 10, 1e-6)
    return Scale(min(low, scale.high / 100), scale.high, log=True)


def error_card(row: GroupRow, y: Scale, *, most: int) -> Markup:
    """The error of one group over the units kept, the lower bound, and the size that was chosen."""
    chosen = len(row.kept)
    picked = thin(len(row.errors), most, must=(chosen,))
    bound = thin(len(row.floor), most, must=(chosen,))
    floor = [(float(i), row.floor[i]) for i in bound]
    marks = []
    error = facts.error_at(row, row.errors)
    if error is not None:
        marks.append(
            Mark(chosen, error, "diamond", f"{chosen} of {row.size}: error {n.number(error, 3)}")
        )
    return chart(
        Scale(0, max(1, row.size)),
        y,
        title=f"{row.name}: error by units kept",
        desc=f"Chosen: {chosen} of {row.size} units"
        + (f", error {n.number(error, 3)}" if error is not None else ""),
        curves=[("bound", floor), ("kept", [(float(i), row.errors[i]) for i in picked])],
        under=floor,
        marks=marks,
        rule=chosen,
        y_ticks=[(t, "") for t in y.ticks(4)],
        kind="chart spark",
    )


def budget_panels(record: RunRecord) -> tuple[Panel, ...]:
    """Predicted harm and every measured quality over the MACs that stay, the chosen point marked."""
    dense = record.before.macs
    points = [p for p in record.curve if n.is_finite(p.macs)]
    if not points or dense <= 0:
        return ()
    points = sorted(points, key=lambda p: p.macs)
    measured = dict.fromkeys(key for p in points for key in p.measured)
    out = [_measured_panel(record, points, key) for key in measured]
    predicted = [(p.macs / dense, p.predicted) for p in points if n.is_finite(p.predicted)]
    if predicted:
        out.append(_predicted_panel(record, predicted))
    return tuple(out)


def _measured_panel(record: RunRecord, points: Sequence[Any], key: str) -> Panel:
    dense, label = record.before.macs, facts.quality_label(key)
    seen = [(p.macs, p.measured[key]) for p in points if n.is_finite(p.measured.get(key))]
    marks = [Mark(m / dense, v, "circle", _point_text(m, dense, label, key, v)) for m, v in seen]
    ends = (("square", "dense", record.before), ("diamond", "chosen", record.after))
    for shape, word, measures in ends:
        value = measures.quality.get(key)
        if n.is_finite(value):
            text = _point_text(measures.macs, dense, label, key, value)
            marks.append(Mark(measures.macs / dense, value, shape, f"{word}: {text}"))
    y = linear_scale([m.y for m in marks])
    if facts.is_share(key):
        y = Scale(max(0.0, y.low), min(1.0, y.high) if y.low < 1.0 else y.high)
    figure = chart(
        Scale(0.0, 1.0),
        y,
        title=f"{label} over the multiply-adds that stay",
        desc="; ".join(m.text for m in marks) or "nothing measured",
        curves=[("seen", [(m / dense, v) for m, v in seen])],
        marks=marks,
        rule=record.after.macs / dense,
        x_ticks=_share_ticks(),
        y_ticks=[(t, _tick(t, key)) for t in y.ticks(5)],
    )
    return Panel(
        label[:1].upper() + label[1:],
        "measured",
        figure,
        tuple(dict.fromkeys(m.shape for m in marks)),
    )


def _predicted_panel(record: RunRecord, predicted: Sequence[Point]) -> Panel:
    dense = record.before.macs
    positive = [v for _, v in predicted if v > 0]
    steep = len(positive) > 1 and max(positive) / min(positive) > 50
    y = log_scale(positive) if steep else linear_scale([0.0, *(v for _, v in predicted)])
    if not steep and min(v for _, v in predicted) >= 0:
        y = Scale(0.0, y.high)
    here = [v for x, v in predicted if x * dense == record.after.macs]
    marks = [
        Mark(record.after.macs / dense, v, "diamond", f"chosen: predicted harm {n.number(v)}")
        for v in here[:1]
    ]
    figure = chart(
        Scale(0.0, 1.0),
        y,
        title="predicted harm over the multiply-adds that stay",
        desc=f"{len(predicted)} budgets, from {n.percent(predicted[0][0])} to {n.percent(predicted[-1][0])}",
        curves=[("kept", [(x, v) for x, v in predicted if v > 0 or not steep])],
        marks=marks,
        rule=record.after.macs / dense,
        x_ticks=_share_ticks(),
        y_ticks=[(t, n.number(t, 3)) for t in y.ticks(5)],
    )
    note = "one search, every budget" + (", logarithmic" if steep else "")
    return Panel("Predicted harm to the output", note, figure, ("line",))


def _share_ticks() -> list[tuple[float, str]]:
    return [(i / 4, f"{25 * i}%") for i in range(5)]


def _tick(value: float, key: str) -> str:
    return f"{100 * value:.4g}%" if facts.is_share(key) else n.number(round(value, 12), 3)


def _point_text(macs: float, dense: float, label: str, key: str, value: float) -> str:
    return f"{n.percent(macs / dense)} of the MACs ({n.si(macs)}), {label} {facts.quality_text(key, value)}"


def log_stages(log: Sequence[Mapping[str, Any]], *, most: int = 60) -> tuple[Stage, ...]:
    """The log by stage, each with a figure per number that changes and a table of at most `most` rows."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in log:
        name = next((str(entry[k]) for k in _STAGES if isinstance(entry.get(k), str)), "")
        found.setdefault(name, []).append(entry)
    return tuple(_stage(name, rows, most=most) for name, rows in found.items())


def _stage(name: str, rows: Sequence[Mapping[str, Any]], *, most: int) -> Stage:
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in _STAGES]
    clock = next((k for k in _CLOCKS if k in keys), None)
    keys = [k for k in (clock, *(k for k in keys if k != clock)) if k]
    panels = [_log_panel(rows, key, clock) for key in keys if key != clock]
    shown = rows if len(rows) <= most else [*rows[: most // 4], *rows[-(most - most // 4) :]]
    table = tuple(tuple(_log_text(key, row.get(key)) for key in keys) for row in shown)
    return Stage(name, tuple(p for p in panels if p), tuple(keys), table, len(rows) - len(shown))


def _log_text(key: str, value: Any) -> str:
    if n.is_number(value):
        return str(value) if key in _CLOCKS else facts.quality_text(key, value)
    return n.MISSING if value is None else str(value)


def _log_panel(rows: Sequence[Mapping[str, Any]], key: str, clock: str | None) -> Panel | None:
    points = []
    for i, row in enumerate(rows):
        at = row.get(clock, i) if clock else i
        if n.is_finite(row.get(key)) and n.is_finite(at):
            points.append((float(at), float(row[key])))
    if len(points) < 2 or len({v for _, v in points}) < 2:
        return None
    points = [points[i] for i in thin(len(points), 200)]
    values = [v for _, v in points]
    steep = min(values) > 0 and max(values) / min(values) > 100
    y = log_scale(values, decades=12) if steep else linear_scale(values)
    x = Scale(points[0][0], max(points[-1][0], points[0][0] + 1e-9))
    last = points[-1]
    figure = chart(
        x,
        y,
        title=f"{key} by {clock or 'row'}",
        desc=f"from {_log_text(key, points[0][1])} to {_log_text(key, last[1])}",
        curves=[("kept", points)],
        marks=[Mark(*last, "circle", f"{clock or 'row'} {last[0]:g}: {_log_text(key, last[1])}")],
        x_ticks=[(points[0][0], f"{points[0][0]:g}"), (last[0], f"{last[0]:g}")],
        y_ticks=[(t, _tick(t, key)) for t in y.ticks(4)],
        kind="chart small",
    )
    label = facts.quality_label(key)
    return Panel(label[:1].upper() + label[1:], f"last: {_log_text(key, last[1])}", figure)
