"""What each part of `refit` brings, on two real cases: one part changed at a time, same budgets and calibration data.

    python benchmarks/ablation.py resnet20 --dense FOLDER         ResNet-20 of fashion_mnist.py, validation images
    python benchmarks/ablation.py photographs --photos FOLDER     EfficientNet-Lite0, two folds
    python benchmarks/ablation.py table                           results/ablation.md

No retraining. KL(dense || cut) on inputs that nothing was fitted on; on ResNet-20 those are the validation images, and
test images are not looked at: defaults follow this table. Cells that are done are skipped. All arms are without the
twin that the default carries along where there are fewer than 1,000 samples, but the one that adds it.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.surgery import shrink
from sprig.core.workbench import Workbench
from sprig.methods.greedy.refit import RefitConfig, realise, search
from sprig.training import agreement

RESULTS = Path(__file__).parent / "results" / "ablation.jsonl"
NOTES = """## Notes

The rows of the photographs were made before views of one picture were kept on one side of fit and judge
(`sprig.data.Views`); photographs.md has the default since then. What that brings, pictures of stamps.py, fold 0 (44
judged), KL at 300 / 214 MMACs:

| calibration | views torn apart | views kept together |
|---|---|---|
| 6 views of each picture | 0.238 / 0.718 | 0.218 / 0.663 |
| 12 views | – | 0.204 / – |
| 18 views | 0.434 / – | 0.209 / 0.683 |

Other seeds of the 6 views kept together: 0.226 / 0.646 and 0.237 / 0.682; what is nearer than that is no difference.

Tried on the same pictures, views kept together, and not kept (single runs of prototypes that are not in the tree, as
are those on ResNet-20 below; no command makes these figures again):

- each layer's repair of what was lost before it, shrunk by the share that helps the judge: 0.225 / 0.650;
- every quarter of the data judging ridges and trials in its turn: 0.221 / 0.657, with the second seed 0.225 at 300;
- as many images again made of shapes filled with pieces of the calibration pictures: 0.270 / 0.753;
- the classifier fitted to the dense network's probabilities instead of its logits, at most pulled: 0.220 / 0.669.

