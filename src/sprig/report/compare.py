"""Several runs side by side: what each costs, how well it does, whether its certificate holds."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from sprig.core.types import Measures, RunRecord
from sprig.report import facts
from sprig.report import numbers as n
from sprig.report.table import plain_table

_Row = tuple[str, Measures, Measures]  # name, what it costs and does, what the dense network costs
_COSTS: tuple[tuple[str, Callable[[Measures, Measures], str]], ...] = (
    ("MACs", lambda own, _: n.si(own.macs)),
    (
        "of dense",
        lambda own, dense: n.percent(own.macs / dense.macs) if dense.macs > 0 else n.MISSING,
    ),
    ("params", lambda own, _: n.si(own.params)),
)
_SHORT = (("kl", "KL"), ("agreement", "agrees"), ("agreement_confident", "agrees if sure"))


def compare_table(records: Sequence[RunRecord], *, width: int = 80) -> Table:
    """One row per run, below the dense network if all runs started from the same; as many qualities
    and latencies as fit into `width`, none of them cut short."""
    rows = [(n.shorten(record.title, 20), record.after, record.before) for record in records]
    if records and all(_cost(r.before) == _cost(records[0].before) for r in records):
        rows.insert(0, ("dense", records[0].before, records[0].before))
    claims = [Text()] * (len(rows) - len(records)) + [_claims(record) for record in records]
    columns = [("run", [name for name, _, _ in rows])]
    columns += [(head, [cost(own, dense) for _, own, dense in rows]) for head, cost in _COSTS]
    used = sum(_width(*column) for column in columns) + _width(
        "claims", [text.plain for text in claims]
    )
    for head, cells in _extra(records, rows):
        if used + _width(head, cells) <= width:
            columns.append((head, cells))
            used += _width(head, cells)
    table = plain_table()
    for head, _ in columns:
        table.add_column(head, justify="left" if head == "run" else "right", no_wrap=True)
    table.add_column("claims", justify="right", no_wrap=True)
    for i, claim in enumerate(claims):
        style = "dim" if i < len(rows) - len(records) else ""
        table.add_row(*(Text(cells[i]) for _, cells in columns), claim, style=style)
    return table


def _extra(records: Sequence[RunRecord], rows: Sequence[_Row]) -> list[tuple[str, list[str]]]:
    qualities = dict.fromkeys(key for record in records for key in facts.qualities(record))
    batches = dict.fromkeys(batch for record in records for batch in facts.batches(record))
    out = []
    for key in qualities:
        cells = [facts.quality_text(key, own.quality.get(key)) for _, own, _ in rows]
        out.append((dict(_SHORT).get(key, key.replace("_", " ")), cells))
    for batch in batches:
        times = [own.latency_ms.get(batch, {}).get("median") for _, own, _ in rows]
        out.append((f"batch {batch}", [n.milliseconds(t) for t in times]))
    return out


def _width(head: str, cells: Sequence[str]) -> int:
    return 2 + max(cell_len(text) for text in (head, *cells))


def compare_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The same as plain data, every number with all its digits."""
    return [
        {
            "title": record.title,
            "plan": record.plan.hash if record.plan is not None else None,
            "certificate": facts.verdict(record).state,
            **{name: _plain(m) for name, m in (("before", record.before), ("after", record.after))},
        }
        for record in records
    ]


def _plain(measures: Measures) -> dict[str, Any]:
    return {
        "macs": measures.macs,
        "params": measures.params,
        "bytes": measures.bytes,
        "latency_ms": {batch: dict(v) for batch, v in measures.latency_ms.items()},
        "quality": dict(measures.quality),
    }


def _cost(measures: Measures) -> tuple[int, int]:
    return measures.macs, measures.params


def _claims(record: RunRecord) -> Text:
    found = facts.verdict(record)
    if found.state == "none":
        return Text("none", "dim")
    total = len(record.certificate.claims) if record.certificate else 0
    if found.state == "holds":
        return Text(f"✓ {total}", "green")
    return Text(f"✗ {len(found.failed)}/{total}", "bold red")
