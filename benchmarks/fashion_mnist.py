"""Fashion-MNIST, ResNet-20: the accuracy that stays at a fraction of the multiply-adds.

    python benchmarks/fashion_mnist.py dense  --seeds 0 1 2     train the dense networks (resumable)
    python benchmarks/fashion_mnist.py rates                    each arm's learning rate at 35%, on validation
    python benchmarks/fashion_mnist.py rates --budgets 0.75 0.5 --arms refit tp-magnitude    and at other budgets
    python benchmarks/fashion_mnist.py run                      the cells; those done are skipped
    python benchmarks/fashion_mnist.py run --no-finetune --arms refit --budgets 0.5 --seeds 0
    python benchmarks/fashion_mnist.py run --no-finetune --arms refit --code COMMIT    once more, rows of their own
    python benchmarks/fashion_mnist.py table                    results/fashion_mnist.md

Every cell is measured without retraining and after one epoch. All arms: the same dense networks, calibration
images, counter of multiply-adds, batch-norm re-estimation and fine-tuning; each gets its learning rate from the
same few, chosen on validation images of seed 0: at the cell's own budget where `rates` was run for it, else at 35%.
`--arms dense --budgets 1` is the control: the dense network itself after one more epoch. Nothing is chosen on test
images.
See fashion_setup.py and torch_pruning_arms.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torch_pruning_arms as peers
from fashion_setup import EXAMPLE, RATES, RATES_OF_LARGE, TUNING, Bench, fresh, macs_of, params_of
from torch import nn

import sprig
from sprig.training import accuracy, finetune, reestimate_batch_norm

OURS = ("refit", "loss", "uniform", "random", "magnitude")
ARMS = (*OURS, *peers.IMPORTANCES)
CONTROL = "dense"  # nothing removed: what the epoch of fine-tuning does by itself
BUDGETS = (0.75, 0.5, 0.35, 0.25)
RESULTS = Path(__file__).parent / "results"
RATE_AT = 0.35  # the budget whose learning rates hold wherever no others were chosen
RATE_SEED = 0

Row = dict[str, Any]
Pruned = tuple[nn.Module, str]  # the network and the variant that it is


def pruned(arm: str, dense: nn.Module, budget: float, bench: Bench) -> list[Pruned]:
    """The network of one arm, or its variants, each within the budget and with batch norm re-estimated."""
    allowed = int(budget * macs_of(dense))
    if arm == CONTROL:
        return [(fresh(dense), "")]
    if arm in OURS:
        result = sprig.prune(
            fresh(dense),
            example_inputs=(EXAMPLE,),
            data=bench.calibration,
            budget=sprig.Budget(macs=budget),
            method=arm,
        )
        found = [(fresh(result.model), "")]
    else:
        found = [
            (c.model, f"{c.scope}, {c.part}")
            for c in peers.candidates(arm, dense, bench.calibration, allowed)
        ]
    for model, variant in found:
        if macs_of(model) > allowed:
            raise AssertionError(f"{arm} {variant}: {macs_of(model)} MACs exceed {allowed}")
        reestimate_batch_norm(model, bench.calibration)
    return found


def shortlist(found: Sequence[Pruned], scores: Sequence[float]) -> list[Pruned]:
    """What is fine-tuned: of a peer's variants the best of everything and the best of the interiors."""
    ranked = sorted(zip(scores, range(len(found))), key=lambda s: (-s[0], s[1]))
    chosen: dict[str, Pruned] = {}
    for _, index in ranked:
        chosen.setdefault(found[index][1].rpartition(", ")[2], found[index])
    return list(chosen.values())


def tuned(model: nn.Module, bench: Bench, *, lr: float, seed: int) -> nn.Module:
    """One epoch of the common recipe."""
    data = replace(bench.training, seed=1000 + seed)
    return finetune(model, data, config=replace(TUNING, lr=lr, seed=seed)).model


