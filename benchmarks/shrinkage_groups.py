"""ResNet-20 on Fashion-MNIST, physically smaller: penalties on groups beside forward selection, at equal epochs.

    python benchmarks/shrinkage_groups.py tune --dense FOLDER [--arms group-lasso ...]   strengths, on validation images
    python benchmarks/shrinkage_groups.py run  --dense FOLDER [--budgets 0.5 0.3] [--seeds 0 1 2]
    python benchmarks/shrinkage_groups.py page > shrinkage_groups.md

All arms begin with the same trained network of their seed (see fashion_setup.py) and have the same epochs after it:
`--penalty` of them under the penalty, then the cut, then `--after` without it. Forward selection (refit), magnitude and
the dense network itself, which need no penalty, train on for all of them after their cut. Three settings are tried
per penalty, with seed 0, at the first budget, chosen by the validation images after all epochs; the learning rate is
the same for all. Latency is measured of the smaller networks, one image and 32 at a time, on the threads given.
Each line of the results is one trial: test accuracy right after the cut (batch norms re-estimated) and at the end.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from fashion_setup import EXAMPLE, Bench, fresh, macs_of, params_of
from shrinkage import cell, read

import sprig
from sprig.core.latency import latency
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.methods.penalties.bn_slimming import BnSlimming
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.run import Cut, settings_of, train_and_cut
from sprig.training import TrainConfig, accuracy, finetune

LR = 0.02
GROW = {"every": 1, "ceiling": 1.0, "hold": 100}
PENALTIES = {
    "group-lasso": [GroupLasso(strength=s) for s in (1e-4, 3e-4, 1e-3)],
    "sparse-group-lasso": [SparseGroupLasso(strength=s) for s in (1e-4, 3e-4, 1e-3)],
    "group-halo": [GroupHalo(xi=s, psi=s) for s in (3e-5, 1e-4, 3e-4)],
    "bn-slimming": [BnSlimming(strength=s) for s in (1e-4, 1e-3, 3e-3)],
    "increg": [IncReg(step=s, ceiling=c) for s, c in ((2.5e-4, 0.05), (1e-3, 0.2), (5e-3, 1.0))],
    "greg1": [GReg1(step=s, **GROW) for s in (5e-4, 1e-3, 2e-3)],
    "greg2": [GReg2(step=s, probe=s / 10, probe_ceiling=1e-2, **GROW) for s in (1e-3, 2e-3, 4e-3)],
}
PLAIN = ("dense", "refit", "magnitude")


def settled(settings, budget):
    """Settings of a method that removes a share of every group: MACs fall with the square of what stays."""
    return replace(settings, keep=budget**0.5) if hasattr(settings, "keep") else settings


def one(bench, arm, settings, seed, budget, given, judge):
    """One trial."""
    dense = fresh(bench.dense(seed))
    data = replace(bench.training, seed=seed)
    if given.images:
        data = replace(data, images=data.images[: given.images], labels=data.labels[: given.images])
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
        found = train_and_cut(
            dense, data, method=arm, settings=settled(settings, budget), config=config,
            graph=trace(dense, (EXAMPLE,)), example=(EXAMPLE,), cut=Cut(budget=Budget(macs=budget)),
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
        "params": params_of(small),
        "seconds": round(time.process_time() - begin, 1),
    }
    if given.latency:
        torch.set_num_threads(given.threads)
        for batch in (1, 32):
            row[f"ms_{batch}"] = dict(latency(small.eval(), (EXAMPLE,), batch=batch))
        row["threads"] = given.threads
    return row


def best(rows, arm):
    """Number of the setting with the best validation accuracy at the end."""
    mine = [r for r in rows if (r["kind"], r["arm"]) == ("tune", arm)]
    if len(mine) < len(PENALTIES[arm]):
        raise SystemExit(f"{arm}: {len(mine)} of {len(PENALTIES[arm])} trials; tune first")
    return max(mine, key=lambda r: r["end"])["number"]


def page(rows):
    """One table per budget."""
    found = [r for r in rows if r["kind"] == "run"]
    lines = []
    for budget in sorted({r["budget"] for r in found}, reverse=True):
        lines += [
            f"## {100 * budget:g}% of the multiply-adds",
            "",
            "| arm | setting | seeds | trained | after the cut | at the end | MACs | parameters | ms, 1 | ms, 32 |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for arm in (*PLAIN, *PENALTIES):
            mine = [r for r in found if r["arm"] == arm and r["budget"] == budget]
            if not mine:
                continue
            shown = mine[0]["settings"]
            setting = ", ".join(
                f"{k} {shown[k]:g}" for k in ("strength", "xi", "step") if k in shown
            )
            cells = [cell([r.get(k) for r in mine]) for k in ("trained", "cut", "end")]
            times = [
                sorted(r[f"ms_{b}"]["median"] for r in mine if f"ms_{b}" in r) for b in (1, 32)
            ]
            spans = [f"{t[len(t) // 2]:.2f}" if t else "–" for t in times]
            macs = sum(r["macs"] for r in mine) / len(mine)
            params = sum(r["params"] for r in mine) / len(mine)
            lines.append(
                f"| {arm} | {setting or '–'} | {len(mine)} | " + " | ".join(cells)
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
    rows = read(given.results)
    if given.what == "page":
        print(page(rows))
        return
    bench, tuning = Bench(given.dense), given.what == "tune"
    judge = (bench.validation if tuning else bench.test)[: given.judges]
    given.latency = given.latency and not tuning
    for arm in given.arms:
        if tuning and arm in PLAIN:
            continue
        every = [None] if arm in PLAIN else PENALTIES[arm]
        numbers = range(len(every)) if tuning or arm in PLAIN else [best(rows, arm)]
        for budget in given.budgets[:1] if tuning else given.budgets:
            for number in numbers:
                for seed in [0] if tuning else given.seeds:
                    key = {
                        "kind": given.what, "arm": arm, "budget": budget, "number": number, "seed": seed,
                        "penalty": given.penalty, "after": given.after,
                    }  # fmt: skip
                    if any(key.items() <= r.items() for r in rows):
                        continue
                    settings = every[number]
                    told = {} if settings is None else settings_of(settled(settings, budget))
                    found = one(bench, arm, settings, seed, budget, given, judge)
                    row = {**key, "settings": told, **found}
                    with given.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(arm, budget, number, seed, row["cut"], row["end"], flush=True)


if __name__ == "__main__":
    main()
