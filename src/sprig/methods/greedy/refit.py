"""`refit`, the default method: forward selection with exact refit of the consumers, for every budget at once.

Search: one pass of moments, a pursuit per group, a few measured trials per group. Realise: the network is walked in
data-flow order; each consumer is solved anew so that on the *pruned* inputs it gives the *original* output.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprig.core.collect import WIDE, sampling
from sprig.core.norms import marked, normed
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.sensitivity import Trial, interpolate, measure
from sprig.core.stats import Moments
from sprig.core.types import Group, GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.bounds import floor
from sprig.methods.greedy.evidence import Evidence, evidence, problems, write
from sprig.methods.greedy.metric import ready
from sprig.methods.greedy.problem import solve
from sprig.methods.greedy.promises import promised
from sprig.methods.greedy.sequential import Sequential
from sprig.methods.greedy.shelf import Chooser

TWIN_SAMPLES = 1000  # below which a twin is worth its time
FEW = 8  # samples per trial below which fewer trials are better
REMOVAL_COLUMNS = 2048  # from here on the lower bounds do without the one from removal
RATIO_COLUMNS = 1200  # consumers wider than this are left out of the submodularity ratios


@dataclass(frozen=True)
class RefitConfig:
    """Knobs of `refit`; the defaults are meant to be left alone.

    ridge: pull towards the original weights, as a share of the mean input power; None: judged per consumer on the
    quarter of the data that the weights were not fitted on. rows_per_column, least_rows: data wanted per consumer.
    trials: fractions of each group whose harm to the output is measured; trial_work: multiply-adds spent on that; no
    trials: the share of its readers' outputs that a group loses is taken for harm.
    asymmetric: consumers are fitted to the original outputs; else to what they make of their pruned inputs themselves,
    so that nothing is made up for.
    reselect: pick anew on the inputs as they are after pruning, where a group has one consumer.
    sequential_rows: rows of data per consumer in the final pass. streams: a branch that is added to a stream also makes
    up for what the stream has lost. ratio_pairs: sets drawn per group for the submodularity ratio; 0: none.
    columns_at_once: a group whose consumers have more columns than this is picked a few units at a time; 0: never.
    rule: by which units are picked: exact, stochastic, backward, swap, distributed or beam, see shelf.py; delta, parts,
    width: settings of stochastic, distributed and beam.
    swaps: exchanges tried per group once its size is known (drop the cheapest, add the best, keep if better).
    metric: how errors of a layer's outputs count when units are chosen: norm, identity, fisher or kfac, see metric.py.
    rounds: of letting errors go that a ReLU or the like hides from everything behind it; 0: none.
    twin: in the final pass a second network, fitted without the inputs that judge, says how strong each ridge is to be;
    None: where there are fewer than a thousand samples, since it costs half as much again and more data need it less.
    """

    ridge: float | None = None
    rows_per_column: float = 2.0
    least_rows: int = 8192
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11
    asymmetric: bool = True
    reselect: bool = True
    sequential_rows: int = 60000
    streams: bool = True
    ratio_pairs: int = 24
    columns_at_once: int = 1024
    rule: str = "exact"
    delta: float = 0.1
    parts: int = 2
    width: int = 4
    swaps: int = 0
    metric: str = "norm"
    rounds: int = 8
    twin: bool | None = None


def search(bench: Workbench, config: RefitConfig) -> Path:
    """Order, error and harm of every group at every size."""
    groups = bench.graph.prunable
    chooser(bench, config)  # an unknown rule is refused before anything is measured
    known = evidence_of(bench, config)
    ready(bench, config.metric)
    fractions = affordable(bench, config)
    over = normed(bench.graph)

    def pursued(group: Group) -> GroupPath:
        bench.progress("pursuit", groups.index(group), len(groups))
        return group_path(bench, group, known.of(group), config)

    found = {trail.group: trail for trail in bench.ranks.each(groups, pursued)}
    bench.progress("pursuit", len(groups), len(groups))

    def tried(group: Group) -> dict[int, dict[str, Tensor]]:
        part, out = known.of(group, whole=False), {}
        for kept in sorted({max(1, min(group.size - 1, round(f * group.size))) for f in fractions}):
            picks = found[group.name].order[:kept]
            solved = (
                walked(bench, group, picks, config)
                if group in streams
                else refitted(bench, group, picks, part)
            )
            out[kept] = solved | marks(bench, group, picks)
        return out

    streams = [g for g in groups if g.index in over and len(g.consumers) > 1]
    others = [g for g in groups if g not in streams]
    # a walk through the network takes all processes, the other trials are one process's each
    made = [*bench.ranks.each(others, tried), *map(tried, streams)]
    weights = {
        Trial(group.index, kept): solved
        for group, sizes in zip([*others, *streams], made, strict=True)
        for kept, solved in sizes.items()
    }
    results = measure(bench, list(weights), weights.__getitem__, work=config.trial_work)
    harm = {}
    for group in groups:
        mine = {t.kept: h for t, h in results.items() if t.group == group.index}
        errors = found[group.name].errors
        harm[group.name] = interpolate(group, errors, mine) if fractions else shares(errors)
    return Path(
        graph=bench.graph,
        groups=found,
        harm=harm,
        method="refit",
        config=asdict(config),
        seed=bench.seed,
        record=sampling(bench),
    )


def chooser(bench: Workbench, config: RefitConfig) -> Chooser:
    """The rule that the settings ask for."""
    return Chooser(config.rule, config.delta, config.parts, config.width, config.swaps, bench.seed)


def affordable(bench: Workbench, config: RefitConfig) -> tuple[float, ...]:
    """The fractions to try: all that are wanted, or one in the middle where samples would get too few."""
    runs = (
        0.5 * len(bench.graph.prunable) * len(config.trials)
    )  # half of the network lies behind a group
    if not config.trials or config.trial_work / max(bench.macs * (1 + runs), 1) >= FEW:
        return config.trials
    return (sum(config.trials) / len(config.trials),)


def shares(errors: Sequence[float]) -> tuple[float, ...]:
    """Errors at every size as shares of the error with nothing kept.

    >>> shares([3.0, 2.0, 1.0])
    (1.0, 0.5, 0.0)
    """
    excess = [max(e - errors[-1], 0.0) for e in errors]
    most = max(excess) or 1.0
    return tuple(e / most for e in excess)


def evidence_of(bench: Workbench, config: RefitConfig) -> Evidence:
    """The moments, collected once per workbench."""
    key = f"evidence {config.ridge} {config.rows_per_column} {config.least_rows}"
    if key not in bench.scratch:
        bench.scratch[key] = evidence(
            bench, ridge=config.ridge, per_column=config.rows_per_column, least=config.least_rows
        )
    found: Evidence = bench.scratch[key]
    return found


def group_path(
    bench: Workbench, group: Group, moments: Mapping[str, Moments], config: RefitConfig
) -> GroupPath:
    """The order of one group, with the error at every size."""
    found = problems(bench, group, moments, metric=config.metric)
    widest = max(len(p.columns) for p in found)
    dtype = torch.float32 if widest >= WIDE else torch.float64
    columns = sum(len(p.columns) for p in found)
    crowd = columns / config.columns_at_once if config.columns_at_once else 0.0
    together = math.ceil(crowd**1.5) if crowd > 1 else 1  # a sweep costs columns squared
    trail = chooser(bench, config).walk(
        found, group.size, salt=group.index, dtype=dtype, together=together
    )
    order = list(trail.picks)
    values = list(trail.values)
    if len(order) < group.size:  # what is left adds nothing: lowest numbers first
        order += [u for u in range(group.size) if u not in set(order)]
        values += [values[-1]] * (group.size + 1 - len(values))
    gains = [a - b for a, b in pairwise(values)]
    return GroupPath(
        group=group.name,
        order=tuple(order),
        gains=tuple(gains),
        errors=tuple(values),
        floor=(),
    )


def refitted(
    bench: Workbench,
    group: Group,
    picks: Sequence[int],
    moments: Mapping[str, Moments],
) -> dict[str, Tensor]:
    """Weights of the group's consumers, solved for these picks, in the original shapes."""
    out: dict[str, Tensor] = {}
    kept = torch.zeros(group.size + 1, dtype=torch.bool)
    kept[list(picks)] = True
    kept[-1] = True
    for problem, i in zip(problems(bench, group, moments), group.consumers, strict=True):
        consumer = bench.graph.consumers[i]
        solution = solve(problem, kept[problem.columns], ridge=0.0)
        write(bench.weights, out, consumer, solution.weight, solution.bias, own=True)
    return out


