"""ResNet-20 on Fashion-MNIST, physically smaller: penalties on groups beside forward selection, at equal epochs.

    python benchmarks/shrinkage_groups.py tune --dense FOLDER [--arms group-lasso ...]   strengths, on validation images
    python benchmarks/shrinkage_groups.py run  --dense FOLDER [--budgets 0.5 0.3] [--seeds 0 1 2]
    python benchmarks/shrinkage_groups.py page > shrinkage_groups.md

All arms begin with the same trained network of their seed (see fashion_setup.py) and have the same epochs after it:
`--penalty` of them under the penalty, then the cut, then `--after` without it. Forward selection (refit), magnitude and
the dense network itself, which need no penalty, train on for all of them after their cut. Four settings are tried
per penalty, with seed 0, at the first budget, chosen by the validation images after all epochs; the learning rate is
the same for all, but ten times for group-grda, which has no momentum that would count a lasting gradient ten times.
gates and l0 decide themselves what stays: for each budget the best setting that ends within it, or else the one that
ends with the fewest multiply-adds, which the table then shows to be more than the budget. Latency is measured of the
smaller networks in turn with the dense one, one image and 32 at a time, on the threads given.
Each line of the results is one trial: test accuracy right after the cut (batch norms re-estimated) and at the end.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median

import torch
from fashion_setup import EXAMPLE, Bench, fresh, macs_of, params_of
from shrinkage import cell, complete, done, read, together

import sprig
from sprig.core.timerun import compare
from sprig.core.timing import Timing
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.gates import Gates
from sprig.methods.penalties.grda import GroupGrda
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.l0 import L0
from sprig.methods.penalties.run import Cut, settings_of, train_and_cut
from sprig.training import TrainConfig, accuracy, finetune

LR = 0.02
GROW = {"every": 1, "ceiling": 1.0, "hold": 100}
PENALTIES = {
    "group-lasso": [GroupLasso(strength=s) for s in (1e-4, 3e-4, 1e-3, 3e-3)],
    "sparse-group-lasso": [SparseGroupLasso(strength=s) for s in (1e-4, 3e-4, 1e-3, 3e-3)],
    "group-halo": [GroupHalo(xi=s, psi=s) for s in (3e-5, 1e-4, 3e-4, 1e-3)],
    "bn-slimming": [BnSlimming(strength=s) for s in (1e-4, 1e-3, 3e-3, 1e-2)],
    "increg": [IncReg(step=s, ceiling=200 * s) for s in (2.5e-4, 1e-3, 5e-3, 1e-2)],
    "greg1": [GReg1(step=s, **GROW) for s in (5e-4, 1e-3, 2e-3, 4e-3)],
    "greg2": [
        GReg2(step=s, probe=s / 10, probe_ceiling=1e-2, **GROW) for s in (1e-3, 2e-3, 4e-3, 8e-3)
    ],
    "gates": [Gates(strength=s) for s in (0.04, 0.05, 0.06, 0.08)],
    "l0": [L0(strength=s, drop=0.1, rate=100.0) for s in (1e-2, 2e-2, 3e-2, 5e-2)],
    "group-grda": [GroupGrda(c=c) for c in (5e-3, 1e-2, 2e-2, 4e-2)],
}
PLAIN = ("dense", "refit", "magnitude")
OWN = ("gates", "l0")  # these take no budget
ALIKE = ("penalty", "after", "images", "bf16")  # of trials that can stand in one table


def settled(settings, budget):
    """Settings of a method that removes a share of every group: MACs fall with the square of what stays."""
    return replace(settings, keep=budget**0.5) if hasattr(settings, "keep") else settings


def training(bench, given, seed):
    """The training images, or as many of them as asked for."""
    data = replace(bench.training, seed=seed)
    if not given.images:
        return data
    return replace(data, images=data.images[: given.images], labels=data.labels[: given.images])


def folder_of(settings, key, given):
    """Where the training under a penalty is kept: one that no budget changes is cut at every budget."""
    known = sha256(repr((settings, sorted(key.items()))).encode()).hexdigest()[:16]
    return given.kept / known


def one(bench, arm, settings, seed, budget, given, judge, key):
    """One trial."""
    dense = fresh(bench.dense(seed))
    data = training(bench, given, seed)
    config = TrainConfig(
        epochs=given.penalty, lr=LR, warmup=0.0, seed=seed, bf16=given.bf16, channels_last=given.bf16
    )  # fmt: skip
    after, begin = given.after, time.process_time()
    row = {}
    if arm in PLAIN:
        after = given.penalty + given.after
        if arm == "dense":
            small = dense
        else:
            small = sprig.prune(
                dense, (EXAMPLE,), [x for x, _ in bench.calibration], Budget(macs=budget), method=arm
            ).model  # fmt: skip
    else:
        own = settled(settings, budget)
        found = train_and_cut(
            dense, data, method=arm, settings=own, folder=folder_of(own, key, given), resume=True,
            config=replace(config, lr=10 * LR) if arm == "group-grda" else config,
            graph=trace(dense, (EXAMPLE,)), example=(EXAMPLE,),
            cut=Cut() if arm in OWN else Cut(budget=Budget(macs=budget)),
        )  # fmt: skip
        row["trained"] = accuracy(found.trained, judge)
        row["notes"] = list(found.notes)
        small = found.model
    row["cut"] = accuracy(small, judge)
    if after:
        tuning = replace(config, epochs=after, seed=seed + 1)
        small = finetune(small, data, config=tuning).model
    row |= {
        "end": accuracy(small, judge),
        "macs": macs_of(small),
        "share": macs_of(small) / macs_of(bench.dense(seed)),
        "params": params_of(small),
        "seconds": round(time.process_time() - begin, 1),
    }
    if given.latency:
        for batch in (1, 32):
            timing = Timing(batch=batch, threads=given.threads)
            whole = fresh(bench.dense(seed)).eval()
            row[f"ms_{batch}"] = compare(whole, small.eval(), (EXAMPLE,), timing)
        row["threads"] = given.threads
    return row


def best(rows, arm, budget, alike):
    """Number of the setting with the best validation accuracy at the end, of trials as long as these."""
    wanted = {"kind": "tune", "arm": arm, **alike}
    mine = [r for r in rows if wanted.items() <= r.items()]
    full = complete(mine, len(PENALTIES[arm]), ("judges", "budget"))
    if not full:
        raise SystemExit(f"{arm}: {len(mine)} of {len(PENALTIES[arm])} trials; tune first")
    if arm in OWN:
        within = [r for r in full if r["share"] <= budget]
        full = within or [min(full, key=lambda r: r["share"])]
    return max(full, key=lambda r: r["end"])["number"]


def heading(row):
    """What all rows of a table have in common."""
    text = f"## {100 * row['budget']:g}% of the multiply-adds"
    if "penalty" in row:
        text += f", {row['penalty']} and {row['after']} epochs of {row['images']:,} images"
        text += f", judged on {row['judges']:,}" + ("" if row["bf16"] else ", float32")
    return text


def timed(found):
    """Milliseconds, and the share of the dense network's in the same run: medians over the networks measured.

    >>> timed([{"small_ms": 2.5, "ratio": 0.5}])
    '2.50 (0.50)'
    """
    if not found:
        return "–"
    return "{:.2f} ({:.2f})".format(*(median(r[k] for r in found) for k in ("small_ms", "ratio")))


def page(rows):
    """One table per budget, and per length of the training; a line for every setting."""
    found = [r for r in rows if r["kind"] == "run"]
    lines = []
    order = {arm: place for place, arm in enumerate((*PLAIN, *PENALTIES))}
    tables = {}
    for row in found:
        key = (-row["budget"], *(row.get(k, 0) for k in (*ALIKE, "judges")))
        tables.setdefault(key, []).append(row)
    for key in sorted(tables):
        lines += [
            heading(tables[key][0]),
            "",
            "| arm | setting | seeds | trained | after the cut | at the end | MACs | parameters "
            "| ms, 1 image (of dense) | ms, 32 (of dense) |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        ranked = [{**r, "place": order[r["arm"]]} for r in tables[key]]
        for mine in together(ranked, ("place", "number")):
            shown = mine[0]["settings"]
            setting = ", ".join(
                f"{k} {shown[k]:g}" for k in ("strength", "xi", "step", "c") if k in shown
            )
            cells = [cell([r.get(k) for r in mine]) for k in ("trained", "cut", "end")]
            spans = [timed([r[f"ms_{b}"] for r in mine if f"ms_{b}" in r]) for b in (1, 32)]
            macs = sum(r["macs"] for r in mine) / len(mine)
            params = sum(r["params"] for r in mine) / len(mine)
            lines.append(
                f"| {mine[0]['arm']} | {setting or '–'} | {len(mine)} | " + " | ".join(cells)
                + f" | {macs / 1e6:.2f} M | {params / 1e3:.0f} k | " + " | ".join(spans) + " |"
            )  # fmt: skip
        lines.append("")
    return "\n".join(lines).rstrip()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["tune", "run", "page"])
    parser.add_argument("--dense", type=Path, default=Path("dense"), help="trained networks")
    parser.add_argument("--arms", nargs="*", default=[*PLAIN, *PENALTIES])
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--penalty", type=int, default=4, help="epochs under the penalty")
    parser.add_argument("--after", type=int, default=2, help="epochs after the cut")
    parser.add_argument("--images", type=int, default=None, help="training images; all by default")
    parser.add_argument(
        "--judges", type=int, default=None, help="batches judged on; all by default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-latency", dest="latency", action="store_false")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--results", type=Path, default=Path("shrinkage_groups.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        given.kept = Path(folder)
        work(given)


def work(given):
    """What was asked for."""
    rows = read(given.results)
    if given.what == "page":
        print(page(rows))
        return
    bench, tuning = Bench(given.dense), given.what == "tune"
    judge = (bench.validation if tuning else bench.test)[: given.judges]
    given.latency = given.latency and not tuning
    alike = {
        "penalty": given.penalty, "after": given.after,
        "images": len(training(bench, given, 0).images), "bf16": given.bf16,
    }  # fmt: skip
    for arm in given.arms:
        if tuning and arm in PLAIN:
            continue
        every = [None] if arm in PLAIN else PENALTIES[arm]
        for budget in given.budgets[:1] if tuning else given.budgets:
            numbers = range(len(every))
            if not tuning and arm not in PLAIN:
                numbers = [best(rows, arm, budget, alike)]
            for number in numbers:
                for seed in [0] if tuning else given.seeds:
                    key = {
                        "kind": given.what, "arm": arm, "number": number, "seed": seed, **alike,
                        "judges": sum(len(y) for _, y in judge),
                    }  # fmt: skip
                    if done(rows, {**key, "budget": budget}):
                        continue
                    settings = every[number]
                    told = {} if settings is None else settings_of(settled(settings, budget))
                    if arm in OWN and done(rows, key):  # trained already: no budget changes it
                        found = next(r for r in rows if key.items() <= r.items())
                    else:
                        found = one(bench, arm, settings, seed, budget, given, judge, key)
                    row = {**found, **key, "budget": budget, "settings": told}
                    rows.append(row)
                    with given.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(
                        arm, budget, number, seed, row["cut"], row["end"], row["share"], flush=True
                    )


if __name__ == "__main__":
    main()
