"""A run in the terminal: the sentence, before and after, the groups, the certificate; at home in 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sprig.core.types import GroupRow, RunRecord
from sprig.report import facts
from sprig.report import numbers as n
from sprig.report.speed import speed

WIDTH = 80
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SIGNS = (("holds", "✓", "green"), ("fails", "✗", "bold red"), ("none", "○", "dim"))


def render_table(record: RunRecord, *, groups: int | None = 40) -> RenderableType:
    """The run for a terminal; of more than `groups` groups the ones with most MACs are shown (None: all)."""
    parts: list[RenderableType] = [Text(facts.headline(record))]
    if facts.caveat(record):
        parts.append(Text(facts.caveat(record), "yellow"))
    if facts.effort(record):
        parts.append(Text(facts.effort(record), "dim"))
    timed = speed(record)
    if timed is not None:
        parts.append(Text(timed.story, "dim"))
    parts += [Text(), amounts(record)]
    if record.groups:
        parts += [Text(), group_table(record.groups, most=groups)]
    parts += [Text(), verdict_line(record)]
    if record.certificate is not None and record.certificate.claims:
        parts.append(claim_table(record))
    return Group(*parts)


def amounts(record: RunRecord) -> Table:
    """Before and after, with ratios."""
    table = plain_table()
    table.add_column("", max_width=26)
    for head in ("dense", "cut", "of dense"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("change", max_width=20)
    for line in facts.lines(record):
        table.add_row(
            Text(line.label),
            line.before.text,
            Text(line.after.text, "bold"),
            line.ratio,
            line.means,
        )
        if line.before.spread or line.after.spread:
            table.add_row(
                "",
                Text(line.before.spread, "dim"),
                Text(line.after.spread, "dim"),
                "",
                "",
            )
    return table


def group_table(groups: tuple[GroupRow, ...], *, most: int | None = 40) -> RenderableType:
    """What stays of every group, in data-flow order."""
    table = plain_table()
    table.add_column("group", no_wrap=True)
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    shown = groups
    if most is not None and len(groups) > most:
        ranked = sorted(range(len(groups)), key=lambda i: (-groups[i].macs_share, i))[:most]
        shown = tuple(groups[i] for i in sorted(ranked))
    for row in shown:
        error = facts.error_at(row, row.errors)
        part = len(row.kept) / row.size if row.size else 0.0
        fixed = row.reason is not None
        table.add_row(
            Text(n.shorten(row.name, 34), "dim" if fixed else ""),
            f"{len(row.kept)}/{row.size}",
            Text(meter(part, 14), "dim" if fixed else "green"),
            "fixed" if fixed else n.percent(part),
            n.number(error, 2) if error is not None else n.MISSING,
        )
    parts: list[RenderableType] = [table]
    if len(shown) < len(groups):
        parts.append(Text(f"and {len(groups) - len(shown)} more groups with fewer MACs", "dim"))
    return Group(*parts, *_reasons(groups))


def _reasons(groups: tuple[GroupRow, ...]) -> list[Text]:
    return [
        Text(f"fixed ({len(rows)}): {reason}", "dim", overflow="fold")
        for reason, rows in facts.fixed_by_reason(groups)
    ]


def claim_table(record: RunRecord) -> Table:
    """Every claim with its number and what it is held to."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("claim", max_width=38, overflow="fold")
    table.add_column("number", justify="right", no_wrap=True)
    table.add_column("held to", justify="right", no_wrap=True)
    for claim in record.certificate.claims if record.certificate else ():
        value, tolerance = n.pair(claim.value, claim.tolerance)
        sign = Text("✓ holds", "green") if claim.passed else Text("✗ fails", "bold red")
        table.add_row(sign, Text(claim.name), value, tolerance)
        if not claim.passed:
            table.add_row("", Text(claim.statement, "red"), "", "")
    return table


def verdict_line(record: RunRecord) -> Text:
    """The certificate in one line, with a sign before the colour."""
    found = facts.verdict(record)
    sign, style = next((sign, style) for state, sign, style in _SIGNS if state == found.state)
    return Text(f"{sign} {found.text}", style)


def plain_table() -> Table:
    """A table without boxes: columns align by themselves."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def meter(part: float, width: int) -> str:
    """A bar of `width` cells in steps of an eighth, the rest dotted.

    >>> meter(0.5, 4), meter(1.0, 3)
    ('██··', '███')
    """
    eighths = round(8 * width * min(1.0, max(0.0, part)))
    full, rest = divmod(eighths, 8)
    text = "█" * full + (_EIGHTHS[rest] if rest else "")
    return text + "·" * (width - len(text))
