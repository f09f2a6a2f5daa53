"""What the removal of 80% of the hidden units of LeNet-300-100 costs on Fashion-MNIST, before any retraining.

    python benchmarks/shrinkage_units.py [--epochs 8] [--seeds 0 1 2]

One dense training per seed; from it, one-shot removal by L1 size, and the methods that grow an L2 factor until the
units are no more. All keep 60 of 300 and 20 of 100 units and end in a physically smaller network; test accuracy is
taken right before and right after removal. Settings are those of the papers' small demonstrations, brought to a few
thousand steps; nothing was tuned on the test images.
"""

import argparse
import time

import torch
from shrinkage import Images, share_right, tensors

from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.methods.penalties.cut import keep_units
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.run import train_and_cut
from sprig.methods.penalties.units import units_of
from sprig.models.lenet import LeNet300100
from sprig.training import TrainConfig, train

KEEP = 0.2
GROW = {"step": 1e-3, "every": 1, "ceiling": 1.0, "hold": 300}
ARMS = {
    "increg": (IncReg(keep=KEEP, step=2.5e-4, ceiling=0.05), 3),
    "greg1": (GReg1(keep=KEEP, **GROW), 3),
    "greg2": (GReg2(keep=KEEP, probe=1e-4, probe_ceiling=1e-2, **GROW), 3),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    fit, test = tensors("train"), tensors("test")
    print(
        "| seed | arm | before removal | after removal | units left | MACs left | CPU s |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in given.seeds:
        torch.manual_seed(seed)
        start = LeNet300100()
        graph = trace(start.eval(), (fit[0][:2],))
        data = Images(*fit, seed=seed)
        config = TrainConfig(epochs=given.epochs, lr=0.05, warmup=0.0, seed=seed)
        dense = train(start.train(), data, config=config).model
        units = units_of(graph, dense, set(dict(dense.named_parameters())))
        parameters = dict(dense.named_parameters())
        size = units.sums([parameters[n].detach() for n in units.names], torch.abs)
        plan = keep_units(units, size, keep=KEEP, per_layer=True)
        rows = [("one-shot L1", dense, shrink(dense, plan, graph), plan, 0.0)]
        for name, (settings, epochs) in ARMS.items():
            slow = TrainConfig(epochs=epochs, lr=0.01, schedule="constant", warmup=0.0, seed=seed)
            begin = time.process_time()
            found = train_and_cut(
                dense, data, method=name, settings=settings, config=slow, graph=graph
            )
            assert not found.notes, found.notes
            took = time.process_time() - begin
            rows.append((name, found.trained, found.model, found.plan, took))
        for name, before, after, plan, took in rows:
            kept = " + ".join(str(len(k)) for n, k in plan.keep.items() if plan.sizes[n] >= 100)
            cells = [f"{100 * share_right(m, *test):.2f}" for m in (before, after)]
            macs = plan.cost["macs"] / 266_200
            print(
                f"| {seed} | {name} | {cells[0]} | {cells[1]} | {kept} | {macs:.1%} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
