"""The network as it was and as it is: a profile in data-flow order, and a bar per group with its units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sprig.core.types import GroupRow
from sprig.report import facts
from sprig.report import numbers as n
from sprig.report.svg import coord, el, runs, share

FINEST = 1024  # a strip has at most this many stripes; wider groups put several units into one


@dataclass(frozen=True)
class NetworkRow:
    """One group as the list shows it."""

    name: str
    size: int
    kept: int
    share: str
    macs: str
    error: str
    reason: str | None
    bar: Markup


def profile(groups: Sequence[GroupRow]) -> Markup:
    """All groups side by side: the height of an outline grows with the square root of its units,
    the filled part of it is the share that stays."""
    largest = max((g.size for g in groups), default=1)
    step = 1 / max(12, len(groups))
    start = (1 - step * len(groups)) / 2
    gap = 0.16 * step
    cut = sum(len(g.kept) < g.size for g in groups)
    parts = [
        el("title", "The network in data-flow order"),
        el("desc", f"{len(groups)} groups, {cut} of them cut; the list below has every number"),
    ]
    for i, row in enumerate(groups):
        tall = math.sqrt(row.size / max(1, largest))
        full = tall * len(row.kept) / max(1, row.size)
        left, wide = share(start + i * step + gap / 2), share(step - gap)
        inside = [
            el("title", _hover(row)),
            el("rect", class_="room", x=left, width=wide, y="0", height="100%"),
            el(
                "rect",
                class_="outline",
                x=left,
                width=wide,
                y=share((1 - tall) / 2),
                height=share(tall),
            ),
            el(
                "rect",
                class_="fill",
                x=left,
                width=wide,
                y=share((1 - full) / 2),
                height=share(full),
            ),
        ]
        parts.append(
            el("g", *inside, class_="fixed" if row.reason is not None else "free", data_group=i)
        )
    return el("svg", *parts, class_="profile", role="img")


def network_row(row: GroupRow, largest: int) -> NetworkRow:
    """The bar and the numbers of one group."""
    error = facts.error_at(row, row.errors)
    return NetworkRow(
        name=row.name,
        size=row.size,
        kept=len(row.kept),
        share=n.percent(len(row.kept) / row.size) if row.size else n.MISSING,
        macs=n.percent(row.macs_share) if row.macs_share else n.MISSING,
        error=n.number(error, 3) if error is not None else n.MISSING,
        reason=row.reason,
        bar=bar(row, largest),
    )


def bar(row: GroupRow, largest: int) -> Markup:
    """The outline of the group, the part that stays, and below it which units stay."""
    size = max(1, row.size)
    wide = math.sqrt(size / max(1, largest))
    parts = [
        el("title", _hover(row)),
        el("rect", class_="outline", x="0", y="0.5", width=size, height="8"),
        el("rect", class_="fill", x="0", y="0.5", width=len(row.kept), height="8"),
    ]
    parts += strip(row.kept, size)
    css = "bar fixed" if row.reason is not None else "bar"
    box = f"0 0 {size} 16"
    return el(
        "svg",
        *parts,
        class_=css,
        viewBox=box,
        preserveAspectRatio="none",
        width=share(wide),
        role="img",
    )


def strip(kept: Sequence[int], size: int) -> list[Markup]:
    """The units that stay as stripes; in very wide groups a paler stripe holds some that stay, some that left."""
    per = math.ceil(size / FINEST)
    if per == 1:
        return [_stripes(runs(kept), 1, "units")] if kept else []
    counts: dict[int, int] = {}
    for unit in kept:
        counts[unit // per] = counts.get(unit // per, 0) + 1
    whole = [b for b, c in counts.items() if c >= min(per, size - b * per)]
    part = [b for b, c in counts.items() if c < min(per, size - b * per)]
    pairs = ((whole, "units"), (part, "units some"))
    return [_stripes(runs(bins), per, css) for bins, css in pairs if bins]


def _stripes(found: Sequence[tuple[int, int]], per: int, css: str) -> Markup:
    d: list[str] = []
    at = 0
    for first, length in found:
        d.append(f"m{(first - at) * per} {'13' if not d else '0'}h{length * per}")
        at = first + length
    return el("path", class_=css, d="".join(d))


def bitmap(kept: Sequence[int], size: int) -> str:
    """The units as hexadecimal digits, four units each, the first unit in the highest bit.

    >>> bitmap((0, 5), 6)
    '84'
    """
    digits = [0] * math.ceil(size / 4)
    for unit in kept:
        digits[unit // 4] |= 8 >> (unit % 4)
    return "".join(f"{d:x}" for d in digits)


def _hover(row: GroupRow) -> str:
    text = f"{row.name}: {len(row.kept)} of {row.size} units stay"
    if row.size:
        text += f" ({coord(100 * len(row.kept) / row.size)}%)"
    return text if row.reason is None else f"{text}; may not be touched: {row.reason}"
