"""`loss`: greedy forward selection on the whole network's loss, layer by layer from input to output.

Ye, Gong, Nie, Zhou, Klivans, Liu, "Good Subnetworks Provably Exist" (ICML 2020). Letters (see netloss.py): C units in
the group, a the gates on the simplex, n picks so far, e_i the i-th corner. A step, over candidates i:

    i = argmin L(a (1 - 1/(n+1)) + e_i / (n+1)),   unit i's channels entering the consumers times C a_i.

Earlier groups stay pruned, later ones are still whole. With a tolerance, a group grows until the network is as good as
just before the group was touched, up to the tolerance; that sets all sizes. Without one there is a budget:
see `search` and `realise` for what that changes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.types import Group, GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.netloss import Gates, NetLoss, Score, in_order

ROUNDS = 4  # picks per unit with replacement, after which only new units may enter
MEASURED = 32  # sizes of a group at which harm is measured, at most; straight lines between


@dataclass(frozen=True)
class LossConfig:
    """Knobs of `loss`.

    candidates: units tried per step, drawn at random (None: all). prescreen: of these, how many of the steepest descent
    are evaluated exactly (None: all). batch: samples that candidates are judged on; fresh: others at every step.
    replacement: units may be picked again, which gives unequal weights (the published theory; its code does not).
    objective: "labels" (cross-entropy) or "imitation" of the dense network's output, which needs no labels.
    tolerance: None for budgets; else a group is done when `measure` is within this share of what it was just
    before the group (imitation has no such scale: a loss may then rise by so much). check: samples that this, and
    harm, is measured on. samples: calibration samples used in all. full_path: measure every pick, see `search`; else
    picks stop being measured where the loss has come back up to `settled`. reselect: see `realise`. cache: run only
    the layers behind the group.
    """

    candidates: int | None = 50
    prescreen: int | None = 8
    batch: int = 128
    fresh: bool = True
    replacement: bool = False
    objective: Literal["labels", "imitation"] = "labels"
    tolerance: float | None = None
    measure: Literal["loss", "accuracy"] = "accuracy"
    check: int = 256
    samples: int = 1024
    full_path: bool = False
    settled: float = 0.01
    reselect: bool = True
    cache: bool = True


def validated(config: LossConfig) -> LossConfig:
    """Refuse numbers that mean nothing."""
    for name in ("candidates", "prescreen", "batch", "check", "samples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    if config.tolerance is not None and not 0 <= config.tolerance < float("inf"):
        raise InputError(f"tolerance={config.tolerance}: must be a number >= 0")
    if not 0 <= config.settled < float("inf"):
        raise InputError(f"settled={config.settled}: must be a number >= 0")
    if config.measure not in ("loss", "accuracy"):
        raise InputError(f"unknown measure {config.measure!r}; known: loss, accuracy")
    return config


class Step(NamedTuple):
    """One pick of a group."""

    pick: int
    counts: Tensor  # (C,) how often each unit was picked so far
    factors: Tensor  # (C,) C count / n, see `factors`
    loss: float  # of the pick, on the step's own samples
    tried: int  # candidates before the prescreen


def factors(counts: Tensor) -> Tensor:
    """C a for gates a = count / n; a group that is whole again is left as it was.

    >>> factors(torch.tensor([1.0, 0.0, 1.0, 0.0])).tolist()
    [2.0, 0.0, 2.0, 0.0]
    """
    if bool((counts == counts[0]).all()) and counts[0] > 0:
        return torch.ones_like(counts)
    return len(counts) * counts / counts.sum()


class Selector:
    """The selection of one search or one realisation, with its tally of work."""

    def __init__(self, bench: Workbench, config: LossConfig) -> None:
        self.bench, self.config = bench, validated(config)
        self.net = NetLoss(
            bench, objective=config.objective, samples=config.samples, cache=config.cache
        )
        if config.tolerance is not None and config.measure == "accuracy" and not self.net.scores:
            raise InputError("the output is not class scores: use measure='loss' for the tolerance")
        numbers = range(len(self.net.chunks))
        self.width = -(-min(config.batch, config.samples) // self.net.replay.batch)
        self.checked = list(numbers)[: -(-config.check // self.net.replay.batch)]
        self.spared = 0  # layers of candidates that the prescreen put aside

    def whole(self) -> Score:
        """The network as it is, on the check samples."""
        return self.net.score(torch.ones(self.net.size, dtype=torch.float64), self.checked)

    def steps(self, group: Group, *, among: Tensor | None = None) -> Iterator[Step]:
        """Picks until every unit (of `among`) is in. The same seed draws the same samples and candidates.

        Departure: mini-batches are made of whole chunks of the (shuffled) calibration samples, so that what lies
        before the group is run once per chunk.
        """
        net, config, size = self.net, self.config, group.size
        generator = self.bench.generator(100 + group.index)
        counts, n = torch.zeros(size, dtype=torch.float64), 0
        allowed = torch.ones(size, dtype=torch.bool) if among is None else among
        batch = list(range(len(net.chunks)))[: self.width]
        while bool((allowed & (counts == 0)).any()):
            if config.fresh:
                batch = torch.randperm(len(net.chunks), generator=generator)[: self.width].tolist()
            again = config.replacement and n < ROUNDS * size
            drawn = torch.randperm(size, generator=generator)
            left = drawn if again else drawn[counts[drawn] == 0]
            left = left if config.candidates is None else left[: config.candidates]
            tried = [i for i in sorted(left.tolist()) if bool(allowed[i])]
            if not tried:  # none of those drawn may be picked: draw again
                continue
            short = self.shortlist(tried, counts, n, batch)
            losses = [net.score(self.gates(counts, i), batch).loss for i in short]
            best = min(range(len(short)), key=losses.__getitem__)
            counts = counts.clone()
            counts[short[best]] += 1
            n += 1
            self.spared += (len(tried) - len(short)) * len(batch) * net.depth
            yield Step(short[best], counts, factors(counts), losses[best], len(tried))

    def gates(self, counts: Tensor, pick: int) -> Tensor:
        """C a with one pick more."""
        after = counts.clone()
        after[pick] += 1
        return len(after) * after / after.sum()

    def shortlist(self, tried: list[int], counts: Tensor, n: int, batch: list[int]) -> list[int]:
        """Those of the steepest descent: to first order a step towards e_i changes L by (dL/da_i - ...) / (n + 1).

        The first pick goes all the way from nothing to one unit, where no slope says anything: all are evaluated.
        """
        keep = self.config.prescreen
        if keep is None or keep >= len(tried) or n == 0:
            return tried
        slope = self.net.gradient(len(counts) * counts / n, batch)[tried]
        chosen = torch.sort(slope, stable=True).indices[:keep]
        return [tried[k] for k in sorted(chosen.tolist())]

    def rest(self, order: list[int], counts: Tensor) -> list[int]:
        """The units not picked, by the slope of the loss alone."""
        left = [i for i in range(len(counts)) if i not in set(order)]
        if len(left) < 2:
            return left
        slope = self.net.gradient(factors(counts), self.checked)[left]
        return [left[k] for k in torch.sort(slope, stable=True).indices.tolist()]

    def within(self, now: Score, before: Score, share: float, measure: str) -> bool:
        """Whether the network is as good as before, up to a share."""
        if measure == "accuracy":
            return now.accuracy >= (1 - share) * before.accuracy
        if self.config.objective == "imitation":
            return now.loss <= before.loss + share
        return now.loss <= (1 + share) * before.loss

    def record(self) -> dict[str, float]:
        """Layer evaluations: run, and what the same search runs with every candidate put through the whole network."""
        every = self.net.whole + self.spared
        return {
            "evaluations": self.net.evaluations,
            "backward_passes": self.net.backwards,
            "layers_run": self.net.layers,
            "layers_exhaustive": every,
            "layers_saved": 1 - self.net.layers / every,
        }


def search(bench: Workbench, config: LossConfig) -> Path:
    """Order, error and harm of every group at every size; with a tolerance also the sizes (`Path.own`).

    Departure for budgets, which the paper does not know: each group is searched by itself in the dense network, the
    harm at n units is the rise of the loss with the first n picks, and the allocation across groups chooses the sizes.
    Units that would enter after the loss has come back (`full_path=False`) are ordered by the loss's slope alone.
    """
    selector = Selector(bench, config)
    one = _by_size if config.tolerance is None else _by_tolerance
    groups = in_order(bench, bench.graph.prunable)
    found: dict[str, GroupPath] = {}
    harm: dict[str, tuple[float, ...]] = {}
    chosen: dict[str, int] = {}
    for done, group in enumerate(groups):
        bench.progress("loss", done, len(groups))
        selector.net.enter(group)
        order, points, size = one(selector, group)
        found[group.name], harm[group.name] = _curve(group, order, points)
        if config.tolerance is not None:
            chosen[group.name] = size
    bench.progress("loss", len(groups), len(groups))
    return Path(
        graph=bench.graph,
        groups={g.name: found[g.name] for g in bench.graph.prunable},
        harm=harm,
        method="loss",
        config=asdict(config),
        seed=bench.seed,
        chosen=chosen,
        record=selector.record(),
    )


Points = dict[int, float]  # size → rise of the loss
Found = tuple[list[int], Points, int]  # order, rises, size


def _by_size(selector: Selector, group: Group) -> Found:
    """The group's whole path, every other group being whole."""
    config, before = selector.config, selector.whole()
    sizes = set(np.linspace(1, group.size - 1, MEASURED).round().astype(int).tolist())
    points = {0: _rise(selector, torch.zeros(group.size, dtype=torch.float64), before)}
    order: list[int] = []
    for step in selector.steps(group):
        if step.pick in order:
            continue
        order.append(step.pick)
        n = len(order)
        if n in sizes:
            now = selector.net.score(step.factors, selector.checked)
            points[n] = now.loss - before.loss
            if not config.full_path and selector.within(now, before, config.settled, "loss"):
                break
    counts = torch.zeros(group.size, dtype=torch.float64)
    counts[order] = 1
    for unit in selector.rest(order, counts):
        order.append(unit)
        counts[unit] = 1
        if len(order) in sizes:
            points[len(order)] = _rise(selector, factors(counts), before)
    return order, points, group.size


