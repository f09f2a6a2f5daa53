"""Study `weak-submodular`: picking features when the set function is only weakly submodular.

The paper's synthetic regression (Khanna et al. 2017; `designs.ar1`), suppressor problems, and a logistic regression on
real images: Fashion-MNIST's T-shirts against its shirts, or two of scikit-learn's digits, pixels as features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.data import load
from sprig.greedy import LeastSquares, LogLikelihood, Selection, guarantees, maximise
from sprig.studies.designs import ar1, held_out, suppressors
from sprig.studies.record import Cell, Figures, Study
from sprig.studies.weak_submodular_page import BOUNDED, RULES, conclude


@dataclass(frozen=True)
class Settings:
    """Sizes of the study."""

    seeds: tuple[int, ...] = (0, 1, 2)
    features: int = 1000  # columns of the synthetic regression
    rows: int = 800  # for training; as many are held out
    true: int = 100  # columns that y is made of
    picks: int = 75
    many_parts: int = 20  # so many that a part holds no more than `picks` columns
    ratios: int = 200  # sets looked at for each ratio of a guarantee
    suppressors: int = 50  # small problems
    data: str = "fashion-mnist"
    classes: tuple[int, int] = (0, 6)
    images: int = 1500  # of the two classes, for training; as many are held out
    logistic_picks: int = 10


def cells(settings: Settings) -> Mapping[str, Cell]:
    """One cell per seed and problem."""
    out: dict[str, Cell] = {}
    for seed in settings.seeds:
        out[f"ar1 {seed}"] = partial(regression, settings, seed)
    for seed in settings.seeds:
        out[f"logistic {seed}"] = partial(logistic, settings, seed)
    out["suppressors"] = partial(lazily, settings)
    return out


def regression(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """Figures of each way to pick columns of one design, and what is guaranteed for some of them."""
    x, y, new, target, support = ar1(seed, settings.features, settings.rows, settings.true)
    objective, k = LeastSquares(x, y), settings.picks
    arms: dict[str, Any] = {}
    known: dict[str, str] = {}

    def note(name: str, picks: Sequence[int], found: Selection | None = None) -> None:
        arms[name] = {
            "r2": objective.worth(picks),
            "fresh": held_out(x, y, new, target, picks),
            "true": len(support & set(picks)) / len(picks),
            "evaluations": None if found is None else found.evaluations,
            "critical": None if found is None else found.critical,
        }

    many = (
        f"distributed, {settings.many_parts} parts",
        "distributed",
        {"parts": settings.many_parts},
    )
    exact: tuple[int, ...] = ()
    same = False
    for name, rule, options in (*RULES, many):
        found = maximise(objective, k, rule=rule, seed=seed, **options)
        note(name, found.picks, found)
        if name == "exact":
            exact = found.picks
        if name == many[0]:
            same = set(found.picks) == set(exact)
        if rule == "distributed" and name != many[0]:
            parts = options["parts"]
            draw = torch.Generator().manual_seed(seed)
            part = torch.randint(parts, (settings.features,), generator=draw).tolist()
            local = [s for s in found.sets if len({part[i] for i in s}) == 1]
            note(f"best part alone, {parts} parts", max(local, key=objective.worth))
        if seed == settings.seeds[0] and name in BOUNDED:
            known[name] = str(guarantees(objective, found, most=settings.ratios))
    note("singly best", single(objective, k))
    generator = torch.Generator().manual_seed(seed)
    note("random", torch.randperm(settings.features, generator=generator)[:k].tolist())
    return {"arms": arms, "known": known, "same": same}


def single(objective: Any, k: int) -> list[int]:
    """The k items that are worth most alone."""
    gains = objective.gains(objective.start(), torch.arange(objective.size))
    return [int(i) for i in gains.argsort(descending=True, stable=True)[:k]]


def lazily(settings: Settings, work: Path | None = None) -> Figures:
    """How often stale gains end in worse picks, on problems whose gains grow."""
    worse = refused = 0
    lost = []
    for number in range(settings.suppressors):
        objective = LeastSquares(*suppressors(number))
        exact = maximise(objective, 5).value
        forced = maximise(objective, 5, rule="lazy", force=True).value
        worse += forced < exact - 1e-9
        lost.append((exact - forced) / exact)
        try:
            maximise(objective, 5, rule="lazy")
        except InputError:
            refused += 1
    return {"problems": settings.suppressors, "worse": worse, "refused": refused, "lost": lost}


def two_classes(settings: Settings, split: str, seed: int) -> tuple[Tensor, Tensor]:
    """(n, pixels) and (n,) whether it is the second class; a different part of the training images for each seed."""
    batches = list(
        load(settings.data, split="test" if split == "test" else "calibration", batch_size=1000)
    )
    images = torch.cat([x for x, _ in batches]).flatten(1).double()
    labels = torch.cat([y for _, y in batches])
    chosen = ((labels == settings.classes[0]) | (labels == settings.classes[1])).nonzero().flatten()
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[order[: settings.images]]
    return images[chosen], labels[chosen] == settings.classes[1]


def logistic(settings: Settings, seed: int, work: Path | None = None) -> Figures:
    """Mean log-likelihoods, above the intercept alone, along the picks of each rule."""
    x, y = two_classes(settings, "train", seed)
    new, target = two_classes(settings, "test", seed)
    live = x.std(0) > 0
    level, scale = x[:, live].mean(0), x[:, live].std(0)
    x, new = (x[:, live] - level) / scale, (new[:, live] - level) / scale
    objective, k = LogLikelihood(x, y), settings.logistic_picks
    arms: dict[str, Any] = {}

    def note(name: str, picks: Sequence[int], evaluations: int | None) -> None:
        values, state = [0.0], objective.start()
        for pick in picks:
            state = objective.add(state, pick)
            values.append(objective.value(state))
        columns = torch.tensor(state.picks)
        z = new[:, columns] @ state.weights[:-1] + state.weights[-1]
        arms[name] = {
            "values": values,
            "likelihood": values[-1] + objective.nothing,
            "fresh": float(
                torch.where(
                    target, -torch.nn.functional.softplus(-z), -torch.nn.functional.softplus(z)
                ).mean()
            ),
            "accuracy": float(((z > 0) == target).double().mean()),
            "evaluations": evaluations,
        }

    for name, rule, options in (*RULES[:4], *RULES[5:]):
        found = maximise(objective, k, rule=rule, seed=seed, **options)
        note(name, found.picks, found.evaluations)
    note("singly best", single(objective, k), None)
    generator = torch.Generator().manual_seed(seed)
    note("random", torch.randperm(objective.size, generator=generator)[:k].tolist(), None)
    return {"arms": arms, "features": objective.size, "rows": len(x), "nothing": objective.nothing}


STUDY = Study(
    name="weak-submodular",
    question="How much do stochastic and distributed greedy picks lose where the set function is only weakly "
    "submodular?",
    sources="Khanna, Elenberg, Dimakis, Negahban, Ghosh 2017 (design, algorithms, bounds); Das and Kempe 2011 "
    "(ratio).",
    full=Settings(),
    quick=Settings(
        seeds=(0, 1),
        features=80,
        rows=80,
        true=12,
        picks=8,
        many_parts=12,
        ratios=40,
        suppressors=10,
        data="digits",
        classes=(3, 8),
        images=150,
        logistic_picks=4,
    ),
    cells=cells,
    conclude=conclude,
    budget=lambda s: (
        f"every arm picks the same number of columns ({s.picks}, logistic {s.logistic_picks}); "
        "evaluations are counted and stated per arm; nothing is tuned."
    ),
)
