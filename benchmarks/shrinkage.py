"""Trained under a penalty, cut at the end, never retrained; beside the magnitudes, with and without retraining.

    python benchmarks/shrinkage.py tune --net lenet300100 [--epochs 12] [--arms halo l1 ...]   on a validation split
    python benchmarks/shrinkage.py run  --net lenet300100 [--epochs 12] [--seeds 0 1 2]        the chosen settings
    python benchmarks/shrinkage.py page > shrinkage.md                                          the tables

Networks: lenet300100, resnet20, vgg16bn (16 channels wide in its first stage), on Fashion-MNIST. Every arm gets the
same number of trials (six for LeNet, four for the others; plain magnitude has nothing to choose) and the same epochs
in all. The validation split is
10,000 of the 60,000 training images, drawn with a fixed seed; the test images are looked at by `run` alone, which
trains on all training images. Chosen is what has the best accuracy at 95% sparse on the validation split, among trials
of the same number of images; where there are several such sets, the one of the most images. As in the library,
statistics of batch norms are taken anew after a cut that is not trained on.
`--tuned-at`: take the settings that were chosen at another number of epochs. Each line of the results is one trial.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from shrinkage_arms import NETS, SPARSITIES, arms, one

from sprig.core.batches import ImageSpec
from sprig.data import load

AIM = "0.95"
VALIDATION = 10_000  # as many as there are test images
FULL = 60_000


def tensors(split):
    """Images and labels of a part of the data."""
    image = ImageSpec(size=(28, 28), mean=(0.286,), std=(0.353,))
    part = "test" if split == "test" else "calibration"  # the training images as they are
    pairs = list(load("fashion-mnist", split=part, batch_size=1000, image=image, seed=0))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def complete(rows, trials, by):
    """The trials of one arm that are alike in `by`, all numbers of them; the set of the largest values."""
    sets = {}
    for row in rows:
        sets.setdefault(tuple(row.get(k, 0) for k in by), {})[row["number"]] = row
    full = [s for s in sets if len(sets[s]) >= trials]
    return list(sets[max(full)].values()) if full else []


def best(rows, net, arm, epochs, bf16=False):
    """Number of the setting with the best validation accuracy at 95%."""
    wanted = {
        "kind": "tune", "net": net, "arm": arm, "epochs": epochs, "renewed": True, "bf16": bf16,
    }  # fmt: skip
    mine = [r for r in rows if wanted.items() <= {"bf16": False, **r}.items()]
    trials = len(arms(NETS[net])[arm])
    alike = complete(mine, trials, ("images", "judges"))
    if not alike:
        raise SystemExit(f"{arm}: {len(mine)} of {trials} trials at {epochs} epochs; tune first")
    return max(alike, key=lambda r: r[AIM])["number"]


def read(path):
    """All rows, with what the oldest do not say: all 10,000 images judged, and no batch norm in LeNet."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        if row.get("net") in NETS:
            row.setdefault("judges", VALIDATION)
            row.setdefault("bf16", False)
            row.setdefault("renewed", row["net"] == "lenet300100")
    return rows


def key_of(what, net, arm, number, seed, epochs, images, judges, bf16=False):
    """What tells one trial from every other."""
    return {
        "kind": what, "net": net, "arm": arm, "number": number, "seed": seed,
        "epochs": epochs, "images": images, "judges": judges, "renewed": True, "bf16": bf16,
    }  # fmt: skip


def done(rows, key):
    """Whether the results have this trial."""
    return any(key.items() <= row.items() for row in rows)


def cell(values):
    """Mean and range, in percent."""
    seen = [100 * v for v in values if v is not None]
    if not seen:
        return "–"
    return f"{sum(seen) / len(seen):.1f} ({min(seen):.1f} to {max(seen):.1f})"


def together(rows, by):
    """Rows that differ in their seed alone, each seed once, in the order of what they are alike in."""
    sets = {}
    for row in rows:
        sets.setdefault(tuple(row.get(k, 0) for k in by), {})[row["seed"]] = row
    return [list(sets[key].values()) for key in sorted(sets)]