def cell(
    arm: str, budget: float, seed: int, bench: Bench, *, finetuning: bool, lr: float | None
) -> Row:
    """One arm at one budget on one dense network."""
    dense = bench.dense(seed)
    start = time.perf_counter()
    found = pruned(arm, dense, budget, bench)
    seconds = time.perf_counter() - start
    scores = [accuracy(model, bench.validation) for model, _ in found]
    best = max(range(len(found)), key=lambda i: scores[i])
    model, variant = found[best]
    row: Row = {
        "kind": "cell",
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "macs": macs_of(model),
        "fraction": macs_of(model) / macs_of(dense),
        "params": params_of(model),
        "variant": variant,
        "variants": {name: score for (_, name), score in zip(found, scores)},
        "validation": scores[best],
        "accuracy": accuracy(model, bench.test),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    if finetuning:
        assert lr is not None
        runs = [(tuned(m, bench, lr=lr, seed=seed), name) for m, name in shortlist(found, scores)]
        after = [accuracy(m, bench.validation) for m, _ in runs]
        top = max(range(len(runs)), key=lambda i: after[i])
        row |= {
            "lr": lr,
            "tuned_fraction": macs_of(runs[top][0]) / macs_of(dense),
            "tuned_variant": runs[top][1],
            "tuned_validation": after[top],
            "tuned_accuracy": accuracy(runs[top][0], bench.test),
        }
    return row


def rate_row(arm: str, budget: float, lr: float, bench: Bench) -> Row:
    """The validation accuracy of one arm at one budget after one epoch at one learning rate."""
    found = pruned(arm, bench.dense(RATE_SEED), budget, bench)
    scores = [accuracy(model, bench.validation) for model, _ in found]
    runs = [tuned(m, bench, lr=lr, seed=RATE_SEED) for m, _ in shortlist(found, scores)]
    best = max(accuracy(model, bench.validation) for model in runs)
    return {"kind": "rate", "arm": arm, "budget": budget, "lr": lr, "validation": best}


Rates = dict[tuple[str, float], float]


def rates(rows: Iterable[Row]) -> Rates:
    """The learning rate of each arm and budget whose candidates are all measured."""
    seen: dict[tuple[str, float], dict[float, float]] = {}
    for row in rows:
        if row["kind"] == "rate":
            where = row["arm"], row.get("budget", RATE_AT)
            seen.setdefault(where, {})[row["lr"]] = row["validation"]
    return {
        where: max(v, key=lambda r: v[r])
        for where, v in seen.items()
        if set(v) >= set(candidates(where[1]))
    }


def candidates(budget: float) -> tuple[float, ...]:
    """The learning rates tried: the more of a network is left, the smaller."""
    return RATES if budget <= RATE_AT else RATES_OF_LARGE


def rate(chosen: Rates, arm: str, budget: float) -> float | None:
    return chosen.get((arm, budget), chosen.get((arm, RATE_AT)))


def read(path: Path) -> list[Row]:
    """All complete lines; a line torn by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def table(rows: Sequence[Row]) -> str:
    """Two Markdown tables, mean ± standard deviation over the seeds, and what was chosen."""
    dense = {r["seed"]: r["accuracy"] for r in rows if r["kind"] == "dense"}
    cells: dict[tuple[str, float], dict[int, Row]] = {}
    for row in rows:
        if row["kind"] == "cell":
            cells.setdefault((row["arm"], row["budget"]), {})[row["seed"]] = row
    out = ["# Fashion-MNIST, ResNet-20: test accuracy at a fraction of the multiply-adds", ""]
    if dense:
        named = ", ".join(f"{100 * a:.2f} (seed {s})" for s, a in sorted(dense.items()))
        out += [f"Dense: {spread(list(dense.values()))} — {named}.", ""]
    for title, key, size in (
        ("Without retraining", "accuracy", "fraction"),
        ("After one epoch", "tuned_accuracy", "tuned_fraction"),
    ):
        out += [f"## {title}", ""]
        out += ["| arm | " + " | ".join(f"≤ {b:.0%} of MACs" for b in BUDGETS) + " |"]
        out += ["|---" * (len(BUDGETS) + 1) + "|"]
        for arm in ARMS:
            shown = []
            for budget in BUDGETS:
                have = [r for r in cells.get((arm, budget), {}).values() if key in r]
                used = statistics.mean(r[size] for r in have) if have else 0.0
                shown.append(
                    f"{spread([r[key] for r in have])} ({used:.1%}, n={len(have)})" if have else "–"
                )
            out += [f"| {arm} | " + " | ".join(shown) + " |"]
        out += [*again(rows, key, size), ""]
    control = [r for r in cells.get((CONTROL, 1.0), {}).values() if "tuned_accuracy" in r]
    if control:
        after = spread([r["tuned_accuracy"] for r in control])
        out += [
            f"The dense network itself after the same epoch (learning rate {rate(rates(rows), CONTROL, 1.0)}): "
            f"{after} (n={len(control)}).",
            "",
        ]
    return "\n".join([*out, *notes(rows, cells)])


def again(rows: Sequence[Row], key: str, size: str) -> list[str]:
    """Arms run once more with later code, which changes which rows are drawn and the last bits (kind `later`)."""
    found: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        if row["kind"] == "later" and key in row:
            name = f"{row['arm']}, code of {row['code']}"
            found.setdefault(name, {}).setdefault(row["budget"], []).append(row)
    out = []
    for name, by in found.items():
        shown = [
            f"{spread([r[key] for r in by[b]])} ({statistics.mean(r[size] for r in by[b]):.1%}, n={len(by[b])})"
            if b in by
            else "–"
            for b in BUDGETS
        ]
        out.append(f"| {name} | " + " | ".join(shown) + " |")
    return out


def notes(rows: Sequence[Row], cells: dict[tuple[str, float], dict[int, Row]]) -> list[str]:
    """How it was made: times, learning rates, the variants that the peers were given."""
    out = [
        "Percent, mean ± standard deviation over n dense networks; in brackets the share of the MACs used. "
        "Same calibration images (1,024), batch-norm re-estimation, counter and recipe (one epoch, batch 128, "
        "cosine, crop and mirror, bfloat16) for all. Learning rates and variants are chosen on 5,000 "
        "validation images held out of the training set.",
        "",
        f"torch {torch.__version__}, torch-pruning {torch_pruning.__version__}.",
        "",
        "| arm | learning rate at each budget | seconds to prune, median | variants chosen |",
        "|---|---|---|---|",
    ]
    chosen = rates(rows)
    for arm in ARMS:
        mine = [r for (a, _), by in cells.items() if a == arm for r in by.values()]
        if not mine:
            continue
        names = [r["variant"] for r in mine] + [r.get("tuned_variant", "") for r in mine]
        counts = {n: names.count(n) for n in sorted(set(names)) if n}
        seconds = statistics.median(r["seconds"] for r in mine)
        listed = "; ".join(f"{n}: {c}" for n, c in counts.items()) or "–"
        lrs = " / ".join(str(rate(chosen, arm, b)) for b in BUDGETS)
        out.append(f"| {arm} | {lrs} | {seconds:.0f} | {listed} |")
    return [*out, ""]


def spread(values: Sequence[float]) -> str:
    mean = 100 * statistics.mean(values)
    return (
        f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("dense", "rates", "run", "table"))
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, CONTROL), default=ARMS)
    parser.add_argument("--budgets", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--finetune", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--code", help="the commit: measured anew, beside the cells that are there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dense", type=Path, default=Path("runs/fashion-mnist"))
    parser.add_argument("--results", type=Path, default=RESULTS / "fashion_mnist.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.dense)
    rows = read(args.results)
    if args.verb == "dense":
        done = {r["seed"] for r in rows if r["kind"] == "dense"}
        for seed in (s for s in args.seeds if s not in done or not bench.path(s).exists()):
            append(args.results, {"kind": "dense", **bench.train_dense(seed)})
    elif args.verb == "rates":
        tried = {(r["arm"], r.get("budget", RATE_AT), r["lr"]) for r in rows if r["kind"] == "rate"}
        for budget in args.budgets or [RATE_AT]:
            for arm in args.arms:
                for lr in candidates(budget):
                    if (arm, budget, lr) not in tried:
                        append(args.results, rate_row(arm, budget, lr, bench))
    elif args.verb == "run":
        chosen = rates(rows)
        budgets = args.budgets or BUDGETS
        without = {a for a in args.arms for b in budgets if rate(chosen, a, b) is None}
        if args.finetune and without:
            parser.error(f"run `rates` first for {', '.join(sorted(without))}")
        kind = "later" if args.code else "cell"
        have = {
            (r["arm"], r["budget"], r["seed"])
            for r in rows
            if r["kind"] == kind
            and r.get("code") == args.code
            and (not args.finetune or r.get("lr") == rate(chosen, r["arm"], r["budget"]))
        }
        for seed in args.seeds:
            for budget in budgets:
                for arm in args.arms:
                    if (arm, budget, seed) not in have:
                        lr = rate(chosen, arm, budget)
                        row = cell(arm, budget, seed, bench, finetuning=args.finetune, lr=lr)
                        told = {"kind": kind, "code": args.code} if args.code else {}
                        append(args.results, row | told)
    else:
        text = table(rows)
        args.results.with_suffix(".md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
