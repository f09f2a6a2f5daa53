"""Study `rates`: how the loss falls with the number of neurons, picked greedily, drawn at random, or trained.

Two parts. *Picks*: random tanh neurons on m points, so that the function space has m dimensions; three targets, one
inside their hull (the mean of the pool), one of an outside teacher, one outside the hull; the squared distance of the
hull is subtracted. *Networks*: a regression with 6 inputs and held-out points; greedy selection from a random pool and
from a trained wide network, with and without further training, beside networks of the same width trained from scratch.
Source of the claims: Ye et al. 2020, whose toy figure has the two lines cross between 270 and 450 neurons.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprig.greedy import LeastSquares, maximise
from sprig.studies.neurons import Herd, Neurons, draw, herd, loss_of, parts, subsets, train
from sprig.studies.rates_page import conclude
from sprig.studies.record import Cell, Figures, Study
from sprig.studies.statistics import hull_distance, spaced

TARGETS = ("inside", "teacher", "off hull")


@dataclass(frozen=True)
class Settings:
    """Sizes of the study."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    points: tuple[int, ...] = (5, 20, 100, 300)  # dimensions of the function space
    pool: int = 2000  # random neurons to pick from
    picks: int = 400
    span: tuple[int, int] = (20, 400)  # picks that the slope is taken over
    subset_draws: int = 20
    inputs: int = 6
    network_seeds: int = 3  # how many of the seeds the second part takes
    samples: int = 1000  # training points; as many validate and test
    widths: tuple[int, ...] = (10, 20, 50, 100, 200)
    wide: int = 400  # neurons of the trained network to pick from
    steps: int = 500  # of training
    tuning_steps: int = 125  # of further training after selection
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)  # learning rates tried
    scales: tuple[float, ...] = (1.0, 3.0, 10.0)  # outer weights of the random pool tried
    restarts: int = 4  # most networks from scratch per width and rate; the best one counts
    most_picks: int = 1000  # in search of `widths` different neurons


def cells(settings: Settings) -> Mapping[str, Cell]:
    """One cell per seed and part."""
    out: dict[str, Cell] = {}
    for seed in settings.seeds:
        out[f"picks {seed}"] = partial(picking, settings, seed)
    for seed in settings.seeds[: settings.network_seeds]:
        out[f"networks {seed}"] = partial(networks, settings, seed)
    return out