def length(row):
    """Epochs of a trial, and of how many images where it was not all of them."""
    text = str(row["epochs"])
    if row.get("images", FULL) != FULL:
        text += f" of {row['images']:,} images"
    if row.get("bf16"):
        text += ", bfloat16"
    if row.get("judges", VALIDATION) != VALIDATION:
        text += f", judged on {row['judges']:,}"
    return text


def page(rows):
    """The tables of what `run` measured, mean and range over seeds; a line for every setting and length."""
    heads = ["uncut", *map(str, SPARSITIES)]
    lines = []
    for net in NETS:
        found = [r for r in rows if r["kind"] == "run" and r["net"] == net]
        found = [r for r in found if r.get("renewed", True)]
        if not found:
            continue
        titles = ["not cut", *(f"{100 * s:g}% zeros" for s in SPARSITIES)]
        lines += [
            f"## {net}",
            "",
            "| arm | setting | epochs | seeds | " + " | ".join(titles) + " |",
            "|---" * (4 + len(heads)) + "|",
        ]
        for arm in arms(NETS[net]):
            every = [r for r in found if r["arm"] == arm]
            for mine in together(every, ("epochs", "images", "judges", "bf16", "number")):
                shown = {
                    k: v
                    for k, v in mine[0]["settings"].items()
                    if k in ("strength", "xi", "decay", "tuned", "gradual") and v
                }
                setting = ", ".join(f"{k} {v:g}" for k, v in shown.items()) or "none"
                cells = [cell([r.get(head) for r in mine]) for head in heads]
                lines.append(
                    f"| {arm} | {setting} | {length(mine[0])} | {len(mine)} | "
                    + " | ".join(cells)
                    + " |"
                )
        lines.append("")
    return "\n".join(lines).rstrip()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["tune", "run", "page"])
    parser.add_argument("--net", choices=list(NETS), default="lenet300100")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--tuned-at", type=int, default=None, help="epochs of the tuning")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=None)
    parser.add_argument(
        "--zeros", type=float, nargs="*", default=SPARSITIES, help="shares of zeros"
    )
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--images", type=int, default=None, help="training images; all by default")
    parser.add_argument("--judges", type=int, default=None, help="images judged on; all by default")
    parser.add_argument("--results", type=Path, default=Path("shrinkage.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(given.results)
    if given.what == "page":
        print(page(rows))
        return
    net, tuning = NETS[given.net], given.what == "tune"
    x, y = tensors("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[:VALIDATION], order[VALIDATION:]
    fit = (x[rest], y[rest]) if tuning else (x[order], y[order])
    fit = tuple(part[: given.images] for part in fit)
    judge = (x[held], y[held]) if tuning else tensors("test")
    judge = tuple(part[: given.judges] for part in judge)
    every = arms(net)
    for arm in given.arms or every:
        at = given.tuned_at or given.epochs
        plain = len(every[arm]) == 1
        chosen = [0] if plain or tuning else [best(rows, given.net, arm, at, given.bf16)]
        for number in range(len(every[arm])) if tuning else chosen:
            for seed in [0] if tuning else given.seeds:
                sizes = len(fit[0]), len(judge[0])
                key = key_of(
                    given.what, given.net, arm, number, seed, given.epochs, *sizes, given.bf16
                )
                if done(rows, key):
                    continue
                begin = time.process_time()
                trial = every[arm][number]
                row = {
                    **key,
                    "settings": trial.told(),
                    **one(
                        net,
                        trial,
                        seed,
                        fit,
                        judge,
                        given.epochs,
                        zeros=given.zeros,
                        bf16=given.bf16,
                    ),
                }
                row["seconds"] = round(time.process_time() - begin, 1)
                with given.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                shown = {k: row[k] for k in ("uncut", *map(str, given.zeros))}
                print(arm, number, seed, shown, flush=True)


if __name__ == "__main__":
    main()
