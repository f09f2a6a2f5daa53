"""Study `random-weights`, its second part: one hidden layer on digits, and every way to come to n neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sprig.data import load
from sprig.greedy import LeastSquares, maximise
from sprig.studies import edges
from sprig.studies.neurons import herd
from sprig.studies.record import Figures

if TYPE_CHECKING:
    from sprig.studies.random_weights import Settings

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Digits:
    """Images and labels of the three parts; every choice is made on `check`."""

    fit: tuple[Tensor, Tensor]
    check: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits() -> Digits:
    """scikit-learn's digits: 1,150 train, 287 validate, 360 test, the same for every seed."""
    x, y = next(iter(load("digits", split="calibration", batch_size=2000)))
    new, target = next(iter(load("digits", split="test", batch_size=2000)))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y, cut = x.flatten(1)[order], y[order], round(0.8 * len(x))
    return Digits((x[:cut], y[:cut]), (x[cut:], y[cut:]), (new.flatten(1), target))


def generator_of(seed: int, *parts: int) -> torch.Generator:
    """A generator for one run, unlike those of other runs."""
    number = seed
    for part in parts:
        number = (number * 1_000_003 + part) % (2**62)
    return torch.Generator().manual_seed(number)


def readout(
    feats: tuple[Tensor, Tensor, Tensor], data: Digits, ridges: Sequence[float] = RIDGES
) -> tuple[float, float]:
    """Test accuracy and the ridge of a linear read-out of features, the ridge chosen on validation images."""
    fit, check, test = (
        torch.cat([f.double(), torch.ones(len(f), 1, dtype=torch.float64)], 1) for f in feats
    )
    goal = torch.nn.functional.one_hot(data.fit[1], 10).double()
    gram, cross = fit.mT @ fit, fit.mT @ goal
    level = float(gram.diagonal().mean())
    found = []
    for ridge in ridges:
        w = torch.linalg.solve(
            gram + ridge * level * torch.eye(len(gram), dtype=torch.float64), cross
        )
        right = [
            float(((f @ w).argmax(1) == y).double().mean())
            for f, (_, y) in ((check, data.check), (test, data.test))
        ]
        found.append((right[0], right[1], ridge))
    best = max(found, key=lambda f: (f[0], f[2]))
    return best[1], best[2]


def neurons(settings: "Settings", seed: int, work: Path | None = None) -> Figures:
    """Test accuracy of every way to come to n hidden neurons."""
    data, generator = digits(), generator_of(seed, 5)
    inputs = data.fit[0].shape[1]
    how = edges.Training(settings.steps)
    inner = edges.draw((inputs, settings.pool), "normal", generator)[0]
    outer = 2.0 * torch.randint(2, (settings.pool, 10), generator=generator).double() - 1.0
    arms: dict[str, dict[str, float]] = {}

    def features(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.relu(x @ w.mT) for x, _ in (data.fit, data.check, data.test))  # type: ignore[return-value]

    def note(arm: str, n: int, value: float) -> None:
        arms.setdefault(arm, {})[str(n)] = value

    random = features(inner)
    goal = torch.nn.functional.one_hot(data.fit[1], 10).double()
    refit = maximise(LeastSquares(random[0], goal), max(settings.neurons)).picks
    wide, _ = _trained(settings, data, settings.pool, how, seed)
    hidden = features(wide[0])
    from_wide = maximise(LeastSquares(hidden[0], goal), max(settings.neurons)).picks
    size = wide[0].norm(dim=1) * wide[1].norm(dim=0)
    for n in settings.neurons:
        some = torch.randperm(settings.pool, generator=generator)[:n]
        note("random features, ridge", n, readout(tuple(f[:, some] for f in random), data)[0])  # type: ignore[arg-type]
        chosen = torch.tensor(refit[:n])
        note("greedy from random, refit", n, readout(tuple(f[:, chosen] for f in random), data)[0])  # type: ignore[arg-type]
        chosen = torch.tensor(from_wide[:n])
        note("greedy from trained, refit", n, readout(tuple(f[:, chosen] for f in hidden), data)[0])  # type: ignore[arg-type]
        net, _ = _trained(settings, data, n, how, seed)
        note("trained from scratch", n, edges.accuracy(net, *data.test))
        large = size.topk(n).indices
        cut = [wide[0][large], wide[1][:, large]]
        note(
            "largest of trained, trained on",
            n,
            edges.accuracy(_best(settings, data, cut, how, seed)[0], *data.test),
        )
        index = torch.randperm(settings.pool, generator=generator)[:n]
        cut = [wide[0][index], wide[1][:, index]]
        note(
            "random of trained, trained on",
            n,
            edges.accuracy(_best(settings, data, cut, how, seed)[0], *data.test),
        )
    for n, value in averaged(settings, data, random, outer).items():
        note("greedy from random, mean of picks", n, value)
    return {
        "arms": arms,
        "ceiling": readout(random, data)[0],
        "trained": edges.accuracy(wide, *data.test),
    }


def _trained(
    settings: "Settings", data: Digits, n: int, how: edges.Training, seed: int
) -> tuple[edges.Weights, float]:
    """A network with n hidden neurons, trained from scratch."""
    start = edges.draw((data.fit[0].shape[1], n, 10), "normal", generator_of(seed, 6, n))
    return _best(settings, data, start, how, seed)


def _best(
    settings: "Settings", data: Digits, start: edges.Weights, how: edges.Training, seed: int
) -> tuple[edges.Weights, float]:
    """Trained from given weights, at the rate that validates best."""
    tried = []
    for lr in settings.weight_rates:
        generator = generator_of(seed, 7)
        net = edges.train(
            start, None, edges.Task(*data.fit, edges.cross_entropy, lr, how, generator)
        )
        tried.append((edges.accuracy(net, *data.check), -lr, net))
    best = max(tried, key=lambda t: t[:2])
    return best[2], -best[1]


def averaged(
    settings: "Settings", data: Digits, feats: tuple[Tensor, Tensor, Tensor], outer: Tensor
) -> dict[int, float]:
    """The published selection: the mean of picked neurons with fixed random outer weights; scale by validation."""
    goal = torch.nn.functional.one_hot(data.fit[1], 10).double() - 0.1
    few = slice(0, 400)  # rows that the picks look at
    feats64 = [f.double() for f in feats]
    found: dict[int, tuple[float, float]] = {}
    for scale in settings.scales:
        atoms = (scale * feats64[0][few].mT[:, :, None] * outer[:, None, :]).flatten(1)
        path = herd(
            atoms, goal[few].flatten(), 3 * max(settings.neurons), distinct=max(settings.neurons)
        )
        for n in settings.neurons:
            share = path.weights(path.within(n)[0], len(outer))[:, None] * scale * outer
            check, test = (
                float(((f @ share).argmax(1) == y).double().mean())
                for f, y in ((feats64[1], data.check[1]), (feats64[2], data.test[1]))
            )
            if n not in found or check > found[n][0]:
                found[n] = (check, test)
    return {n: test for n, (_, test) in found.items()}
