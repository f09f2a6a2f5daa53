"""What every view of a run says, worked out once from its records.

The terminal table and the HTML page both read these, so they cannot disagree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sprig.core.types import Claim, GroupRow, Measures, RunRecord
from sprig.report import numbers as n

State = Literal["holds", "fails", "none"]

_SHARES = ("accuracy", "agreement", "top1", "top5", "top-1", "top-5", "recall", "precision", "f1")
_WORDS = (
    ("accuracy", "accuracy"),
    ("top1", "top-1 accuracy"),
    ("top5", "top-5 accuracy"),
    ("agreement", "agreement with the dense network"),
    ("agreement_confident", "agreement where the dense network is confident"),
    ("kl", "KL(dense ‖ cut)"),
)


@dataclass(frozen=True)
class Cell:
    """One printed number: its text, every digit of it, and its spread if it was measured often."""

    text: str
    exact: str = ""
    spread: str = ""


@dataclass(frozen=True)
class Line:
    """One row of the before/after table."""

    key: str
    label: str
    before: Cell
    after: Cell
    ratio: str  # after / before, as a percentage; empty where that says nothing
    means: str  # the same in words
    part: float | None = (
        None  # what a meter shows: after / before of a cost, a quality that is a share
    )


@dataclass(frozen=True)
class Verdict:
    """What the certificate says, in one word, one sentence, and the claims that fail."""

    state: State
    text: str
    failed: tuple[Claim, ...] = ()


def quality_label(key: str) -> str:
    """The words for a quality.

    >>> quality_label("kl"), quality_label("macro_recall")
    ('KL(dense ‖ cut)', 'macro recall')
    """
    return dict(_WORDS).get(key, key.replace("_", " "))


def is_share(key: str) -> bool:
    """Whether a quality is a share of one, printed in percent."""
    lower = key.lower()
    return any(word in lower for word in _SHARES)


def quality_text(key: str, value: float | None) -> str:
    """A quality as printed everywhere."""
    if value is None:
        return n.MISSING
    share = is_share(key) and n.is_finite(value) and 0 <= value <= 1
    return n.percent(value) if share else n.number(value)


def lines(record: RunRecord) -> tuple[Line, ...]:
    """The before/after table, quantity by quantity."""
    before, after = record.before, record.after
    out = [
        _amount("macs", "multiply-adds (MACs)", before.macs, after.macs, unit="", less="fewer"),
        _amount("params", "parameters", before.params, after.params, unit="", less="fewer"),
        _amount(
            "bytes", "size of the weights", before.bytes, after.bytes, unit="B", less="smaller"
        ),
    ]
    alive = survivors(record)
    if alive is not None:
        out.append(
            _amount(
                "not_zero", "weights that are not zero", alive[1], alive[0], unit="", less="fewer"
            )
        )
    out += [_latency(batch, before, after) for batch in batches(record)]
    out += [_quality(key, before, after) for key in qualities(record)]
    return tuple(out)


def survivors(record: RunRecord) -> tuple[int, int] | None:
    """Of the weights that a training put masks on: those that are not zero, and all; None without masks."""
    rows = [row for row in record.log if row.get("kind") == "layer" and "weights" in row]
    if not rows:
        return None
    kept = sum(round(row["kept"] * row["weights"]) for row in rows)
    return kept, sum(int(row["weights"]) for row in rows)


def batches(record: RunRecord) -> tuple[str, ...]:
    """The batch sizes whose latency was measured, small to large."""
    names = {*record.before.latency_ms, *record.after.latency_ms}
    return tuple(sorted(names, key=lambda b: (not b.isdigit(), int(b) if b.isdigit() else 0, b)))


def qualities(record: RunRecord) -> tuple[str, ...]:
    """The qualities measured, those with known words first."""
    given = dict.fromkeys((*record.after.quality, *record.before.quality))
    known = [key for key, _ in _WORDS if key in given]
    return tuple([*known, *(key for key in given if key not in known)])


def _amount(key: str, label: str, before: int, after: int, *, unit: str, less: str) -> Line:
    if before == after:
        means = "unchanged"
    elif after < before:
        factor = n.times(before, after)
        means = f"{factor} {less}" if factor else ""
    else:
        means = "more than before"
    part = after / before if before > 0 else None
    return Line(
        key=key,
        label=label,
        before=Cell(n.si(before, unit), n.exact(before)),
        after=Cell(n.si(after, unit), n.exact(after)),
        ratio="" if part is None else n.percent(part),
        means=means,
        part=part,
    )


def _latency(batch: str, before: Measures, after: Measures) -> Line:
    old, new = before.latency_ms.get(batch, {}), after.latency_ms.get(batch, {})
    a, b = old.get("median"), new.get("median")
    part, ratio, means = None, "", ""
    if a is not None and b is not None and n.is_finite(a) and n.is_finite(b) and a > 0 < b:
        part, ratio = b / a, n.percent(b / a)
        means = f"{n.times(a, b)} faster" if b < a else f"{n.times(b, a)} slower"
        if a == b:
            means = "unchanged"
        elif _overlap(old, new):
            means += ", within the spread"
    return Line(
        f"latency_ms.{batch}", f"latency, batch {batch}", _time(old), _time(new), ratio, means, part
    )


def _time(values: Mapping[str, float]) -> Cell:
    median, low, high = values.get("median"), values.get("low"), values.get("high")
    if median is None:
        return Cell(n.MISSING)
    spread = ""
    if n.is_finite(low) and n.is_finite(high):
        spread = f"{n.milliseconds(low)} to {n.milliseconds(high)}".replace(" ms", "")
    return Cell(n.milliseconds(median), n.exact(median), spread)


def _overlap(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    ends = [values.get(end, math.nan) for values in (old, new) for end in ("low", "high")]
    return all(n.is_finite(e) for e in ends) and ends[0] <= ends[3] and ends[2] <= ends[1]


def _quality(key: str, before: Measures, after: Measures) -> Line:
    a, b = before.quality.get(key), after.quality.get(key)
    means = ""
    if a is not None and b is not None and n.is_finite(a) and n.is_finite(b):
        if is_share(key):
            means = n.points(b - a)
        else:
            sign = "−" if b < a else "+"
            means = "unchanged" if a == b else f"{sign}{n.number(abs(b - a), 3)}"
    cells = [Cell(quality_text(key, v), n.exact(v) if v is not None else "") for v in (a, b)]
    part = b if b is not None and n.is_finite(b) and is_share(key) else None
    return Line(f"quality.{key}", quality_label(key), cells[0], cells[1], "", means, part)


def verdict(record: RunRecord) -> Verdict:
    """Whether the certificate holds."""
    certificate = record.certificate
    if certificate is None:
        return Verdict("none", "This run has no certificate.")
    total = len(certificate.claims)
    if not total:
        return Verdict("none", "The certificate of this run makes no claim.")
    failed = tuple(c for c in certificate.claims if not c.passed)
    if not failed:
        return Verdict("holds", _count(total, "The one claim holds.", f"All {total} claims hold."))
    names = ", ".join(c.name for c in failed[:3]) + (", …" if len(failed) > 3 else "")
    verb = "fails" if len(failed) == 1 else "fail"
    return Verdict("fails", f"{len(failed)} of {total} claims {verb}: {names}.", failed)


def headline(record: RunRecord) -> str:
    """The run in one sentence: what the model was cut to, what it kept, whether that is proven."""
    return f"{record.title}: {story(record)}"


def story(record: RunRecord) -> str:
    """The same sentence without the name, for where the name stands above it."""
    before, after = record.before, record.after
    alive = survivors(record)
    if (before.macs, before.params) == (after.macs, after.params):
        cut = "nothing was cut"
        if alive is not None and alive[0] < alive[1]:
            cut = f"{n.percent(1 - alive[0] / alive[1])} of its weights set to zero"
    elif before.macs > 0 and before.params > 0:
        cut = (
            f"cut to {n.percent(after.macs / before.macs)} of its multiply-adds and "
            f"{n.percent(after.params / before.params)} of its parameters"
        )
    else:
        cut = f"cut to {n.si(after.params)} parameters"
    return f"{cut}, it {_kept(record)}, and {_proof(record)}."


def caveat(record: RunRecord) -> str:
    """What the figures of quality do not say; empty where they come from inputs the search has not seen."""
    if not record.after.quality or not _fitted(record):
        return ""
    return (
        "Quality was measured on the calibration inputs, to which the weights were fitted: "
        "expect less on others (--eval-data, --eval-fold)."
    )


def effort(record: RunRecord) -> str:
    """What a search that counts its layer evaluations has spent; empty where it does not count."""
    found = record.config.get("search") or {}
    if "layers_saved" not in found:
        return ""
    ran, every = int(found["layers_run"]), int(found["layers_exhaustive"])
    return (
        f"The search ran {ran:,} layer evaluations where running the whole network every time takes {every:,}: "
        f"{found['layers_saved']:.0%} saved."
    )


def _fitted(record: RunRecord) -> bool:
    return record.config.get("judged_on") == "the calibration data"


def _kept(record: RunRecord) -> str:
    before, after = record.before.quality, record.after.quality
    here = " on the calibration inputs" if _fitted(record) else ""
    for key in ("accuracy", "top1"):
        if key in after:
            was = f" ({quality_text(key, before[key])} before)" if key in before else ""
            return f"has {quality_text(key, after[key])} {quality_label(key)}{here}{was}"
    if "agreement" in after:
        share = quality_text("agreement", after["agreement"])
        return f"decides like the dense network on {share} of the {'calibration ' if here else ''}inputs"
    for key in qualities(record):
        if key in after:
            return f"has {quality_label(key)} {quality_text(key, after[key])}{here}"
    return "was not tested on data"


def _proof(record: RunRecord) -> str:
    found = verdict(record)
    if record.certificate is None:
        return "there is no certificate"
    total = len(record.certificate.claims)
    if found.state == "none":
        return "its certificate makes no claim"
    if found.state == "holds":
        return _count(
            total,
            "the one claim of its certificate holds",
            f"all {total} claims of its certificate hold",
        )
    verb = "does" if len(found.failed) == 1 else "do"
    return f"{len(found.failed)} of the {total} claims of its certificate {verb} not hold"


def _count(total: int, one: str, many: str) -> str:
    return one if total == 1 else many


def error_at(row: GroupRow, values: tuple[float, ...]) -> float | None:
    """The value of a curve of this group at the size that was chosen, if the curve reaches it."""
    size = len(row.kept)
    return values[size] if size < len(values) else None


def fixed_by_reason(groups: tuple[GroupRow, ...]) -> tuple[tuple[str, tuple[GroupRow, ...]], ...]:
    """The groups that may not be touched, gathered by reason in order of first appearance."""
    found: dict[str, list[GroupRow]] = {}
    for row in groups:
        if row.reason is not None:
            found.setdefault(row.reason, []).append(row)
    return tuple((reason, tuple(rows)) for reason, rows in found.items())