The KL on the calibration views themselves is 0.025 / 0.048: what is left is not the fit, but what few pictures cannot
tell. On a shortly trained ResNet-20 (89%, one network, 1,024 images, KL at 50 / 25% of the multiply-adds, default
0.0142 / 0.0520): images drawn by the dense network's doubt, half of the say, 0.0147 / 0.0478; units of residual
streams picked in steps (75, 50, 37.5, 25%), each on the network of the step before, 0.0147 / 0.0467; every quarter
judging the trials in turn 0.0145 / 0.0508.
"""
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "a twin judges the ridges": {"twin": True},
    "a twin, and units not picked anew": {"twin": True, "reselect": False},
    "no rounds (errors that a ReLU hides count)": {"rounds": 0},
    "streams not repaired": {"streams": False},
    "targets of the pruned inputs (symmetric)": {"asymmetric": False},
    "sizes by local errors, no output measured": {"trials": ()},
    "units not picked anew": {"reselect": False},
    "ridge 0.001, not judged": {"ridge": 1e-3},
    "ridge 0.03, not judged": {"ridge": 3e-2},
    "errors of all outputs alike (identity)": {"metric": "identity"},
    "errors by Fisher information": {"metric": "fisher"},
    "errors by K-FAC's output factor": {"metric": "kfac"},
    "exchanges": {"swaps": 20},
    "one trial per group": {"trials": (0.5,)},
}
SEARCHED = ("ridge", "metric", "trials")  # settings that the search depends on
Row = dict[str, Any]


def cells(
    case: str, model: nn.Module, example: Any, seen: Any, unseen: Any, budgets: dict[str, Any],
    arms: list[str], done: set[tuple[str, str, int, str]], number: int,
) -> Iterator[Row]:  # fmt: skip
    """Every arm at every budget on one network."""
    graph, triples = sprig.trace(model, example), as_batches(seen)
    bench, paths = Workbench(model, graph, list(triples), 0, views=triples.views), dict[str, Any]()
    for arm in arms:
        config = RefitConfig(**{"ratio_pairs": 0, "twin": False, **ARMS[arm]})
        key = json.dumps({k: v for k, v in ARMS[arm].items() if k in SEARCHED})
        for label, limit in budgets.items():
            if (case, arm, number, label) in done:
                continue
            if key not in paths:
                paths[key] = search(bench, config)
            outcome = realise(bench, paths[key].at(limit), config)
            found = agreement(model, shrink(model, outcome, graph).eval(), unseen)
            yield {
                "case": case,
                "arm": arm,
                "number": number,
                "budget": label,
                "kl": found.kl,
                "agreement": found.top1,
                "confident": found.confident_top1,
                "count": found.count,
                "sure": found.confident,
            }


def resnets(folder: Path, arms: list[str], done: set[Any], seeds: list[int]) -> Iterator[Row]:
    from fashion_setup import EXAMPLE, Bench

    bench = Bench(folder)
    budgets = {f"{b:.0%} of MACs": sprig.Budget(macs=b) for b in (0.5, 0.25)}
    for seed in seeds:
        yield from cells(
            "ResNet-20, Fashion-MNIST", bench.dense(seed), (EXAMPLE,), bench.calibration, bench.validation, budgets,
            arms, done, seed,
        )  # fmt: skip


def photographs(folder: str, arms: list[str], done: set[Any]) -> Iterator[Row]:
    from photographs import SPEC, WEIGHTS

    from sprig.data import load
    from sprig.models import specs

    model = specs.build(SPEC, weights=WEIGHTS).eval()
    image = specs.image_spec(model, SPEC, weights=WEIGHTS)
    spec = f"imagefolder:{folder}?unlabelled"
    budgets = {f"{m} MMACs": sprig.Budget(macs=m * 1e6) for m in (300, 214)}
    for fold in (0, 1):
        seen = load(
            spec, split="calibration", batch_size=33, image=image, views=6, fold=f"{fold}/2"
        )
        unseen = load(spec, split="test", batch_size=64, image=image, fold=f"{1 - fold}/2")
        example = (next(iter(as_batches(seen)))[0][0][:2],)
        yield from cells(
            "EfficientNet-Lite0, photographs", model, example, seen, unseen, budgets, arms, done, fold
        )  # fmt: skip


def table(rows: list[Row]) -> str:
    lines = [
        "# What each part of `refit` brings",
        "",
        "Commands: `python benchmarks/ablation.py resnet20 --dense FOLDER`, `... photographs --photos FOLDER`. One "
        "part changed; no retraining; inputs that nothing was fitted on. ResNet-20: mean over networks (standard "
        "deviation of the differences to the default), 1,024 calibration images, judged on 5,000 validation images. "
        "EfficientNet-Lite0: 110 photographs in two folds, each judged once; some arms on one fold only (n=1). All "
        "arms are without the twin that the default has below 1,000 samples, but the one that adds it.",
        "",
    ]
    for case in dict.fromkeys(r["case"] for r in rows):
        mine = [r for r in rows if r["case"] == case]
        budgets = list(dict.fromkeys(r["budget"] for r in mine))
        lines += [f"## {case}", ""]
        lines += [
            "| arm | "
            + " | ".join(f"{b}: KL | against default | agreement" for b in budgets)
            + " |"
        ]
        lines += ["|---" * (3 * len(budgets) + 1) + "|"]
        for arm in dict.fromkeys(r["arm"] for r in mine):
            shown = []
            for budget in budgets:
                here = {r["number"]: r for r in mine if (r["arm"], r["budget"]) == (arm, budget)}
                base = {
                    r["number"]: r for r in mine if (r["arm"], r["budget"]) == ("default", budget)
                }
                both = [n for n in here if n in base]
                if not both:
                    shown += ["–", "–", "–"]
                    continue
                count = sum(here[n]["count"] for n in both)
                kl = sum(here[n]["kl"] * here[n]["count"] for n in both) / count
                top = sum(here[n]["agreement"] * here[n]["count"] for n in both) / count
                gaps = [here[n]["kl"] / base[n]["kl"] - 1 for n in both]
                gap = f"{100 * statistics.mean(gaps):+.1f}%"
                if len(gaps) > 1:
                    gap += f" ± {100 * statistics.stdev(gaps):.1f}"
                shown += [
                    f"{kl:.4f}",
                    "" if arm == "default" else gap,
                    f"{top:.3f} (n={len(both)})",
                ]
            lines += [f"| {arm} | " + " | ".join(shown) + " |"]
        lines += [""]
    return "\n".join([*lines, NOTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", choices=("resnet20", "photographs", "table"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dense", type=Path, default=Path("runs/fashion-mnist"))
    parser.add_argument("--photos", default="photos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    rows = [json.loads(line) for line in lines]
    if args.case == "table":
        args.results.with_suffix(".md").write_text(table(rows))
        print(table(rows))
        return
    done = {(r["case"], r["arm"], r["number"], r["budget"]) for r in rows}
    found = (
        resnets(args.dense, args.arms, done, args.seeds)
        if args.case == "resnet20"
        else photographs(args.photos, args.arms, done)
    )
    for row in found:
        with args.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
