"""Time, layer by layer: what the latency table predicted and what was measured. Empty for runs that timed nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sprig.core.types import RunRecord
from sprig.report import numbers as n
from sprig.report.facts import Cell


@dataclass(frozen=True)
class Row:
    """One layer, or all calls of one kind."""

    name: str
    widths: str  # in → out, dense and kept
    cells: tuple[Cell, ...]  # dense, predicted, measured
    off: Cell  # measured over predicted
    bars: tuple[float, float, float] | None  # the three as shares of the longest of all


@dataclass(frozen=True)
class Speed:
    """What a run says about time."""

    story: str
    note: str
    trials: tuple[tuple[str, tuple[Cell, ...]], ...]  # name; predicted, measured, share of dense
    rows: tuple[Row, ...]


def speed(record: RunRecord) -> Speed | None:
    """The figures of time in a record, or None."""
    found = record.config.get("latency")
    if not isinstance(found, Mapping) or not isinstance(found.get("measured"), Mapping):
        return None
    layers = [row for row in found.get("layers") or () if isinstance(row, Mapping)]
    longest = max((v for row in layers for v in _times(row) if n.is_finite(v)), default=0.0)
    trials = [row for row in found.get("trials") or () if isinstance(row, Mapping)]
    return Speed(
        story=story(found),
        note=str(found.get("note") or ""),
        trials=tuple(
            (
                "chosen" if t.get("chosen", number == len(trials)) else str(number),
                (_ms(t.get("predicted_ms")), _ms(t.get("small_ms")), _share(t.get("ratio"))),
            )
            for number, t in enumerate(trials, 1)
        ),
        rows=tuple(_row(row, longest) for row in layers),
    )


def story(found: Mapping[str, Any]) -> str:
    """One sentence: measured, asked for, predicted, and on what."""
    seen, setting, asked = found["measured"], found.get("setting") or {}, found.get("budget") or {}
    words = f"{n.milliseconds(seen.get('small_ms'))} of {n.milliseconds(seen.get('dense_ms'))}"
    if n.is_finite(seen.get("ratio")):
        words += f" ({n.percent(seen['ratio'])})"
    if asked:
        limits = [n.percent(asked["latency"])] if n.is_finite(asked.get("latency")) else []
        if n.is_finite(asked.get("latency_ms")):
            limits.append(n.milliseconds(asked["latency_ms"]))
        words += f", budget {' and '.join(limits)}"
    words += f", predicted {n.milliseconds(found.get('predicted_ms'))}"
    where = [
        f"batch {setting['batch']}" if "batch" in setting else "",
        f"{setting['threads']} {'thread' if setting['threads'] == 1 else 'threads'}"
        if "threads" in setting
        else "",
        *(str(setting.get(k, "")) for k in ("dtype", "backend", "device")),
    ]
    tried = len(found.get("trials") or ())
    count = (
        f"; {tried} {'plan was' if tried == 1 else 'plans were'} timed end to end" if tried else ""
    )
    pairs = seen.get("pairs")
    turns = f"; medians over {pairs} pairs in turn" if n.is_number(pairs) else ""
    return f"Time per call: {words} ({', '.join(filter(None, where))}){count}{turns}."


def _row(row: Mapping[str, Any], longest: float) -> Row:
    dense, predicted, measured = _times(row)
    finite = all(n.is_finite(v) for v in (dense, predicted)) and longest > 0
    bars = None
    if finite:
        shown = measured if n.is_finite(measured) else 0.0
        bars = (dense / longest, predicted / longest, shown / longest)
    calls = row.get("calls")
    name = str(row.get("name", ""))
    return Row(
        name=f"{name}, {calls} calls" if n.is_number(calls) and calls > 1 else name,
        widths=_widths(row.get("widths") or ()),
        cells=tuple(_ms(v) for v in (dense, predicted, measured)),
        off=_share(measured / predicted)
        if n.is_finite(measured) and n.is_finite(predicted) and predicted > 0
        else Cell(n.MISSING),
        bars=bars,
    )


def _times(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return row.get("dense_ms"), row.get("predicted_ms"), row.get("measured_ms")


def _widths(widths: Sequence[Any]) -> str:
    """In and out channels, dense and kept.

    >>> _widths([64, 128, 32, 100])
    '64→128: 32→100'
    """
    if len(widths) != 4:
        return ""
    return f"{widths[0]}→{widths[1]}: {widths[2]}→{widths[3]}"


def _ms(value: Any) -> Cell:
    text = n.milliseconds(value)
    return Cell(text, n.exact(value) if n.is_finite(value) else "")


def _share(value: Any) -> Cell:
    return Cell(n.percent(value), n.exact(value)) if n.is_finite(value) else Cell(n.MISSING)
