"""LeNet-300-100 on Fashion-MNIST: how the loss falls with the number of picks in its last hidden layer.

    python benchmarks/loss_rate.py            train the network if it is not there, select, write results/loss_rate.md

Selection as published: with replacement, every unit tried at every step, the whole network's loss on a fixed batch.
Two objectives. *Imitation* (KL from the dense network's output): the dense network is itself the mean of its units, so
the floor of the loss is 0. *Labels* (cross-entropy): the last layer is linear in the gates, so the floor, the least
loss over all gates on the simplex, is a convex problem; it is solved, and the Frank-Wolfe gap says how exactly.
The slope is that of a line through ln(loss - floor) over ln n. It is reported, nothing is tuned to it.
"""

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from torch import Tensor, nn

from sprig.core.batches import unpack
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.data import load
from sprig.methods.greedy.netloss import NetLoss
from sprig.models import LeNet300100
from sprig.training import TrainConfig, accuracy, train

RESULTS = Path(__file__).parent / "results"
LAYER = "fc2"  # its 100 units are chosen, fc3 reads them
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 700, 1000)


def dense(path: Path, epochs: int) -> nn.Module:
    """The trained network, trained now if the file is not there."""
    torch.manual_seed(0)
    model: nn.Module = LeNet300100()
    if not path.exists():
        config = TrainConfig(epochs=epochs, lr=0.05)
        data = load("fashion-mnist", split="train", batch_size=128)
        model = train(model, data, config=config).model
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def rates(net: NetLoss, picks: int) -> tuple[list[float], list[int]]:
    """The loss after each pick, and how many different units are in."""
    batch = range(len(net.chunks))
    counts = torch.zeros(net.size, dtype=torch.float64)
    losses, distinct = [], []
    for n in range(1, picks + 1):
        tried = []
        for i in range(net.size):
            counts[i] += 1
            tried.append(net.score(net.size * counts / n, batch).loss)
            counts[i] -= 1
        best = min(range(net.size), key=tried.__getitem__)
        counts[best] += 1
        losses.append(tried[best])
        distinct.append(int((counts > 0).sum()))
    return losses, distinct


def floor(net: NetLoss, iterations: int = 1000) -> tuple[float, float]:
    """Least loss over gates on the simplex (sequential quadratic programming), and how much too high it is at most."""
    batch, size = list(range(len(net.chunks))), net.size

    def at(a: np.ndarray) -> tuple[float, np.ndarray]:
        gates = size * torch.from_numpy(np.array(a, dtype=np.float64))
        return net.score(gates, batch).loss, size * net.gradient(gates, batch).numpy()

    found = minimize(
        at,
        np.full(size, 1 / size),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * size,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        options={"maxiter": iterations, "ftol": 1e-12},
    )
    a = found.x.clip(0) / found.x.clip(0).sum()
    loss, slope = at(a)
    return loss, float(a @ slope - slope.min())


def slope(losses: list[float], base: float, first: int, last: int) -> float | None:
    """Least squares through ln(loss - floor) over ln n, n = first..last; None where the floor is not cleared."""
    ns = torch.arange(first, max(first, min(last, len(losses)) + 1))
    excess = torch.tensor([losses[n - 1] - base for n in ns.tolist()], dtype=torch.float64)
    if len(ns) < 3 or not bool((excess > 0).all()):
        return None
    x, y = ns.double().log(), excess.log()
    x = x - x.mean()
    return float((x @ y) / (x @ x))


def fmt(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def report(bench: Workbench, picks: int, samples: int, test: float) -> str:
    group = bench.graph.group(LAYER)
    size = group.size
    spans = [(1, size // 10), (size // 10, size), (size, 3 * size), (3 * size, picks)]
    out = [
        "# Loss against the number of picks, LeNet-300-100 on Fashion-MNIST",
        "",
        f"Last hidden layer ({size} units), with replacement, every unit tried, fixed batch of {samples} training "
        f"images, float64. Dense network: {100 * test:.2f}% on the test images. "
        "Command: `python benchmarks/loss_rate.py`.",
        "",
    ]
    for objective in ("imitation", "labels"):
        net = NetLoss(bench, objective=objective, samples=samples)
        net.enter(group)
        start = time.perf_counter()
        losses, distinct = rates(net, picks)
        seconds = time.perf_counter() - start
        base, gap = (0.0, 0.0) if objective == "imitation" else floor(net)
        whole = net.score(torch.ones(size, dtype=torch.float64), range(len(net.chunks))).loss
        said = (
            "0 (exact)"
            if objective == "imitation"
            else f"{base:.6f} (too high by at most {gap:.1e})"
        )
        out += [
            f"## {objective}",
            "",
            f"Floor {said}; the dense network {whole:.6f}. {seconds:.0f} s, "
            f"{net.layers:,} layer evaluations of {net.whole:,} without the prefix cache.",
            "",
            "| picks n | " + " | ".join(str(n) for n in SHOWN if n <= picks) + " |",
            "|---" * (1 + sum(n <= picks for n in SHOWN)) + "|",
            "| loss - floor | "
            + " | ".join(f"{losses[n - 1] - base:.2e}" for n in SHOWN if n <= picks) + " |",
            "| different units | "
            + " | ".join(str(distinct[n - 1]) for n in SHOWN if n <= picks) + " |",
            "",
            "| n | " + " | ".join(f"{a} to {b}" for a, b in spans) + " |",
            "|---" * (1 + len(spans)) + "|",
            "| log-log slope | " + " | ".join(fmt(slope(losses, base, a, b)) for a, b in spans) + " |",
            "",
        ]  # fmt: skip
        falls = sum(b < a for a, b in pairwise(losses))
        out += [f"The loss fell at {falls} of {picks - 1} steps.", ""]
        if not all(math.isfinite(v) for v in losses):
            raise AssertionError("a loss is not finite")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dense", type=Path, default=Path("runs/lenet300100.safetensors"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dense(args.dense, args.epochs)
    test = accuracy(model, load("fashion-mnist", split="test", batch_size=500))
    batches = load("fashion-mnist", split="calibration", batch_size=64, limit=args.samples)
    held: list[tuple[Tensor, Tensor]] = [(x.double(), y) for x, y in batches]
    model = model.double()
    graph = trace(model, (held[0][0],))
    bench = Workbench(model, graph, [unpack(b) for b in held])
    bench.size = args.samples  # the network is tiny: one run of the program for the whole batch
    text = report(bench, args.picks, args.samples, test)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loss_rate.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
