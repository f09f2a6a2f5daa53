"""Time of a training step with each penalty, in steps of plain SGD, on ResNet-20; and what it keeps in memory.

    python benchmarks/penalty_step.py [--batch 64] [--rounds 15]

One thread. Plain and penalised steps take turns within the same run, so that a busy machine slows both; the ratio is
the median over rounds of (penalised / plain), each of a few steps.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from sprig.core.tracing import trace
from sprig.methods.penalties.shelf import PENALTIES
from sprig.methods.penalties.shrinker import Shrinker
from sprig.models.resnet_small import resnet20

STEPS = 2
SKIP = {"gates", "l0", "grda", "group-grda"}  # other networks, or other optimisers
EXTRA = {"halo": ({}, {"mode": "closed"}, {"mode": "proximal"})}


def build(name, settings, graph):
    """A network, its optimiser, its penalty at work (or none)."""
    torch.manual_seed(0)
    model = resnet20(in_channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shrinker = None
    if name is not None:
        entry = PENALTIES[name]
        shrinker = Shrinker(model, entry.config(**settings), graph=graph if entry.groups else None)
        shrinker.attach(optimizer, tell=lambda text: None)
    return model, optimizer, shrinker


def steps(model, optimizer, x, y):
    """Seconds of CPU of a few steps."""
    start = time.thread_time()
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.thread_time() - start


def state_bytes(value):
    """Bytes of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(state_bytes, parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(given.batch, 1, 28, 28)
    y = torch.randint(0, 10, (given.batch,))
    graph = trace(resnet20(in_channels=1).eval(), (x[:2],))
    arms = [
        (name, more)
        for name in PENALTIES
        if name not in SKIP and (given.only is None or name in given.only)
        for more in EXTRA.get(name, ({},))
    ]
    plain = build(None, {}, graph)[:2]
    ready = [(name, more, *build(name, more, graph)) for name, more in arms]
    weights = sum(p.nbytes for p in plain[0].parameters())
    steps(*plain, x, y)
    ratios = {i: [] for i in range(len(ready))}
    seconds = []
    for _ in range(given.rounds):
        for i, (_, _, model, optimizer, _) in enumerate(ready):
            base = steps(*plain, x, y)
            ratios[i].append(steps(model, optimizer, x, y) / base)
            seconds.append(base / STEPS)
    print(
        f"ResNet-20, 28x28, batch {given.batch}, one thread, {given.rounds} rounds of {STEPS} steps"
    )
    print(f"plain SGD: {1e3 * statistics.median(seconds):.1f} ms of CPU per step\n")
    print("| penalty | step / plain SGD | state, in sizes of the weights |")
    print("|---|---|---|")
    for i, (name, more, _, _, shrinker) in enumerate(ready):
        label = name + "".join(f", {k} {v}" for k, v in more.items())
        ratio = statistics.median(ratios[i])
        print(f"| {label} | {ratio:.2f} | {state_bytes(shrinker.state) / weights:.2f} |")


if __name__ == "__main__":
    main()
