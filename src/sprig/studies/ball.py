"""Study `ball`: a clipped neuron on frozen random features learns the indicator of a ball; what pruning makes of it.

Three parts. *Risk*: the clipped neuron beside linear read-outs of the same features, for three laws of the points and
two widths. *Dimension*: the same with growing dimension, and a network with both layers trained but no clip. *Pruning*:
from 300 features to 60, with the controls that tell selection from inheritance. Source: Safran and Lee 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sprig.greedy import LeastSquares, maximise
from sprig.studies import clipped
from sprig.studies.ball_page import STUCK, conclude
from sprig.studies.record import Cell, Figures, Study

GOAL = 5e-4  # training loss at which descent ends: eps / 2 for a risk of one in a thousand


@dataclass(frozen=True)
class Settings:
    """Sizes of the study."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    laws: tuple[str, ...] = ("uniform", "cauchy", "spheres")
    dims: tuple[int, ...] = (3, 8)
    widths: tuple[int, ...] = (100, 300)
    samples: int = 1500
    tests: int = 5000
    steps: int = 5000
    draws: int = 200  # starts looked at for dead ones
    sweep: tuple[int, ...] = (3, 8, 16, 30)  # dimensions of the second part, law "spheres"
    sweep_width: int = 200
    both_steps: int = 300  # with both layers trained; each costs several of the others
    pool: int = 300
    keep: int = 60
    prune_dim: int = 8
    more_steps: int = 2000  # after pruning; arms from scratch get `steps` + `more_steps`


def cells(settings: Settings) -> Mapping[str, Cell]:
    """One cell per seed and part, the first also per law."""
    out: dict[str, Cell] = {}
    for law in settings.laws:
        for seed in settings.seeds:
            out[f"risk {law} {seed}"] = partial(risks, settings, law, seed)
    for seed in settings.seeds:
        out[f"pruning {seed}"] = partial(pruning, settings, seed)
    for seed in settings.seeds:
        out[f"dimension {seed}"] = partial(dimensions, settings, seed)
    return out


def generator_of(seed: int, *parts: int) -> torch.Generator:
    """A generator for one problem, unlike those of others."""
    number = seed
    for part in parts:
        number = (number * 1_000_003 + part) % 2**62
    return torch.Generator().manual_seed(number)


def risks(settings: Settings, law: str, seed: int, work: Path | None = None) -> Figures:
    """Test risks of the clipped neuron and of linear read-outs, for each dimension and width."""
    rows = []
    for d in settings.dims:
        for r in settings.widths:
            generator = generator_of(seed, list(clipped.LAWS).index(law), d, r)
            x, y = clipped.ball(law, d, settings.samples, generator)
            new, target = clipped.ball(law, d, settings.tests, generator)
            f = clipped.features(d, r, generator)
            t, fresh = f(x), f(new)
            w, dead = clipped.alive(t, generator)
            trained = clipped.descend(t, y, w, settings.steps, goal=GOAL)
            shares = clipped.live_shares(t, settings.draws, generator)
            linear = clipped.descend_linear(t, y, w, settings.steps)
            rows.append(
                {
                    "d": d,
                    "r": r,
                    "clipped": clipped.risk(fresh, trained, target),
                    "linear": clipped.risk(fresh, linear, target, clip=False),
                    "best linear": clipped.best_linear(t, y, fresh, target),
                    "constant": float(target.var(correction=0)),
                    "dead redrawn": dead,
                    "dead": float((shares == 0).double().mean()),
                    "nearly": float((shares <= STUCK).double().mean()),
                    "live": clipped.live(t, trained),
                }
            )
    return {"rows": rows}


