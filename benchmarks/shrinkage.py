"""LeNet-300-100 on Fashion-MNIST, trained under a penalty, cut at the end, never retrained.

    python benchmarks/shrinkage.py tune [--epochs 12] [--arms halo l1 ...]   a grid, on a validation split
    python benchmarks/shrinkage.py run  [--epochs 12] [--seeds 0 1 2]        the chosen settings, on all training images
    python benchmarks/shrinkage.py page                                       the table, from the results

Every arm gets the same number of trials (6). The validation split is 10,000 of the 60,000 training images, drawn with a
fixed seed; the test images are looked at by `run` alone. Chosen is what has the best accuracy at 95% sparse on the
validation split. Each line of the results is one training: accuracy before the cut and at several sparsities.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from sprig.core.batches import ImageSpec
from sprig.data import load
from sprig.methods.penalties.cut import apply_masks, keep_largest
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.hook import Shrinking
from sprig.methods.penalties.l1 import L1
from sprig.methods.penalties.run import settings_of
from sprig.methods.penalties.scope import penalised
from sprig.models.lenet import LeNet300100
from sprig.training import TrainConfig, train

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
AIM = "0.95"
VALIDATION = 10_000
LR, BATCH = 0.05, 100
STRENGTHS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
ARMS = {
    "magnitude": [None],
    "magnitude, weight decay": [("decay", d) for d in (1e-5, 5e-5, 1e-4, 3e-4, 5e-4, 1e-3)],
    "l1": [L1(strength=s) for s in STRENGTHS],
    "halo": [Halo(xi=s, psi=s) for s in STRENGTHS],
    "halo closed": [Halo(xi=s, psi=s, mode="closed") for s in STRENGTHS],
    "halo proximal": [Halo(xi=s, psi=s, mode="proximal") for s in STRENGTHS],
}


class Images:
    """All images in memory, already normalised; a new order every epoch."""

    def __init__(self, x, y, *, batch=BATCH, seed=0):
        self.x, self.y, self.batch, self.seed = x, y, batch, seed

    def __len__(self):
        return len(self.x) // self.batch

    def __iter__(self):
        yield from zip(self.x.split(1000), self.y.split(1000))

    def epoch(self, number):
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        order = torch.randperm(len(self.x), generator=generator)
        for i in range(len(self)):
            mine = order[i * self.batch : (i + 1) * self.batch]
            yield self.x[mine], self.y[mine]


def tensors(split):
    """Images and labels of a part of the data."""
    image = ImageSpec(size=(28, 28), mean=(0.286,), std=(0.353,))
    part = "test" if split == "test" else "calibration"  # the training images as they are
    pairs = list(load("fashion-mnist", split=part, batch_size=1000, image=image, seed=0))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def share_right(model, x, y):
    """Accuracy."""
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).double().mean())


def one(settings, seed, fit, judge, epochs):
    """One training and its cuts."""
    torch.manual_seed(seed)
    model = LeNet300100()
    penalty = None if settings is None or isinstance(settings, tuple) else settings
    decay = settings[1] if isinstance(settings, tuple) else 0.0
    config = TrainConfig(epochs=epochs, lr=LR, weight_decay=decay, warmup=0.0, seed=seed)
    hook = None if penalty is None else Shrinking(penalty)
    start = time.process_time()
    record = train(model, Images(*fit, seed=seed), config=config, hooks=[hook] if hook else [])
    took = time.process_time() - start
    row = {"seconds": round(took, 1), "uncut": share_right(record.model, *judge)}
    trained = {n: p.detach().clone() for n, p in penalised(record.model).items()}
    for sparsity in SPARSITIES:
        apply_masks(record.model, keep_largest(trained, 1 - sparsity))
        row[str(sparsity)] = share_right(record.model, *judge)
        with torch.no_grad():
            for name, p in penalised(record.model).items():
                p.copy_(trained[name])
    if penalty is not None:
        row |= {
            k: v for k, v in record.last.items() if k in ("zeros", "tiny", "coefficient_median")
        }
    return row


def told(settings):
    """Settings for the results."""
    if settings is None:
        return {}
    return {"weight_decay": settings[1]} if isinstance(settings, tuple) else settings_of(settings)


def best(rows, arm, epochs):
    """Number of the setting with the best validation accuracy at 95%."""
    mine = [r for r in rows if (r["kind"], r["arm"], r["epochs"]) == ("tune", arm, epochs)]
    if len(mine) < len(ARMS[arm]):
        raise SystemExit(
            f"{arm}: {len(mine)} of {len(ARMS[arm])} trials at {epochs} epochs; tune first"
        )
    return max(mine, key=lambda r: r[AIM])["number"]


def read(path):
    """All rows."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(rows):
    """The table of what `run` measured, mean and range over seeds."""
    found = [r for r in rows if r["kind"] == "run"]
    heads = ["uncut", *map(str, SPARSITIES)]
    lines = [
        "| arm | setting | epochs | seeds | " + " | ".join(heads) + " |",
        "|---" * (4 + len(heads)) + "|",
    ]
    for arm in ARMS:
        mine = [r for r in found if r["arm"] == arm]
        if not mine:
            continue
        cells = []
        for head in heads:
            values = [100 * r[head] for r in mine]
            cells.append(
                f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            )
        shown = {
            k: v for k, v in mine[0]["settings"].items() if k in ("strength", "xi", "weight_decay")
        }
        setting = ", ".join(f"{k} {v:g}" for k, v in shown.items()) or "none"
        lines.append(
            f"| {arm} | {setting} | {mine[0]['epochs']} | {len(mine)} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["tune", "run", "page"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=Path("shrinkage.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(given.results)
    if given.what == "page":
        print(page(rows))
        return
    x, y = tensors("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[:VALIDATION], order[VALIDATION:]
    tuning = given.what == "tune"
    fit = (x[rest], y[rest]) if tuning else (x, y)
    judge = (x[held], y[held]) if tuning else tensors("test")
    for arm in given.arms:
        numbers = range(len(ARMS[arm])) if tuning else [best(rows, arm, given.epochs)]
        for number in numbers:
            for seed in [0] if tuning else given.seeds:
                key = {
                    "kind": given.what,
                    "arm": arm,
                    "number": number,
                    "seed": seed,
                    "epochs": given.epochs,
                }
                if any(key.items() <= r.items() for r in rows):
                    continue
                settings = ARMS[arm][number]
                row = {
                    **key,
                    "settings": told(settings),
                    **one(settings, seed, fit, judge, given.epochs),
                }
                with given.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    arm,
                    number,
                    seed,
                    {k: round(row[k], 4) for k in ("uncut", *map(str, SPARSITIES))},
                    flush=True,
                )


if __name__ == "__main__":
    main()
