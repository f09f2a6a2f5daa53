"""`reweight`, `uniform`, `linesearch`: forward selection where a kept unit gets one factor and nothing else moves.

What the three share: moments of the consumers' inputs become one quadratic per group (gram.py), a rule walks it, and
the factors alpha are folded into the consumers' weight columns; a bias, or the batch norm behind, takes up the change
of the mean. It is local imitation: the target is the original output on the original inputs.

Only the *set* that a plan keeps is data; the factors are worked out again from it, so that a plan that was read from a
file, or made by hand, gives the same bits.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sprig.core.collect import collect
from sprig.core.norms import marked
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.sensitivity import Trial, interpolate, measure
from sprig.core.stats import Moments
from sprig.core.types import Group, GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.evidence import centred, problems, unit_columns
from sprig.methods.greedy.gram import AlphaPath, Gram, gram
from sprig.methods.greedy.linesearch import linesearch
from sprig.methods.greedy.reweight import reweight
from sprig.methods.greedy.uniform import constants, picks_within, uniform


@dataclass(frozen=True)
class ReweightConfig:
    """Knobs of `reweight`.

    classic: pick by correlation with what is left (matching pursuit) instead of by the exact fall of the error.
    rows_per_column, least_rows: data wanted per consumer. trials: fractions of each group whose harm to the output is
    measured; trial_work: multiply-adds spent on that.
    """

    classic: bool = False
    rows_per_column: float = 10.0
    least_rows: int = 16384
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11


@dataclass(frozen=True)
class UniformConfig:
    """Knobs of `uniform`.

    replacement: units may be picked again; False scales all that stay alike. atoms: "mean" as published, "norm" makes
    all atoms equally long, which matches outputs better. The rest as in `ReweightConfig`.
    """

    replacement: bool = True
    atoms: Literal["mean", "norm"] = "mean"
    rows_per_column: float = 10.0
    least_rows: int = 16384
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11


@dataclass(frozen=True)
class LinesearchConfig:
    """Knobs of `linesearch`.

    shrink: a step may also take weight from a unit, or all of it. atoms: as in `UniformConfig`. The rest as in
    `ReweightConfig`.
    """

    shrink: bool = False
    atoms: Literal["mean", "norm"] = "norm"
    rows_per_column: float = 10.0
    least_rows: int = 16384
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11


Config: TypeAlias = ReweightConfig | UniformConfig | LinesearchConfig


def name_of(config: Config) -> str:
    """The method that a config is of."""
    return type(config).__name__.removesuffix("Config").lower()


def walk(g: Gram, config: Config, *, among: Tensor | None = None) -> AlphaPath:
    """The rule's path, over all units or `among` some."""
    if isinstance(config, ReweightConfig):
        return reweight(g, classic=config.classic, among=among)
    if isinstance(config, UniformConfig):
        return uniform(g, replacement=config.replacement, kind=config.atoms, among=among)
    return linesearch(g, shrink=config.shrink, kind=config.atoms, among=among)


def factors(g: Gram, kept: Sequence[int], config: Config) -> Tensor:
    """(size,) the factors that the rule gives to the units `kept`, 0 outside; all 1 where every unit stays.

    The rule walks again among these units only, and the best factors on its way are taken. For the first n picks of
    a path that is at least as good as the path was with n units.
    """
    if len(set(kept)) == g.size:
        return torch.ones(g.size, dtype=torch.float64)
    among = torch.zeros(g.size, dtype=torch.bool)
    among[list(kept)] = True
    path = walk(g, config, among=among)
    errors = path.errors[1 : len(kept) + 1]
    return path.alpha(1 + min(range(len(errors)), key=errors.__getitem__))


def search(bench: Workbench, config: Config) -> Path:
    """Order, error and harm of every group at every size."""
    halves = _moments(bench, [i for g in bench.graph.prunable for i in g.consumers], config)
    first = {node: a for node, (a, _) in halves.items()}
    whole = {node: a + b for node, (a, b) in halves.items()}
    groups = bench.graph.prunable
    found: dict[str, GroupPath] = {}
    for done, group in enumerate(groups):
        bench.progress("selection", done, len(groups))
        found[group.name] = _group_path(group, walk(_gram(bench, group, whole), config))
    bench.progress("selection", len(groups), len(groups))
    return Path(
        graph=bench.graph,
        groups=found,
        harm=_harm(bench, found, first, config),
        method=name_of(config),
        config=asdict(config),
        seed=bench.seed,
    )


def _moments(
    bench: Workbench, consumers: Sequence[int], config: Config
) -> dict[str, tuple[Moments, Moments]]:
    wanted = [bench.graph.consumers[i] for i in sorted(set(consumers))]
    return collect(bench, wanted, per_column=config.rows_per_column, least=config.least_rows)


def _gram(bench: Workbench, group: Group, moments: Mapping[str, Moments]) -> Gram:
    return gram(problems(bench, group, moments), group.size)


def _group_path(group: Group, path: AlphaPath) -> GroupPath:
    # A larger set may be given any smaller set's factors, so the best so far counts. A whole group is left alone.
    errors = np.append(np.minimum.accumulate(path.errors[1 : group.size]), 0.0)
    errors = np.concatenate([[max(path.errors[0], errors[0])], errors])
    gains = errors[:-1] - errors[1:]
    return GroupPath(group.name, path.order, tuple(gains.tolist()), tuple(errors.tolist()), ())


