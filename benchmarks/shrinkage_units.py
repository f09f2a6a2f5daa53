"""What the removal of 80% of the hidden units of LeNet-300-100 costs on Fashion-MNIST, before any retraining.

    python benchmarks/shrinkage_units.py run [--epochs 8] [--phase 6] [--rate 0.03] [--seeds 0 1 2] [--validate]
    python benchmarks/shrinkage_units.py page > shrinkage_units.md

One dense training per seed; from it, one-shot removal by L1 size, and the methods that grow an L2 factor until the
units are no more, over some epochs at a rate that falls in a line to zero. All keep 60 of 300 and 20 of 100 units and
end in a physically smaller network. How far factors grow (increg), and how long they are held before removal (greg1,
greg2: published are tens of thousands of steps), is set by the length of the phase, so that the last unit leaves
shortly before its end. Accuracy is taken of the dense network, at the very step at which the last unit leaves, at the
end of the phase, and of the smaller network. With --validate, 10,000 of the training images are held out and judged
on instead of the test images.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from shrinkage import VALIDATION, read, tensors
from shrinkage_arms import Images, share_right

from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.methods.penalties.cut import keep_units
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.hook import Shrinking
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.units import units_of
from sprig.models.lenet import LeNet300100
from sprig.training import Moment, Run, TrainConfig, train

KEEP = 0.2
RISE = 1000  # steps over which the factors of greg grow to their ceiling
SPARE = 50  # steps between removal and the end of the phase


def settings_for(arm, steps):
    """Settings under which the last unit leaves shortly before the end of so many steps."""
    grow = {"keep": KEEP, "step": 1 / RISE, "every": 1, "ceiling": 1.0}
    if arm == "increg":
        return IncReg(keep=KEEP, step=2.5e-4, ceiling=2.5e-4 * steps / 8)
    if arm == "greg1":
        return GReg1(**grow, hold=steps - RISE - SPARE)
    return GReg2(**grow, probe=1e-4, probe_ceiling=1e-2, hold=steps - RISE - 100 - SPARE)


ARMS = ("increg", "greg1", "greg2")
COLUMNS = ("dense", "left", "end", "removed")


@dataclass(eq=False)
class Leaving:
    """A hook: accuracy at the step at which the penalty has removed all that it was to remove."""

    shrinking: Shrinking
    test: Any
    found: float | None = None
    step: int | None = None

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is not Moment.STEP_CLOSES or self.found is not None:
            return
        shrinker: Any = self.shrinking.shrinker
        if shrinker.penalty.finished(shrinker.state):
            training = run.model.training
            self.found, self.step = share_right(run.model, *self.test), run.step
            run.model.train(training)


def arms_of(seed, given, fit, test):
    """One row per arm."""
    torch.manual_seed(seed)
    graph = trace(LeNet300100().eval(), (fit[0][:2],))
    data = Images(*fit, 100, seed=seed)
    config = TrainConfig(epochs=given.epochs, lr=0.05, warmup=0.0, seed=seed)
    dense = train(LeNet300100(), data, config=config).model
    accuracy = share_right(dense, *test)
    units = units_of(graph, dense, set(dict(dense.named_parameters())))

    def cut(model):
        parameters = dict(model.named_parameters())
        size = units.sums([parameters[n].detach() for n in units.names], torch.abs)
        plan = keep_units(units, size, keep=KEEP, per_layer=True)
        small = shrink(model, plan, graph)
        return {"removed": share_right(small, *test), "macs": plan.cost["macs"], "fc1": len(plan.keep["fc1"]),
                "fc2": len(plan.keep["fc2"])}  # fmt: skip

    yield {"arm": "one-shot L1", "dense": accuracy, "end": accuracy, **cut(dense)}
    slow = replace(config, epochs=given.phase, lr=given.rate, schedule="linear")
    for name in given.arms:
        begin = time.process_time()
        shrinking = Shrinking(settings_for(name, given.phase * len(data)), graph=graph)
        leaving = Leaving(shrinking, test)
        record = train(copy.deepcopy(dense), data, config=slow, hooks=[shrinking, leaving])
        took = round(time.process_time() - begin, 1)
        end = share_right(record.model, *test)
        yield {"arm": name, "phase": given.phase, "lr": given.rate, "dense": accuracy, "left": leaving.found,
               "step": leaving.step, "end": end, "seconds": took, **cut(record.model)}  # fmt: skip


def cost(row):
    """Points lost against the dense network when the last unit leaves; one-shot: when all leave."""
    now = row["removed"] if row.get("left") is None else row["left"]
    return 100 * (row["dense"] - now)


def page(rows):
    """Every row, then means; one-shot removal, which every arm's run begins with, once per seed."""
    once = {(r["seed"], r["arm"]): r for r in rows if r["kind"] == "run"}
    rows = [once[key] for key in sorted(once)]
    lines = [
        "| seed | arm | epochs, rate | dense | when the last unit had left | after the phase | smaller network | "
        "cost, points | units left | MACs left |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        phase = f"{r['phase']}, {r['lr']:g}" if "phase" in r else "–"
        cells = ["–" if r.get(c) is None else f"{100 * r[c]:.2f}" for c in COLUMNS]
        lost = cost(r)
        left, macs = f"{r['fc1']} + {r['fc2']}", r["macs"] / 266_200
        lines.append(
            f"| {r['seed']} | {r['arm']} | {phase} | " + " | ".join(cells) + f" | {lost:.2f} | {left} | {macs:.1%} |"
        )  # fmt: skip
    for arm in dict.fromkeys(r["arm"] for r in rows):
        mine = [cost(r) for r in rows if r["arm"] == arm]
        lines.append(
            f"| mean of {len(mine)} | {arm} | | | | | | "
            f"{sum(mine) / len(mine):.2f} ({min(mine):.2f} to {max(mine):.2f}) | | |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--phase", type=int, default=6, help="epochs under the factors")
    parser.add_argument("--rate", type=float, default=0.03, help="learning rate at their start")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=Path("shrinkage_units.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(given.results)
    if given.what == "page":
        print(page(rows))
        return
    x, y = tensors("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[:VALIDATION], order[VALIDATION:]
    fit = (x[rest], y[rest]) if given.validate else (x, y)
    judge = (x[held], y[held]) if given.validate else tensors("test")
    kind = "validation" if given.validate else "run"
    for seed in given.seeds:
        for row in arms_of(seed, given, fit, judge):
            with given.results.open("a") as file:
                file.write(json.dumps({"kind": kind, "seed": seed, **row}) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
