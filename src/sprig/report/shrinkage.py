"""The section of a run that trained with a penalty: what survived, what was learned, other cuts, ranks, storage.

Everything is read from the run's log, from the rows whose kind is in `KINDS`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sprig.report import numbers as n
from sprig.report.facts import Cell
from sprig.report.plots import Mark, Panel, chart
from sprig.report.svg import Point, Scale, el, linear_scale, log_scale

KINDS = ("layer", "law", "sweep", "spectrum", "storage")
CARDS = 24  # small figures of spectra, at most
STATES = (("at the start", "bound"), ("trained", "hurt"), ("cut", "kept"))
NAN = float("nan")

Row = Mapping[str, Any]


def section(log: Sequence[Row]) -> dict[str, Any] | None:
    """What the page needs, or None for a run that shrank nothing in training."""
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in log:
        if row.get("kind") in rows:
            rows[str(row["kind"])].append(row)
    if not any(rows.values()):
        return None
    spectra = _by_layer(rows["spectrum"])
    return {
        "layers": [_layer(row) for row in rows["layer"]],
        "panels": tuple(p for p in (_law(rows["law"]), _sweep(rows["sweep"])) if p is not None),
        "spectra": [
            _spectrum(name, states)
            for name, states in [*spectra.items()][:CARDS]
            if any(len(r["shares"]) > 1 for r in states.values())
        ],
        "states": STATES,
        "more": max(0, len(spectra) - CARDS),
        "ranks": [_ranks(name, states) for name, states in spectra.items()],
        "storage": [_storage(row) for row in rows["storage"]],
        "stored": _stored(rows["storage"]),
    }


def _layer(row: Row) -> dict[str, Any]:
    kept, rows, empty = (row.get(k) for k in ("kept", "rows", "empty"))
    alive = 1 - empty / rows if n.is_finite(rows) and n.is_finite(empty) and rows else None
    shown = kept if n.is_finite(kept) else 0.0
    bars = [(shown, 3.0 if alive is not None else 9.0, 1.5)]
    if alive is not None:
        bars.append((alive, 3.0, 7.5))
    drawing = el(
        "svg",
        el("title", f"{row.get('name')}: weights and rows that stay"),
        el("rect", class_="outline", x="0", y="0.5", width="100", height="11"),
        *(el("rect", class_="fill", x="0", y=y, width=100 * v, height=h) for v, h, y in bars),
        class_="twobars wide",
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        role="img",
    )
    return {
        "name": str(row.get("name", "")),
        "bar": drawing,
        "kept": Cell(n.percent(shown), n.exact(shown)),
        "weights": _count(row.get("weights")),
        "rows": f"{empty:,} of {rows:,}" if alive is not None else n.MISSING,
    }


def _count(value: Any) -> Cell:
    return Cell(n.si(value), n.exact(value)) if n.is_number(value) else Cell(n.MISSING)


def _dots(points: Sequence[Point]) -> list[Point]:
    """Points that a curve draws as dots: each a line to itself, with a gap behind it."""
    return [q for p in points for q in (p, p, (NAN, NAN))]


def _law(rows: Sequence[Row]) -> Panel | None:
    points = [(r["size"], r["coefficient"]) for r in rows if _positive(r, "size", "coefficient")]
    if len(points) < 2:
        return None
    formula = [(r["size"], r["formula"]) for r in rows if _positive(r, "size", "formula")]
    x = log_scale([p[0] for p in points], decades=8)
    y = log_scale([p[1] for p in (*points, *formula)], decades=8)
    figure = chart(
        x,
        y,
        title="coefficient by size",
        desc=f"{len(points)} of the weights or units, and the coefficient that is best for each size",
        curves=[("bound", formula), ("dots", _dots(points))],
        x_ticks=[(t, _power(t)) for t in x.ticks(6)],
        y_ticks=[(t, _power(t)) for t in y.ticks(5)],
    )
    note = "dots: learned" + ("; dashed: the formula at rest" if formula else "")
    return Panel("Coefficient (lambda) against size", note, figure, ("size of the weight or unit",))


def _positive(row: Row, *keys: str) -> bool:
    return all(n.is_finite(row.get(k)) and row[k] > 0 for k in keys)


def _power(value: float) -> str:
    return f"{value:g}"


def _sweep(rows: Sequence[Row]) -> Panel | None:
    seen = [r for r in rows if n.is_finite(r.get("quality")) and _positive(r, "kept")]
    cuts = sorted((r["kept"], r["quality"]) for r in seen if not r.get("this"))
    if len(cuts) < 2:
        return None
    uncut = next((q for k, q in reversed(cuts) if k == 1.0), None)
    y = linear_scale([q for _, q in cuts] + [r["quality"] for r in seen])
    y = Scale(max(0.0, y.low), min(1.0, y.high))
    x = log_scale([k for k, _ in cuts], decades=4)
    marks = [
        Mark(k, q, "circle", f"{n.percent(k)} stays: accuracy {n.percent(q)}") for k, q in cuts
    ]
    marks += [
        Mark(r["kept"], r["quality"], "diamond", f"this cut: {n.percent(r['quality'])}")
        for r in seen
        if r.get("this")
    ]
    level = [] if uncut is None else [(x.low, uncut), (x.high, uncut)]
    figure = chart(
        x,
        y,
        title="accuracy by the share that stays",
        desc="; ".join(m.text for m in marks),
        curves=[("bound", level), ("seen", cuts)],
        marks=marks,
        x_ticks=[(t, n.percent(t)) for t in x.ticks(5)],
        y_ticks=[(t, f"{100 * t:.4g}%") for t in y.ticks(5)],
    )
    note = "dashed: before any cut; diamond: this cut"
    return Panel(
        "Accuracy after other cuts, not retrained", note, figure, ("share that stays, logarithmic",)
    )


def _by_layer(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(str(row.get("name", "")), {})[str(row.get("state", ""))] = row
    return found


def _spectrum(name: str, states: Mapping[str, Row]) -> Panel:
    curves = []
    for state, css in STATES:
        values = states[state]["shares"] if state in states else []
        curves.append((css, [(float(i + 1), v) for i, v in enumerate(values) if v > 0]))
    last = max((p[-1][0] for _, p in curves if p), default=2.0)
    y = Scale(1e-5, 1.0, log=True)
    figure = chart(
        Scale(1.0, max(2.0, last)),
        y,
        title=f"{name}: spectrum of the outputs' covariance",
        desc="; ".join(f"{s}: {r['rank']} of {r['width']} hold 99%" for s, r in states.items()),
        curves=curves,
        x_ticks=[(1.0, "1"), (max(2.0, last), f"{max(2.0, last):.0f}")],
        y_ticks=[(t, _power(t)) for t in (1e-4, 1e-2, 1.0)],
        kind="chart small",
    )
    ranks = [f"{states[s]['rank']}" for s, _ in STATES if s in states]
    return Panel(name, "99%: " + " → ".join(ranks), figure)


def _ranks(name: str, states: Mapping[str, Row]) -> dict[str, Any]:
    cells = []
    for state, _ in STATES:
        row = states.get(state)
        cells.append(
            Cell(n.MISSING) if row is None else Cell(f"{row['rank']} of {row['width']}", f"{row['rank']}")
        )  # fmt: skip
    return {"name": name, "cells": cells}


FORMS = ("dense", "bitmap", "csr16", "csr32")


def _storage(row: Row) -> dict[str, Any]:
    sizes = row.get("bytes", {})
    times = row.get("microseconds", {})
    return {
        "name": str(row.get("name", "")),
        "form": str(row.get("form", "")),
        "bytes": [_amount(sizes.get(form)) for form in FORMS],
        "times": [_microseconds(times.get(kind)) for kind in ("dense", "csr")],
    }


def _amount(value: Any) -> Cell:
    return Cell(_bytes(value), n.exact(value)) if n.is_finite(value) else Cell(n.MISSING)


def _bytes(value: float) -> str:
    text = n.si(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def _microseconds(value: Any) -> Cell:
    if not n.is_finite(value):
        return Cell(n.MISSING)
    return Cell(f"{value:,.0f}" if value >= 100 else n.number(value, 3), n.exact(value))


def _stored(rows: Sequence[Row]) -> str:
    """All tensors together, as they were and as they are kept."""
    sums = [
        (r["bytes"]["dense"], r["bytes"][r["form"]])
        for r in rows
        if r.get("form") in r.get("bytes", {}) and "dense" in r["bytes"]
    ]
    if not sums:
        return ""
    before, after = (sum(part) for part in zip(*sums))
    return (
        f"{_bytes(before)} as dense tensors, {_bytes(after)} as kept ({n.percent(after / before)})"
    )


__all__ = ["KINDS", "section"]
