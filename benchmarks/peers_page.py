"""results/peers.md out of results/peers.jsonl."""

import statistics
from collections import Counter
from typing import Any

Row = dict[str, Any]
DONE = ("handled", "wrong")  # ran to the end
HEAD = """# sprig, torch-pruning and torch-kirigami on the same models

Made by `python benchmarks/peers.py table` from `peers.jsonl`; `python benchmarks/peers.py run` fills that, one process
per model and tool, one thread, smallest models first, timm's and torchvision's in turn; it goes on where it was
stopped. Random weights in which no tensor is constant. *Listed*: the smallest member of every timm family and
torchvision's classifiers below 100 M parameters.

- **sprig**: trace (`torch.export`, and trial cuts of what a module's own Python might not follow), random units at 60%
  of the multiply-adds or as near as the groups allow, shrink. Most rows are those of `coverage.py`, which takes the
  same steps under the same clock.
- **torch-pruning** {tp}: the recipe of its README (`BasePruner`, `GroupMagnitudeImportance(p=2)`, the classifier
  ignored), 22.54% of every layer's channels, which is 60% of the multiply-adds where both sides of every layer shrink;
  attention heads told and written back as in its own example for timm models. Where that fails, once more with
  `round_to=8`, as its README recommends; the first that is handled counts. Nothing for single models: its own
  benchmark, for one, builds GoogLeNet and Inception v3 without the classifiers that only training uses, which its trace
  cannot see.
- **torch-kirigami** {kg}: the quick start of its README (`discover_candidates`, `Greedy(GroupMagnitude(p=2))`), 60% of
  the parameters; where it says what it can reach instead, that is asked for.

*Handled*: within {limit} seconds of processor time for trace + plan + shrink something was removed, and the small
network runs with outputs of the same shape, runs on another batch size and trains a step. *Masked = shrunk*: what left
is read off the weights, the same for all tools; the dense network with that set to zero gives the same outputs
(float64, relative difference at most 1e-8; float32 models 1e-4). *But for norms*: the same once layer and group norms
leave out what left: the cut changed what the norms compute. sprig makes such cuts on demand only, torch-pruning always.
*Wrong*: neither; not counted as handled. Seconds are processor time, which a crowded machine disturbs little;
this one was crowded.
"""


def page(listed: list[str], rows: list[Row], arms: list[str]) -> str:
    """The whole file."""
    at = {(r["model"], r["arm"]): r for r in rows}
    tried = {a: [s for s in listed if (s, a) in at] for a in arms}
    versions = {r["arm"]: r["version"] for r in rows}
    limits = sorted({r["limit"] for r in rows})
    out = [
        HEAD.format(
            tp=versions.get("torch-pruning", ""),
            kg=versions.get("torch-kirigami", ""),
            limit=" or ".join(f"{s:.0f}" for s in limits),
        )
    ]
    every = [s for s in listed if all((s, a) in at for a in arms)]
    out += [f"## The {len(every)} models (of {len(listed)} listed) tried with all", ""]
    out += summary(every, at, arms)
    for other in (a for a in arms if a != "sprig"):
        both = [s for s in listed if (s, "sprig") in at and (s, other) in at]
        if len(arms) > 2 or len(both) > len(every):
            out += [f"## The {len(both)} models tried with sprig and {other}", ""]
            out += summary(both, at, ["sprig", other])
    out += ["## Every model", "", "| model | params | " + " | ".join(arms) + " |"]
    out += ["|---|---|" + "---|" * len(arms)]
    for spec in (s for s in listed if any(s in tried[a] for a in arms)):
        cells = [cell(at[spec, a]) if (spec, a) in at else "" for a in arms]
        params = max(at[spec, a].get("params", 0) for a in arms if (spec, a) in at) / 1e6
        out.append(f"| {spec} | {params:.1f} M | " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def summary(models: list[str], at: dict[tuple[str, str], Row], arms: list[str]) -> list[str]:
    """One table: shares over `models`, seconds over those that all of `arms` handle."""
    common = [s for s in models if all("seconds" in at[s, a] for a in arms)]
    common = [s for s in common if all(at[s, a]["status"] == "handled" for a in arms)]
    out = [
        "| | handled | of them: masked = shrunk | but for norms | cut to 90% of the MACs or less | wrong | failed | "
        f"over the time | median seconds, {len(common)} models that all handled here | median MACs kept there |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        mine = [at[s, arm] for s in models]
        count = Counter(r["status"] for r in mine)
        good = [r for r in mine if r["status"] == "handled"]
        same = Counter(r["same"] for r in good)
        cut = sum(r["kept"] <= 0.9 for r in good)
        share = f" ({len(good) / len(mine):.0%})" if mine else ""
        both = [at[s, arm] for s in common]
        fast = f"{statistics.median(r['seconds'] for r in both):.2f}" if both else ""
        part = f"{statistics.median(r['kept'] for r in both):.0%}" if both else ""
        out.append(
            f"| {arm} | {len(good)} of {len(mine)}{share} | {same['yes']} | {same['but for norms']} | {cut} | "
            f"{count['wrong']} | {count['failed'] + count['unchecked']} | {count['timeout']} | {fast} | {part} |"
        )
    return [*out, ""]


def cell(row: Row) -> str:
    """What happened with one model and tool."""
    if row["status"] not in DONE:
        reason = row.get("reason", "").replace("|", "/").replace("\n", " ")
        return f"**{row['status']}** {reason[:110]}"
    gap = f"{row['gap']:.0e}" if "gap" in row else ""
    same = {"yes": f"= ({gap})", "no": f"**wrong** ({gap})"}.get(row["same"], row["same"])
    step = "".join(f", {k}={v}" for k, v in row.get("settings", {}).items())
    time = f"{row['seconds']:.2f} s" if "seconds" in row else "not timed"
    return f"{row['kept']:.0%} of MACs, {time}, {same}{step}"


def adopted(row: Row, limit: float, close: dict[str, float]) -> Row:
    """A row of coverage.py as one of sprig here: the same steps under the same clock."""
    new: Row = {
        "model": row["model"],
        "arm": "sprig",
        "version": "this tree",
        "source": "coverage.jsonl",
        "limit": limit,
        "params": row.get("params", 0),
    }
    if row["status"] not in ("ok", "wrong"):
        return new | {"status": "failed", "reason": "; ".join(row["reasons"])}
    new |= {k: row[k] for k in ("kept", "gap", "moved", "precision")}
    allowed = close.get(row["precision"], close["float32"])  # or float32 somewhere inside
    new["same"] = "yes" if row["gap"] <= allowed else "no"
    new["status"] = "handled" if row["status"] == "ok" else "wrong"
    if "cut_s" in row:
        new["seconds"] = row["cut_s"]  # trace, plan, shrink
        new["status"] = "timeout" if row["cut_s"] > limit else new["status"]
    return new
