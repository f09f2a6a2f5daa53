"""How much a group's error hurts the network's output: measured, by trying it on calibration data.

Each trial writes other weights into the consumers of one group, runs only the layers behind the first of them, and
compares the outputs with the dense network's. Between trials, harm is interpolated along the group's own error curve.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprig.core.batches import map_tensors
from sprig.core.chunks import Chunk, Kept
from sprig.core.deal import judges
from sprig.core.harm import harm, looks_like_scores
from sprig.core.norms import readers
from sprig.core.padding import Masks, blank
from sprig.core.ranks import Ranks
from sprig.core.replay import Live, Replay
from sprig.core.types import Group
from sprig.core.workbench import Workbench

Override = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """One group at one size."""

    group: int
    kept: int


def measure(
    bench: Workbench,
    trials: Sequence[Trial],
    weights_for: Callable[[Trial], Override],
    *,
    work: float,
    most: int = 256,
    least: int = 4,
) -> dict[Trial, float]:
    """Mean harm of each trial over as many calibration samples as `work` multiply-adds allow.

    Groups are visited in data-flow order, so the prefix before each is run once per chunk and kept.
    """
    numbers = [n for n in range(bench.pieces) if judges(n)] or list(range(bench.pieces))
    unseen = [c for c in bench.chunks if c.number in numbers]  # by the trial weights
    replay, ranks = bench.replay, bench.ranks
    first: dict[int, int] = {}
    for trial in trials:
        first[trial.group] = min(replay.index[n] for n in readers(bench.graph, trial.group))
    order = sorted(range(len(trials)), key=lambda i: first[trials[i].group])
    behind = {g: _share_behind(bench, g, at) for g, at in first.items()}
    per_sample = bench.macs * (1 + sum(behind[t.group] for t in trials)) or 1
    samples = int(np.clip(work / per_sample, least, most))
    numbers = numbers[: -(-samples // replay.batch)]
    unseen = [c for c in unseen if c.number in numbers]
    counts = torch.zeros(len(numbers), dtype=torch.float64)
    for chunk in unseen:
        counts[numbers.index(chunk.number)] = min(samples, chunk.rows)
    few = samples < replay.batch
    if few:  # a large network: a replay of just so many samples; the processes share the trials
        unseen = _given([_head(c, min(samples, c.rows)) for c in unseen], ranks)
        replay = Replay(
            bench.model, unseen[0].args, unseen[0].kwargs, check=False,
            channels_last=bench.replay.channels_last,
        )  # fmt: skip
    lives: list[Live] = []
    dense: list[list[Tensor]] = []
    masks: list[Masks] = []
    for chunk in unseen:
        live = replay.start(chunk.args, chunk.kwargs, chunk.rows)
        masks.append(bench.masks(chunk))
        dense.append(blank(masks[-1], replay.finish(live.fork(), bench.weights)))
        lives.append(live)
    scores = bool(dense) and not bench.inner and looks_like_scores(dense[0], named=replay.logits)
    lost = torch.zeros(len(trials), len(numbers), dtype=torch.float64)  # each from one process
    for done, i in enumerate(order):
        trial = trials[i]
        bench.progress("sensitivity", done, len(trials))
        if few and not ranks.mine(done):
            continue
        weights = {**bench.weights, **weights_for(trial)}
        for j in range(len(lives)):
            lives[j] = replay.advance(lives[j], bench.weights, first[trial.group])
            found = replay.finish(lives[j].fork(), weights)
            here = harm(dense[j], blank(masks[j], found), scores=scores).sum()
            lost[i, numbers.index(unseen[j].number)] = here
    bench.progress("sensitivity", len(trials), len(trials))
    seen = float(ranks.add_(counts).sum())
    rows = ranks.add_(lost).tolist()
    return {trial: sum(row) / seen for trial, row in zip(trials, rows, strict=True)}


def _given(chunks: list[Chunk], ranks: Ranks) -> list[Chunk]:
    """The one chunk that one process has, in all."""
    sent: list[Any] = [[c.args, dict(c.kwargs), c.rows, c.number] for c in chunks]
    return [
        Kept(args, kwargs, rows, number=number)
        for part in ranks.gather(sent)
        for args, kwargs, rows, number in part
    ]


def _head(chunk: Chunk, rows: int) -> Chunk:
    """The first rows of a chunk, as a chunk of that size."""

    def cut(t: Tensor) -> Tensor:
        return t[:rows] if t.dim() and t.shape[0] >= rows else t

    args, kwargs = map_tensors(chunk.args, cut), map_tensors(dict(chunk.kwargs), cut)
    return Kept(args, kwargs, rows, number=chunk.number)


def _share_behind(bench: Workbench, group: int, at: int) -> float:
    """Share of the MACs that lies behind a node."""
    index = bench.replay.index
    terms = [t for t in bench.graph.terms if t.unit == "macs"]
    macs = [(t.where, t.coefficient * float(np.prod([len(a) for a in t.axes]))) for t in terms]
    total = sum(m for _, m in macs) or 1.0
    return sum(m for where, m in macs if index.get(where, 0) >= at) / total


def interpolate(
    group: Group, errors: Sequence[float], measured: Mapping[int, float], floor: float = 1e-12
) -> tuple[float, ...]:
    """Harm at every size from the harm at a few: linear in log error against log harm, through the measured points.

    Beyond the measured errors the nearest slope goes on; at the error of the whole group, harm is 0.

    >>> g = Group(0, "g", 4, (), (), (), 4)
    >>> [round(h, 3) for h in interpolate(g, [1.0, 0.5, 0.25, 0.1, 0.0], {2: 0.5, 1: 1.0})]
    [2.0, 1.0, 0.5, 0.2, 0.0]
    """
    rest = errors[group.size]  # what ridge leaves when everything stays
    excess = np.maximum(np.asarray(errors, dtype=float) - rest, 0.0)
    points = sorted((excess[n], max(h, floor)) for n, h in measured.items() if excess[n] > floor)
    if not points:
        return tuple(float(e) for e in excess)
    x = np.log([p[0] for p in points])
    y = np.maximum.accumulate(np.log([p[1] for p in points]))
    logs = np.log(np.maximum(excess, floor))
    inside = np.interp(logs, x, y)
    slope_low = 1.0
    slope_high = (
        float(np.clip((y[-1] - y[-2]) / max(x[-1] - x[-2], 1e-9), 0.5, 2.0)) if len(x) > 1 else 1.0
    )
    result = np.where(logs < x[0], y[0] + slope_low * (logs - x[0]), inside)
    result = np.where(logs > x[-1], y[-1] + slope_high * (logs - x[-1]), result)
    values = np.where(excess > floor, np.exp(result), 0.0)
    return tuple(float(v) for v in np.maximum.accumulate(values[::-1])[::-1])