def walked(
    bench: Workbench, group: Group, picks: Sequence[int], config: RefitConfig
) -> dict[str, Tensor]:
    """The same for a stream that norms are taken over: on the inputs as they are with norms over these picks."""
    keep = {group.name: tuple(sorted(picks))}
    plan = Plan(keep=keep, sizes={group.name: group.size}, graph=bench.graph.fingerprint)
    found = Sequential(
        bench, plan, ridge=config.ridge, rows=config.least_rows, reselect=False,
        streams=config.streams, only=frozenset(group.consumers),
    ).run()  # fmt: skip
    return dict(found.weights)


def marks(bench: Workbench, group: Group, picks: Sequence[int]) -> dict[str, Tensor]:
    """Gains of the norms over a group, marked so that they are taken over these picks."""
    keep = np.zeros(group.size, dtype=bool)
    keep[list(picks)] = True
    return marked(bench.weights, {group.index: keep}, bench.graph)


def realise(bench: Workbench, plan: Plan, config: RefitConfig) -> Outcome:
    """Weights for a plan, in the original shapes; with the submodularity ratio of every returned set."""
    ready(bench, config.metric)
    with torch.no_grad():
        if chooser(bench, config).waits:
            plan = exchanged(bench, plan, config)
        outcome = Sequential(
            bench,
            plan,
            chooser=chooser(bench, config),
            rounds=config.rounds,
            metric=config.metric,
            ridge=config.ridge,
            rows=config.sequential_rows,
            reselect=config.reselect,
            streams=config.streams,
            asymmetric=config.asymmetric,
            twin=bench.samples < TWIN_SAMPLES if config.twin is None else config.twin,
        ).run()
        notes = {}
        if config.ratio_pairs:
            evidence_of(bench, config)  # by all processes, where a resumed run has none yet
            stated = bench.ranks.lead(lambda: ratios(bench, outcome.plan, config))
            notes = {"submodularity": stated}
    bench.scratch.clear()  # the moments are large
    return replace(outcome, notes=notes)