def dimensions(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """The same with growing dimension, and the network without the clip whose layers are both trained."""
    rows, r = [], settings.sweep_width
    for d in settings.sweep:
        generator = generator_of(seed, 77, d)
        x, y = clipped.ball("spheres", d, settings.samples, generator)
        new, target = clipped.ball("spheres", d, settings.tests, generator)
        f = clipped.features(d, r, generator)
        t, fresh = f(x), f(new)
        w, dead = clipped.alive(t, generator)
        trained = clipped.descend(t, y, w, settings.steps, goal=GOAL)
        weak, v, c = clipped.descend_both(x, y, f, w, settings.both_steps)
        rows.append(
            {
                "d": d,
                "clipped": clipped.risk(fresh, trained, target),
                "best linear": clipped.best_linear(t, y, fresh, target),
                "both layers": float((weak(new) @ v + c - target).square().mean()),
                "constant": float(target.var(correction=0)),
                "dead redrawn": dead,
                "live": clipped.live(t, trained),
            }
        )
    return {"rows": rows}


def pruning(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """Test risks of every way from the pool to `keep` features."""
    generator = generator_of(seed, 99)
    k, more = settings.keep, settings.more_steps
    whole = settings.steps + more
    x, y = clipped.ball("uniform", settings.prune_dim, settings.samples, generator)
    new, target = clipped.ball("uniform", settings.prune_dim, settings.tests, generator)
    f = clipped.features(settings.prune_dim, settings.pool, generator)
    t, fresh = f(x), f(new)
    w, redrawn = clipped.alive(t, generator)
    dense = clipped.descend(t, y, w, settings.steps)
    aim = t @ dense
    arms: dict[str, Any] = {
        "dense, all features": {
            "risk": clipped.risk(fresh, dense, target),
            "begun": clipped.live(t, w),
            "live": clipped.live(t, dense),
        }
    }

    def note(name: str, chosen: torch.Tensor, begin: torch.Tensor, steps: int) -> None:
        part = t[:, chosen]
        begun = clipped.live(part, begin)
        done = clipped.descend(part, y, begin, steps) if steps else begin
        arms[name] = {
            "risk": clipped.risk(fresh[:, chosen], done, target),
            "begun": begun,
            "live": clipped.live(part, done),
        }

    def fitted(chosen: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return torch.linalg.lstsq(t[:, chosen], goal[:, None]).solution[:, 0]

    some = torch.randperm(settings.pool, generator=generator)[:k]
    fresh_start, again = clipped.alive(t[:, some], generator)
    note("random features, from scratch", some, fresh_start, whole)
    note("random features, imitating the dense, then trained", some, fitted(some, aim), more)
    large = dense.abs().topk(k).indices
    note("largest of the dense, as it is", large, dense[large], 0)
    note("largest of the dense, trained on", large, dense[large], more)
    greedy = torch.tensor(maximise(LeastSquares(t, aim, center=False), k).picks)
    note("greedy on the dense, as it is", greedy, fitted(greedy, aim), 0)
    note("greedy on the dense, trained on", greedy, fitted(greedy, aim), more)
    begin, third = clipped.alive(t[:, greedy], generator)
    note("same mask, weights drawn anew, from scratch", greedy, begin, whole)
    labels = torch.tensor(maximise(LeastSquares(t, y, center=False), k).picks)
    note("greedy on the labels, as it is", labels, fitted(labels, y), 0)
    note("greedy on the labels, trained on", labels, fitted(labels, y), more)
    return {"arms": arms, "dead redrawn": redrawn + again + third}


STUDY = Study(
    name="ball",
    question="What does a clipped neuron on frozen random features learn, and what is left when features are pruned?",
    sources="Safran and Lee 2022 (data, network, training); the pruning arms are controls of our own.",
    full=Settings(),
    quick=Settings(
        seeds=(0, 1), laws=("uniform", "spheres"), dims=(3,), widths=(30, 90), samples=400, tests=1000, steps=600,
        draws=50, sweep=(3, 10), sweep_width=60, both_steps=60, pool=100, keep=20, prune_dim=3, more_steps=400,
    ),
    cells=cells,
    conclude=conclude,
    budget=lambda s: (
        f"{s.steps} steps of full-batch gradient descent with step 1/L for every arm of the first "
        f"two parts ({s.both_steps} where both layers are trained); pruning: {s.more_steps} more "
        "for arms that start from the dense network's weights or from a fit, "
        f"{s.steps + s.more_steps} for those that start anew. Nothing is tuned, except the ridge "
        "of `best linear`, on the test points, in its favour."
    ),
)  # fmt: skip