def picking(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """Loss along the picks, for each number of points and target."""
    rows = []
    grid = [n for n in spaced(1, settings.picks, 40) if n <= settings.pool]
    for m in settings.points:
        generator = torch.Generator().manual_seed(1000 * seed + m)
        x = torch.randn(m, settings.inputs, generator=generator)
        atoms = draw(settings.pool, settings.inputs, 1.0, generator).outputs(x)
        wide, narrow = spread(atoms)
        teacher = draw(50, settings.inputs, 1.0, generator).outputs(x).mean(0)
        wave = 3 * torch.sin(3 * x[:, 0]).double()  # taller than any mean of neurons below 1
        for name, y in zip(TARGETS, (atoms.mean(0), teacher, wave)):
            floor = 0.0 if name == "inside" else hull_distance(atoms - y)[0] / m
            found = herd(atoms, y, settings.picks)
            rows.append(
                {
                    "points": m,
                    "target": name,
                    "floor": floor,
                    "effective": wide,
                    "narrow": narrow,
                    "grid": grid,
                    "greedy": [float(found.losses[n - 1]) for n in grid],
                    "distinct": [int(found.distinct[n - 1]) for n in grid],
                    "random": subsets(atoms, y, grid, settings.subset_draws, generator),
                    # the limit of large random subsets: what their slope levels off at
                    "bias": float((atoms.mean(0) - y).square().mean()),
                }
            )
    return {"rows": rows}


def spread(atoms: Tensor) -> tuple[float, float]:
    """How many dimensions the atoms spread over, and how narrow they are in the narrowest.

    The first is (sum of the variances)^2 over the sum of their squares, the second the smallest standard deviation over
    the root of the summed variances: around the mean no ball much larger fits into the hull, and the constant of the
    n^-2 bound grows with the inverse of its radius.
    """
    values = torch.linalg.eigvalsh((atoms - atoms.mean(0)).mT @ (atoms - atoms.mean(0)))
    values = values.clamp_min(0.0)
    total = float(values.sum())
    return total**2 / float(values.square().sum()), math.sqrt(float(values[0]) / total)


def problem(settings: Settings, seed: int) -> tuple[list[tuple[Tensor, Tensor]], torch.Generator]:
    """Training, validation and test points of a teacher with 20 neurons, steeper than those of the pool."""
    generator = torch.Generator().manual_seed(7_000 + seed)
    teacher = draw(20, settings.inputs, math.sqrt(20.0), generator)
    teacher = Neurons(1.5 * teacher.w, teacher.b, teacher.a)
    out = []
    for count in (settings.samples, settings.samples, settings.samples):
        x = torch.randn(count, settings.inputs, generator=generator)
        out.append((x, teacher.outputs(x).mean(0)))
    return out, generator


def networks(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """Training and test loss of every arm at every width; what each was tuned to."""
    (fit, check, test), generator = problem(settings, seed)
    widths = settings.widths
    arms: dict[str, Any] = {}
    found_rates: dict[str, float] = {}

    def note(arm: str, n: int, net: Neurons, weights: Tensor | None = None) -> None:
        row = arms.setdefault(arm, {"n": [], "train": [], "test": []})
        row["n"].append(n)
        row["train"].append(loss_of(net, *fit, weights))
        row["test"].append(loss_of(net, *test, weights))

    for n in widths:
        nets = min(settings.restarts, max(1, settings.wide // n))
        net, found_rates[str(n)], least = best_of(
            settings, n, nets, fit, check, generator, steps=settings.steps + settings.tuning_steps
        )
        note("from scratch", n, net)
        arms["from scratch"]["train"][-1] = (
            least  # the claims on training loss get the best of all trials
        )
    wide, rate, _ = best_of(settings, settings.wide, 1, fit, check, generator, steps=settings.steps)
    everything = loss_of(wide, *fit), loss_of(wide, *test)
    selected(settings, "trained net", wide, fit, note, rate)
    for n in widths:
        index = torch.randperm(len(wide), generator=generator)[:n]
        note("trained net, random subset", n, wide.of(index))
    pools = [draw(3 * settings.wide, settings.inputs, s, generator) for s in settings.scales]
    middle = widths[len(widths) // 2]
    pool = min(pools, key=lambda p: validated(settings, p, fit, check, middle))
    selected(settings, "random pool", pool, fit, note, None)
    features = pool.outputs(fit[0]).mT
    refit = maximise(
        LeastSquares(features, fit[1], center=False),
        max(n for n in widths if 2 * n <= settings.samples),
    )
    for n in (n for n in widths if n <= len(refit.picks)):
        chosen = pool.of(torch.tensor(refit.picks[:n]))
        weights = torch.linalg.lstsq(chosen.outputs(fit[0]).mT, fit[1][:, None]).solution[:, 0]
        note("random pool, refit", n, chosen, weights)
    atoms = {"trained net": wide.outputs(fit[0]), "random pool": pool.outputs(fit[0])}
    floors = {k: hull_distance(v - fit[1])[0] / settings.samples for k, v in atoms.items()}
    return {
        "arms": arms,
        "floors": floors,
        "wide": {"train": everything[0], "test": everything[1], "rate": rate},
        "rates": found_rates,
        "scale": float(pool.a.abs().max()),
        "power": float(test[1].square().mean()),
    }


def best_of(
    settings: Settings,
    n: int,
    nets: int,
    fit: tuple[Tensor, Tensor],
    check: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    steps: int,
) -> tuple[Neurons, float, float]:
    """The network of width n that validates best over all rates and restarts, its rate, the least training loss."""
    tried = []
    for rate in settings.rates:
        start = draw(n * nets, settings.inputs, 1.0, generator)
        done = train(start, *fit, steps=steps, lr=rate, nets=nets)
        tried += [(loss_of(net, *check), at, net, rate) for at, net in enumerate(parts(done, nets))]
    tried = [t for t in tried if math.isfinite(t[0])]
    _, _, net, rate = min(tried, key=lambda t: (t[0], t[3], t[1]))
    return net, rate, min(loss_of(t[2], *fit) for t in tried)


def validated(
    settings: Settings,
    pool: Neurons,
    fit: tuple[Tensor, Tensor],
    check: tuple[Tensor, Tensor],
    n: int,
) -> float:
    """Validation loss of about n different neurons picked from a pool."""
    path = herd(pool.outputs(fit[0]), fit[1], settings.most_picks, distinct=n)
    step = len(path.losses) - 1
    return loss_of(pool, *check, path.weights(step, len(pool)))


def selected(
    settings: Settings,
    name: str,
    pool: Neurons,
    fit: tuple[Tensor, Tensor],
    note: Any,
    rate: float | None,
) -> Herd:
    """Greedy picks of a pool at every width; with a rate, also trained further from there."""
    path = herd(pool.outputs(fit[0]), fit[1], settings.most_picks, distinct=max(settings.widths))
    for n in settings.widths:
        found = path.at(n)
        if found is None:
            continue
        weights = path.weights(found[0], len(pool))
        kept = weights.nonzero().flatten()
        net, share = pool.of(kept), weights[kept]
        note(f"{name}, greedy", n, net, share)
        if rate is not None:
            steps = settings.tuning_steps
            tuned = train(net, *fit, steps=steps, lr=rate / 3, weights=share)
            note(f"{name}, greedy, trained further", n, tuned, share)
    return path


STUDY = Study(
    name="rates",
    question="How does the loss fall with the number of neurons: picked greedily, drawn at random, or trained from "
    "scratch?",
    sources="Ye, Gong, Nie, Zhou, Klivans, Liu 2020 (claims and selection rule); Wolfe 1976 (distance of the hull).",
    full=Settings(),
    quick=Settings(
        seeds=(0, 1, 2),
        points=(3, 40),
        pool=300,
        picks=150,
        span=(15, 150),
        subset_draws=5,
        samples=60,
        widths=(5, 10, 20, 40),
        wide=80,
        steps=250,
        tuning_steps=60,
        rates=(0.03, 0.1),
        scales=(1.0, 3.0),
        restarts=3,
        most_picks=600,
    ),
    cells=cells,
    conclude=conclude,
    budget=lambda s: (
        f"from scratch: {s.steps + s.tuning_steps} full-batch Adam steps, {len(s.rates)} learning "
        f"rates, up to {s.restarts} restarts as long as width times restarts is at most {s.wide}, "
        "so that it may spend the neuron-steps that training the wide network took; the best on "
        f"validation points counts, for the training loss the best of all. Wide network: {s.wide} "
        f"neurons, {s.steps} steps, the same rates, one start. Further training: {s.tuning_steps} "
        f"steps at a third of that rate. Random pool: {3 * s.wide} neurons, {len(s.scales)} "
        "scales tried on validation points."
    ),
)  # fmt: skip