def _rise(selector: Selector, at: Tensor, before: Score) -> float:
    return selector.net.score(at, selector.checked).loss - before.loss


def _by_tolerance(selector: Selector, group: Group) -> Found:
    """Grow the group until the network is as good as before, and leave it pruned."""
    points = {0: _rise(selector, torch.zeros(group.size, dtype=torch.float64), selector.whole())}
    order, last = _grow(selector, group, points=points)
    size = len(order)
    if size < group.size:
        selector.net.fold(last.factors)
        order += selector.rest(order, last.counts)
    return order, points, size


def _grow(
    selector: Selector,
    group: Group,
    *,
    want: int | None = None,
    among: Tensor | None = None,
    points: Points | None = None,
) -> tuple[list[int], Step]:
    """Pick until `want` distinct units are in, or without `want` until the tolerance is met.

    Departure: the tolerance is tested at every pick, on the check samples. The released code tests the batch first.
    """
    config = selector.config
    share = config.tolerance or 0.0
    before = selector.whole() if want is None else None
    order: list[int] = []
    last: Step | None = None
    for last in selector.steps(group, among=among):
        if last.pick not in order:
            order.append(last.pick)
        if before is None:
            if len(order) == want:
                break
            continue
        now = selector.net.score(last.factors, selector.checked)
        if points is not None:
            points[len(order)] = now.loss - before.loss
        if selector.within(now, before, share, config.measure):
            break
    assert last is not None  # a group has at least one unit to pick
    return order, last