def _harm(
    bench: Workbench,
    found: Mapping[str, GroupPath],
    moments: Mapping[str, Moments],
    config: Config,
) -> dict[str, tuple[float, ...]]:
    """Measured at a few sizes with the factors of one half of the data, on the other half."""
    groups = bench.graph.prunable
    trials = [
        Trial(g.index, n)
        for g in groups
        for n in sorted({max(1, min(g.size - 1, round(f * g.size))) for f in config.trials})
    ]

    def weights_for(trial: Trial) -> dict[str, Tensor]:
        group = bench.graph.groups[trial.group]
        picks = found[group.name].order[: trial.kept]
        alpha = factors(_gram(bench, group, moments), picks, config)
        keep = np.zeros(group.size, dtype=bool)
        keep[list(picks)] = True
        marks = marked(bench.weights, {trial.group: keep}, bench.graph)
        return folded(bench, {trial.group: alpha}, moments) | marks

    results = measure(bench, trials, weights_for, work=config.trial_work)
    harm = {}
    for group in groups:
        mine = {t.kept: h for t, h in results.items() if t.group == group.index}
        harm[group.name] = interpolate(group, found[group.name].errors, mine)
    return harm


def folded(
    bench: Workbench, alphas: Mapping[int, Tensor], moments: Mapping[str, Moments]
) -> dict[str, Tensor]:
    """Consumers' tensors, in the original shapes, with the units of some groups scaled.

    alphas: by group index. A consumer of several groups has each column scaled by its own group's factor. Where a
    bias or a batch norm's mean is shared by several calls, the mean of their corrections is taken.
    """
    out: dict[str, Tensor] = {}
    lost: dict[str, list[Tensor]] = defaultdict(list)
    for consumer in bench.graph.consumers:
        if not set(consumer.groups) & set(alphas):
            continue
        weight = bench.weights[consumer.weight]
        old = consumer.matrix(bench.weights).detach().flatten(1).double()
        scale = torch.ones(old.shape[1], dtype=torch.float64)
        for group in consumer.groups:
            if group in alphas:
                unit = unit_columns(consumer, group)
                scale = torch.where(unit < 0, scale, alphas[group][unit] * scale)
        scale = scale.to(old.device)
        out[consumer.weight] = consumer.stored(old * scale, weight)
        if centred(bench, consumer):
            mean = moments[consumer.node].mean.to(old)
            missing = old @ ((1 - scale) * mean)
            if consumer.bias is not None:
                lost[consumer.bias].append(missing)
            else:
                lost[f"{consumer.norm}.running_mean"].append(-missing)
    for name, each in lost.items():
        start = bench.weights[name]
        out[name] = (start.double() + torch.stack(each).mean(0)).to(start)
    return out


def realise(bench: Workbench, plan: Plan, config: Config) -> Outcome:
    """Weights for a plan, in the original shapes. Groups that the plan keeps whole are left alone."""
    plan = with_cost(replace(plan), bench.graph)
    moments = _of_cut(bench, plan, config)
    if not moments:
        return Outcome(plan, {})
    cut = _cut(bench, plan)
    alphas: dict[int, Tensor] = {}
    rated: dict[str, dict[str, float]] = {}
    for done, group in enumerate(cut):
        bench.progress("factors", done, len(cut))
        found = _gram(bench, group, moments)
        alphas[group.index] = factors(found, plan.keep[group.name], config)
        rated |= _rated(found, group, plan.keep[group.name], alphas[group.index], config)
    bench.progress("factors", len(cut), len(cut))
    return Outcome(plan, folded(bench, alphas, moments), {"rates": rated} if rated else {})


def rates(bench: Workbench, plan: Plan, config: Config) -> dict[str, dict[str, float]]:
    """What theory promises of each set that the published rule chose: see `Constants`. Empty for other rules."""
    moments, out = _of_cut(bench, plan, config), dict[str, dict[str, float]]()
    for group in _cut(bench, plan):
        found, kept = _gram(bench, group, moments), plan.keep[group.name]
        out |= _rated(found, group, kept, factors(found, kept, config), config)
    return out


def _cut(bench: Workbench, plan: Plan) -> list[Group]:
    masks = plan.masks(bench.graph)
    return [bench.graph.groups[i] for i, mask in masks.items() if not mask.all()]


def _of_cut(bench: Workbench, plan: Plan, config: Config) -> dict[str, Moments]:
    """Moments of the consumers of what a plan cuts."""
    needed = [i for g in _cut(bench, plan) for i in g.consumers]
    halves = _moments(bench, needed, config) if needed else {}
    return {node: a + b for node, (a, b) in halves.items()}


def _rated(
    g: Gram, group: Group, kept: Sequence[int], alpha: Tensor, config: Config
) -> dict[str, dict[str, float]]:
    """The bounds for one group; none where the set is not the rule's own, or the target not in the hull."""
    if not isinstance(config, UniformConfig) or not config.replacement or not len(kept):
        return {}
    known = constants(g, kind=config.atoms)
    picks, chosen, imitated = picks_within(g, len(set(kept)), kind=config.atoms)
    if not known.inside or chosen != set(kept):
        return {}
    row = {
        "picks": picks, "error": g.error(alpha), "imitation": imitated, "farthest": known.farthest,
        "radius": known.radius, "first": known.first(picks), "second": min(known.second(picks), 1e300),
    }  # fmt: skip
    return {group.name: {name: float(f"{value:.9g}") for name, value in row.items()}}