def exchanged(bench: Workbench, plan: Plan, config: RefitConfig) -> Plan:
    """The plan with units chosen by a rule that waits for sizes, in groups that several consumers read; the others are
    picked anew later on."""
    known, keep, rule = evidence_of(bench, config), dict(plan.keep), chooser(bench, config)
    for group in bench.graph.prunable:
        picks = plan.keep.get(group.name, ())
        several = len(group.consumers) > 1 or group.index in normed(bench.graph)
        if 0 < len(picks) < group.size and (several or not config.reselect):
            found = problems(bench, group, known.of(group), metric=config.metric)
            if rule.rule in ("distributed", "beam"):
                best = rule.choose(found, len(picks), size=group.size, salt=group.index)
            else:
                best = rule.exchanged(found, picks, size=group.size)
            keep[group.name] = tuple(sorted(best)) if len(best) == len(picks) else picks
    return with_cost(replace(plan, keep=keep), bench.graph)


def ratios(bench: Workbench, plan: Plan, config: RefitConfig) -> dict[str, dict[str, Any]]:
    """How near to diminishing returns each group is, and what is known of the returned sets; see `promises.py`."""
    out = {}
    generator, rule = bench.generator(3), chooser(bench, config)
    for group in bench.graph.prunable:
        kept = plan.keep.get(group.name, ())
        columns = max(
            len(bench.graph.consumers[i].axis) * bench.graph.consumers[i].block
            for i in group.consumers
        )
        if len(kept) in (0, group.size) or columns > RATIO_COLUMNS:
            continue
        found = problems(bench, group, evidence_of(bench, config).of(group), metric=config.metric)
        out[group.name] = promised(
            found,
            kept,
            size=group.size,
            pairs=config.ratio_pairs,
            chooser=rule,
            generator=generator,
        )
    return out


def floors(bench: Workbench, path: Path, config: RefitConfig) -> Path:
    """The path with a lower bound, at every size, on the error of *any* choice of that size."""
    known, groups = evidence_of(bench, config), bench.graph.prunable
    ready(bench, config.metric)

    def bounded(group: Group) -> GroupPath:
        bench.progress("lower bounds", groups.index(group), len(groups))
        found = problems(bench, group, known.of(group), metric=config.metric)
        bound = floor(
            found,
            group.size,
            ridge=0.0,
            removal=max(len(p.columns) for p in found) < REMOVAL_COLUMNS,
        )
        return replace(path.groups[group.name], floor=bound)

    return replace(path, groups={p.group: p for p in bench.ranks.each(groups, bounded)})