def _curve(group: Group, order: list[int], points: Points) -> tuple[GroupPath, tuple[float, ...]]:
    """Harm at every size: measured, straight between, never rising with size; and the same as a share of all."""
    known = {**points, group.size: 0.0}
    at = sorted(known)
    harm = np.interp(np.arange(group.size + 1), at, [known[n] for n in at])
    harm = np.maximum.accumulate(np.maximum(harm, 0.0)[::-1])[::-1]
    errors = harm / harm[0] if harm[0] > 0 else harm
    gains = errors[:-1] - errors[1:]
    path = GroupPath(group.name, tuple(order), tuple(gains.tolist()), tuple(errors.tolist()), ())
    return path, tuple(harm.tolist())


def realise(bench: Workbench, plan: Plan, config: LossConfig) -> Outcome:
    """Weights for a plan, in the original shapes: the consumers' columns times C count / n.

    A plan for a budget gives the sizes; with `reselect` the picks are made anew as the paper makes them, group after
    group from input to output, earlier ones pruned. Sizes that came from a tolerance were found that way already. With
    replacement the counts are no part of a plan, so the selection runs again among the units that it keeps.
    """
    validated(config)
    masks = plan.masks(bench.graph)
    cut = [bench.graph.groups[i] for i, mask in masks.items() if not mask.all()]
    anew = config.tolerance is None and config.reselect
    gates = Gates(bench)
    selector = Selector(bench, config) if cut and (anew or config.replacement) else None
    keep = dict(plan.keep)
    for done, group in enumerate(in_order(bench, cut)):
        bench.progress("selection", done, len(cut))
        mask = torch.from_numpy(masks[group.index])
        found = factors(mask.double())
        if selector is not None:
            selector.net.enter(group)
            want = int(mask.sum()) if config.tolerance is None else None
            order, last = _grow(selector, group, want=want, among=None if anew else mask)
            selector.net.fold(last.factors)
            found = last.factors
            keep[group.name] = tuple(sorted(order))
        gates.enter(group)
        gates.fold(found)
    bench.progress("selection", len(cut), len(cut))
    return Outcome(with_cost(replace(plan, keep=keep), bench.graph), gates.changed)
