"""One run as one HTML file: styles, script and drawings inside, nothing fetched from anywhere.

The page carries a content security policy that forbids every connection and every script but its own.
"""

import base64
import hashlib
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sprig.core.types import Certificate, Claim, GroupRow, RunRecord
from sprig.report import facts, network, plots
from sprig.report import numbers as n
from sprig.report.shrinkage import KINDS, section
from sprig.report.speed import speed
from sprig.report.svg import thin
from sprig.report.words import GLOSSARY

SAMPLES = 4000  # points of all error curves together
TILES = ("macs", "params", "bytes")


def render_html(record: RunRecord) -> str:
    """The report of a run as one self-contained page.

    Every number is printed rounded and carries all its digits in the `value` of its `data` element.
    """
    environment = Environment(
        loader=PackageLoader("sprig.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    script = _part("report.js")
    return environment.get_template("report.html.j2").render(
        style=Markup(_part("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shapes=dict(plots.SHAPES),
        glossary=GLOSSARY,
        **_view(record),
    )


def breakable(name: object) -> Markup:
    """A name that may break after its dots, slashes and underscores.

    >>> str(breakable("a.b<c"))
    'a.<wbr>b&lt;c'
    """
    return Markup(re.sub(r"([./_:])(?=.)", r"\1<wbr>", str(escape(name))))


def _part(name: str) -> str:
    return (
        resources.files("sprig.report")
        .joinpath("template")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )


def _view(record: RunRecord) -> dict[str, Any]:
    rows = record.groups
    curved = [row for row in rows if row.errors]
    most = max(16, min(96, SAMPLES // max(1, len(curved))))
    scale = plots.error_scale(curved)
    largest = max((row.size for row in rows), default=1)
    table = facts.lines(record)
    return {
        "title": record.title,
        "story": _capital(facts.story(record)),
        "caveat": " ".join(filter(None, (facts.caveat(record), facts.effort(record)))),
        "verdict": facts.verdict(record),
        "lines": table,
        "tiles": _tiles(table),
        "measured": any(line.key.startswith("quality.") for line in table),
        "timed": any(line.key.startswith("latency_ms.") for line in table),
        "speed": speed(record),
        "profile": network.profile(rows) if rows else None,
        "rows": [network.network_row(row, largest) for row in rows],
        "cut": sum(len(row.kept) < row.size for row in rows),
        "fixed": facts.fixed_by_reason(rows),
        "panels": plots.budget_panels(record),
        "curve": _curve_table(record),
        "cards": [
            _card(i, row, plots.error_card(row, scale, most=most))
            for i, row in enumerate(rows)
            if row.errors
        ],
        "scale": (n.number(scale.low), n.number(scale.high)),
        "bounded": any(row.floor for row in curved),
        "shrinkage": section(record.log),
        "stages": plots.log_stages([row for row in record.log if row.get("kind") not in KINDS]),
        "claims": _claims(record.certificate),
        "hashes": dict(record.certificate.hashes) if record.certificate else {},
        "versions": dict(record.certificate.versions) if record.certificate else {},
        "plan": _plan(record),
        "config": flatten({k: v for k, v in record.config.items() if k != "latency"}),
        "snippet": python_snippet(record.config),
        "payload": _payload(rows, scale.low, scale.high, most=most),
    }


def _tiles(table: Sequence[facts.Line]) -> list[dict[str, Any]]:
    """The few numbers at the top: what stays of each cost, then the first latency and the first quality."""
    chosen = [(line, line.ratio or line.after.text) for line in table if line.key in TILES]
    for start in ("latency_ms.", "quality."):
        found = next(
            (line for line in table if line.key.startswith(start) and line.after.exact), None
        )
        chosen += [(found, found.after.text)] if found is not None else []
    return [
        {
            "label": "same first choice" if line.key == "quality.agreement" else line.label,
            "big": big,
            "note": _tile_note(line),
            "fill": _fill(line.part),
        }
        for line, big in chosen
    ]


def _tile_note(line: facts.Line) -> str:
    if line.key in TILES:
        return f"{line.after.text} of {line.before.text}"
    if line.key == "quality.agreement":
        return "as the dense network"
    return f"{line.before.text} before" if line.before.exact else "dense network not measured"


def _fill(part: float | None) -> float | None:
    return min(1.0, max(0.0, part)) if n.is_finite(part) else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _card(index: int, row: GroupRow, figure: Markup) -> dict[str, Any]:
    error, floor = facts.error_at(row, row.errors), facts.error_at(row, row.floor)
    return {
        "index": index,
        "name": row.name,
        "figure": figure,
        "kept": len(row.kept),
        "size": row.size,
        "share": n.percent(len(row.kept) / max(1, row.size)),
        "error": n.number(error, 3) if error is not None else n.MISSING,
        "floor": n.number(floor, 3) if floor is not None else n.MISSING,
        "exact": n.exact(error) if error is not None else "",
        "sort_error": n.exact(error) if n.is_finite(error) else "0",
        "sort_cut": 1 - len(row.kept) / max(1, row.size),
    }


def _curve_table(record: RunRecord) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for p in record.curve for key in p.measured))
    rows = []
    for p in sorted(record.curve, key=lambda p: -p.fraction if n.is_finite(p.fraction) else 0):
        cells = [facts.Cell(n.percent(p.fraction), n.exact(p.fraction))]
        cells += [facts.Cell(n.si(v), n.exact(v)) for v in (p.macs, p.params)]
        cells.append(facts.Cell(n.number(p.predicted), n.exact(p.predicted)))
        for key in keys:
            value = p.measured.get(key)
            cells.append(
                facts.Cell(facts.quality_text(key, value), "" if value is None else n.exact(value))
            )
        rows.append(cells)
    heads = [
        "budget",
        "MACs",
        "parameters",
        "predicted harm",
        *(facts.quality_label(k) for k in keys),
    ]
    return {"heads": heads, "rows": rows}


def _claims(certificate: Certificate | None) -> list[dict[str, Any]]:
    return [_claim(c) for c in certificate.claims] if certificate else []


def _claim(claim: Claim) -> dict[str, Any]:
    value, tolerance = n.pair(claim.value, claim.tolerance)
    return {
        "name": claim.name,
        "statement": claim.statement,
        "passed": claim.passed,
        "value": value,
        "exact": n.exact(claim.value),
        "tolerance": tolerance,
        "tolerance_exact": "" if claim.tolerance is None else n.exact(claim.tolerance),
        "data": claim.data,
        "how": claim.how,
        "detail": flatten(claim.detail),
    }


def _plan(record: RunRecord) -> list[tuple[str, str]]:
    plan = record.plan
    if plan is None:
        return []
    out = [
        ("plan sha256", plan.hash),
        ("graph sha256", plan.graph),
        ("method", plan.method or n.MISSING),
    ]
    certificate = record.certificate
    out.append(("seed", str(certificate.seed if certificate else plan.seed)))
    return out + [(f"predicted {key}", f"{value:,}") for key, value in plan.cost.items()]


def flatten(
    values: Mapping[str, Any], *, most: int = 12, prefix: str = ""
) -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text); long lists are cut and say by how much.

    >>> flatten({"a": {"b": 0.5}, "c": [1, 2, 3]}, most=2)
    [('a.b', '0.5'), ('c', '1, 2, and 1 more')]
    """
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out += flatten(value, most=most, prefix=f"{name}.")
        else:
            out.append((name, _plain(value, most)))
    return out


def _plain(value: Any, most: int) -> str:
    if n.is_number(value):
        return n.number(value, 6) if not isinstance(value, int) else f"{value}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_plain(v, most) for v in value[:most])
        more = len(value) - most
        return f"{shown}, and {more} more" if more > 0 else shown or n.MISSING
    if value is None or value == {}:
        return n.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def python_snippet(config: Mapping[str, Any]) -> str:
    """How to load the result, with the model's own constructor where its spec tells it.

    >>> print(python_snippet({"model": "torchvision:resnet50"}).splitlines()[1])
    import torchvision
    >>> args = {"in_channels": 1}
    >>> print(python_snippet({"model": "sprig:lenet-5", "model_args": args}).splitlines()[3])
    model = sprig.load("RUN", model=build("sprig:lenet-5", in_channels=1))
    """
    spec = config.get("model")
    kind, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    given = config.get("model_args")
    options = [f"{k}={v!r}" for k, v in given.items()] if isinstance(given, Mapping) else []
    args = ", ".join(options)
    wanted, make = "", "make_model()"
    if kind == "sprig" and _is_name(name.replace("-", "_")):
        rest = ", ".join([f'"{spec}"', *options])
        wanted, make = "from sprig.models.specs import build\n", f"build({rest})"
    elif _is_name(name) and _is_name(kind.replace(".", "_")):
        if kind == "torchvision":
            wanted, make = "import torchvision\n", f"torchvision.models.{name}({args})"
        elif kind == "timm":
            rest = ", ".join([f'"{name}"', *options])
            wanted, make = "import timm\n", f"timm.create_model({rest})"
        else:
            wanted, make = f"from {kind} import {name}\n", f"{name}({args})"
    comment = "" if wanted else "  # make_model: builds the dense network, weights do not matter"
    return (
        f'import sprig\n{wanted}\nmodel = sprig.load("RUN", model={make}){comment}\nmodel.eval()\n'
    )


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier() and not keyword.iskeyword(text)


def _payload(rows: Sequence[GroupRow], low: float, high: float, *, most: int) -> Markup:
    """What the script needs to draw one group large, as JSON that cannot end its own element."""
    groups = []
    for row in rows:
        length = max(len(row.errors), len(row.floor), len(row.hurt))
        sizes = thin(length, most, must=(len(row.kept),))
        groups.append(
            {
                "name": row.name,
                "size": row.size,
                "kept": len(row.kept),
                "reason": row.reason,
                "units": network.bitmap(row.kept, row.size),
                "at": sizes,
                **{key: _sampled(getattr(row, key), sizes) for key in ("errors", "floor", "hurt")},
            }
        )
    text = json.dumps(
        {"low": low, "high": high, "groups": groups}, allow_nan=False, separators=(",", ":")
    )
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _sampled(values: Sequence[float], sizes: Sequence[int]) -> list[float | None]:
    if not values:
        return []
    here = (values[i] if i < len(values) else None for i in sizes)
    return [float(f"{v:.3g}") if n.is_finite(v) else None for v in here]
