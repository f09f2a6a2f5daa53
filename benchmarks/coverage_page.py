"""docs/coverage.md, from the rows that coverage.py wrote."""

import collections
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

SECTIONS = {
    "timm": "timm: the smallest member of every family",
    "torchvision": "torchvision: classifiers below 100 M parameters",
    "segmentation": "torchvision: segmentation below 100 M parameters",
    "detection": "torchvision: detectors, of which the named submodules are traced",
    "hf": "Hugging Face transformers, built from configurations",
    "yolo": "A network of the YOLO kind (`sprig.testing.yolo`)",
}

HEAD = """# Coverage

Made by `python benchmarks/coverage.py` from its `results/coverage.jsonl` and `results/coverage_runs.jsonl`.
Random weights; every model cut to 60% of its multiply-adds, or to the least that is reachable plus a tenth
of the rest. *Checked*: masked = shrunk (float64, relative difference at most 1e-8; float32 models 1e-4),
predicted cost = recount, the shrunk model copies, trains a step and is loaded again into a fresh one. One
thread. *Free heads in*: the number of attention modules whose heads may leave. Seconds are the
processor's, with another program on the other core. A transformer has the
sizes of the network it is named after, unless something else is said."""

RUNS = """## Whole runs

`sprig.search` with `refit` on 32 random inputs, `sprig.prune` to 60% of the multiply-adds (or the least that is
reachable plus a tenth of the rest), `save`, `sprig.load` into a fresh model of other weights, `sprig.verify` from the
folder. *Holds*: the budget is kept, so is every claim of the certificate, the loaded network gives bit for bit what the
pruned one gives on inputs that nothing has seen, the folder is verified. One thread."""


def source_of(row: Row) -> str:
    """The section that a row belongs to."""
    return str(row.get("source") or row["model"].partition(":")[0])


def name_of(row: Row) -> str:
    """The model without its source, and what is special about it."""
    name = row["model"].partition(":")[2] or row["model"]
    inside = ", ".join(row.get("modules", ()))
    said = [*([row["size"]] if row.get("size") else ()), *([f"in {inside}"] if inside else ())]
    return f"{name} ({'; '.join(said)})" if said else str(name)


def page(rows: Sequence[Row], runs: Sequence[Row]) -> str:
    """docs/coverage.md."""
    out = [HEAD, ""]
    for source, title in SECTIONS.items():
        mine = sorted((r for r in rows if source_of(r) == source), key=lambda r: r["model"])
        if mine:
            out += [f"## {title}", "", *table(mine), ""]
    if runs:
        out += [RUNS, "", *whole(runs), ""]
    return "\n".join(out)


def table(rows: Sequence[Row]) -> list[str]:
    """The models of one source."""
    good = [r for r in rows if r["status"] == "ok"]
    counts = collections.Counter(r["status"] for r in rows)
    out = [
        f"{len(good)} of {len(rows)} cut and checked, {counts['refused']} refused with the reason, "
        f"{counts['failed']} failed, {counts['wrong']} wrong. {lasted(good)}",
        "",
        "| model | params | may be cut | free heads in | least MACs | cut to | gap | seconds | what stays whole |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        why = "; ".join(r.get("reasons", [])[:2]).replace("|", "/")
        start = f"| {name_of(r)} | {r.get('params', 0) / 1e6:.1f} M |"
        if r["status"] != "ok":
            out.append(f"{start} **{r['status']}** | | | | | | {why} |")
            continue
        out.append(
            f"{start} {r['prunable']} of {r['groups']} | {r['heads'] or ''} | "
            f"{r['least']:.1%} | {r['kept']:.1%} | {r['gap']:.0e} | {r['seconds']} | {why} |"
        )
    return out


def whole(rows: Sequence[Row]) -> list[str]:
    """The runs, sources in their order."""
    order = list(SECTIONS)
    rows = sorted(rows, key=lambda r: (order.index(source_of(r)), r["model"]))
    good = [r for r in rows if r["status"] == "ok"]
    out = [
        f"{len(good)} of {len(rows)} hold. {lasted(good)}",
        "",
        "| source | model | params | least MACs | cut to | claims | loaded alike | verified | folder | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        start = f"| {source_of(r)} | {name_of(r)} | {r.get('params', 0) / 1e6:.1f} M |"
        if "claims" not in r:
            why = "; ".join(r.get("reasons", [])).replace("|", "/")
            out.append(f"{start} **{r['status']}**: {why} | | | | | | |")
            continue
        lost = f": not {', '.join(r['failed'])}" if r["failed"] else ""
        out.append(
            f"{start} {r['least']:.1%} | {r['kept']:.1%} | {r['claims'] - len(r['failed'])} of {r['claims']}{lost} | "
            f"{yes(r['reloaded'])} | {yes(r['verified'])} | {r['bytes'] / 1e6:.1f} MB | {r['seconds']} |"
        )
    return out


def yes(true: bool) -> str:
    return "yes" if true else "**no**"


def lasted(rows: Sequence[Row]) -> str:
    seconds = [r["seconds"] for r in rows]
    return (
        f"Seconds: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}."
        if seconds
        else ""
    )
