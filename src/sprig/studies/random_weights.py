"""Study `random-weights`: what can be had from random weights by choosing among them, and what training adds.

Three parts. *Masks*: a perceptron 64-w-w-10 on digits; edge-popup with four kinds of weights beside random masks,
trained weights under random and under learned masks, and the dense network. *Neurons*: one hidden layer on digits;
greedy selection from random neurons beside random features, their ceiling, and training. *One neuron*: a single ReLU
neuron as the target, which weights can be masked into and which choosing neurons can only approach.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sprig.studies import edges
from sprig.studies.random_neurons import RIDGES, Digits, digits, generator_of, neurons
from sprig.studies.random_weights_page import conclude
from sprig.studies.record import Cell, Figures, Study

KINDS = (
    ("edge-popup, constant", "constant", False),
    ("edge-popup, constant, scaled", "constant", True),
    ("edge-popup, normal", "normal", False),
    ("edge-popup, normal, scaled", "normal", True),
)


SECOND = 10  # neurons of the second hidden layer in which a single one is to be built: masks need twice the depth


@dataclass(frozen=True)
class Settings:
    """Sizes of the study."""

    seeds: tuple[int, ...] = (0, 1, 2)
    widths: tuple[int, ...] = (16, 64, 192)
    keeps: tuple[float, ...] = (0.1, 0.5, 0.9)
    steps: int = 200  # of every training and mask search
    mask_rates: tuple[float, ...] = (0.1, 0.3)  # learning rates of scores
    weight_rates: tuple[float, ...] = (0.03, 0.1)  # ... of weights
    pool: int = 384  # random neurons of the second part
    neurons: tuple[int, ...] = (16, 32, 64)
    scales: tuple[float, ...] = (3.0, 30.0)  # outer weights of the random pool
    inputs: int = 20  # of the single neuron
    hidden: tuple[int, ...] = (50, 200, 400)  # about inputs squared at last
    points: int = 1500  # training points of the single neuron; half as many validate, as many test


def cells(settings: Settings) -> Mapping[str, Cell]:
    """One cell per width and share kept, one per seed of the other parts."""
    out: dict[str, Cell] = {}
    for width in settings.widths:
        out[f"dense {width}"] = partial(dense_cell, settings, width)
        for keep in settings.keeps:
            out[f"masks {width} {keep}"] = partial(mask_cell, settings, width, keep)
    for seed in settings.seeds:
        out[f"neurons {seed}"] = partial(neurons, settings, seed)
    for hidden in settings.hidden:
        out[f"one neuron {hidden}"] = partial(one_neuron, settings, hidden)
    return out


def tuned(
    settings: Settings,
    run: Callable[[int, Any], Any],
    trials: Sequence[Any],
    score: Callable[[Any], float],
) -> tuple[list[Any], Any]:
    """What `run(seed, trial)` gives for each seed, with the trial that validated best on the first seed."""
    first = settings.seeds[0]
    tried = [run(first, trial) for trial in trials]
    best = max(range(len(trials)), key=lambda i: (score(tried[i]), -i))
    return [tried[best], *(run(seed, trials[best]) for seed in settings.seeds[1:])], trials[best]


def dense_cell(settings: Settings, width: int, work: Path | None = None) -> Figures:
    """The network without a mask, trained."""
    data = digits()
    return _arm(
        settings,
        data,
        lambda s, lr: dense(settings, data, width, s, lr),
        settings.weight_rates,
        1.0,
    )


def dense(settings: Settings, data: Digits, width: int, seed: int, lr: float) -> edges.Weights:
    """One trained dense network."""
    generator = generator_of(seed, width)
    start = edges.draw((data.fit[0].shape[1], width, width, 10), "normal", generator)
    how = edges.Training(settings.steps)
    return edges.train(start, None, edges.Task(*data.fit, edges.cross_entropy, lr, how, generator))


def _arm(
    settings: Settings,
    data: Digits,
    run: Callable[[int, float], edges.Weights],
    rates: Sequence[float],
    keep: float,
) -> dict[str, Any]:
    """Test accuracies of one arm over the seeds, its rate chosen on validation images."""
    nets, rate = tuned(settings, run, rates, lambda w: edges.accuracy(w, *data.check))
    total = sum(w.numel() for w in nets[0])
    return {
        "accuracy": [edges.accuracy(w, *data.test) for w in nets],
        "rate": rate,
        "kept": sum(int((w != 0).sum()) for w in nets[0]),
        "total": total,
        "keep": keep,
    }


def mask_cell(settings: Settings, width: int, keep: float, work: Path | None = None) -> Figures:
    """Every arm at one width and one share kept."""
    data, how = digits(), edges.Training(settings.steps)
    sizes = (data.fit[0].shape[1], width, width, 10)
    arms: dict[str, Any] = {}

    def search(kind: Any, scaled: bool) -> Callable[[int, float], edges.Weights]:
        def run(seed: int, lr: float) -> edges.Weights:
            generator = generator_of(seed, width, round(1000 * keep))
            w = edges.draw(sizes, kind, generator, keep=keep if scaled else 1.0)
            masks = edges.popup(
                w, keep, edges.Task(*data.fit, edges.cross_entropy, lr, how, generator)
            )
            return [a * m for a, m in zip(w, masks)]

        return run

    def untrained(seed: int, lr: float) -> edges.Weights:
        generator = generator_of(seed, width, round(1000 * keep))
        w = edges.draw(sizes, "constant", generator, keep=keep)
        return [a * m for a, m in zip(w, edges.random_masks(w, keep, generator))]

    def sparse(seed: int, lr: float) -> edges.Weights:
        generator = generator_of(seed, width, round(1000 * keep))
        w = edges.draw(sizes, "normal", generator, keep=keep)
        masks = edges.random_masks(w, keep, generator)
        return edges.train(w, masks, edges.Task(*data.fit, edges.cross_entropy, lr, how, generator))

    def learned(seed: int, lr: float) -> edges.Weights:
        whole = dense(settings, data, width, seed, settings.weight_rates[-1])
        masks = [edges.top(w, keep) for w in whole]
        generator = generator_of(seed, width, round(1000 * keep), 1)
        return edges.train(
            whole, masks, edges.Task(*data.fit, edges.cross_entropy, lr, how, generator)
        )

    for name, kind, scaled in KINDS:
        arms[name] = _arm(settings, data, search(kind, scaled), settings.mask_rates, keep)
    arms["random mask, untrained"] = _arm(settings, data, untrained, (0.0,), keep)
    arms["random mask, weights trained"] = _arm(settings, data, sparse, settings.weight_rates, keep)
    arms["largest weights of the dense, trained on"] = _arm(
        settings, data, learned, settings.weight_rates, keep
    )
    return {"arms": arms}


def one_neuron(settings: Settings, hidden: int, work: Path | None = None) -> Figures:
    """Relative test error for a single ReLU neuron as the target, of masks and of random features."""
    how = edges.Training(4 * settings.steps)
    drawn = {}
    for seed in settings.seeds:
        generator = generator_of(seed, 8)
        u = torch.randn(settings.inputs, generator=generator)
        u = u / u.norm()
        parts = []
        for count in (settings.points, settings.points // 2, settings.points):
            x = torch.randn(count, settings.inputs, generator=generator)
            parts.append((x, torch.relu(x @ u)))
        drawn[seed] = parts

    def masked(seed: int, trial: tuple[float, float]) -> tuple[float, float]:
        keep, lr = trial
        fit, check, test = drawn[seed]
        generator = generator_of(seed, 9, hidden)
        w = edges.draw((settings.inputs, hidden, SECOND, 1), "constant", generator, keep=keep)
        masks = edges.popup(w, keep, edges.Task(*fit, edges.squared, lr, how, generator))
        net = [a * m for a, m in zip(w, masks)]
        return edges.error(net, *check), edges.error(net, *test)

    def features(seed: int) -> float:
        fit, check, test = drawn[seed]
        w = edges.draw((settings.inputs, hidden), "normal", generator_of(seed, 10, hidden))[0]
        mats = [torch.relu(x @ w.mT).double() for x, _ in (fit, check, test)]
        gram = mats[0].mT @ mats[0]
        level, right = float(gram.diagonal().mean()), mats[0].mT @ fit[1].double()
        tried = []
        for ridge in (1e-9, 1e-7, *RIDGES[:3]):
            eye = torch.eye(len(gram), dtype=torch.float64)
            v = torch.linalg.solve(gram + ridge * level * eye, right[:, None])[:, 0]
            both = [
                float((m @ v - y).square().mean() / y.square().mean())
                for m, (_, y) in ((mats[1], check), (mats[2], test))
            ]
            tried.append(both)
        return min(tried)[1]

    trials = [(keep, lr) for keep in (0.3, 0.5, 0.7) for lr in settings.mask_rates]
    nets, best = tuned(settings, masked, trials, lambda e: -e[0])
    return {
        "hidden": hidden,
        "masked": [e[1] for e in nets],
        "keep": best[0],
        "rate": best[1],
        "features": [features(seed) for seed in settings.seeds],
    }


STUDY = Study(
    name="random-weights",
    question="How far does choosing among random weights or random neurons get, beside training them?",
    sources="Ramanujan et al. 2020 (edge-popup); Malach et al. 2020 (weights against neurons); Ye et al. 2020 "
    "(greedy selection).",
    full=Settings(),
    quick=Settings(
        seeds=(0, 1),
        widths=(16, 48),
        keeps=(0.1, 0.5),
        steps=60,
        mask_rates=(0.1, 0.3),
        weight_rates=(0.03, 0.1),
        pool=96,
        neurons=(8, 24),
        scales=(10.0,),
        inputs=8,
        hidden=(16, 64),
        points=400,
    ),
    cells=cells,
    conclude=conclude,
    budget=lambda s: (
        f"{s.steps} steps of 128 images for every mask search and every training ({4 * s.steps} "
        f"for the single neuron); {len(s.mask_rates)} learning rates tried per arm on validation "
        "images with the first seed, the best is used for all seeds. Arms that begin with a "
        "trained network have that training on top."
    ),
)
