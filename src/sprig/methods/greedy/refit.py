"""`refit`, the default method: forward selection with exact refit of the consumers, for every budget at once.

Search: one pass of moments, a pursuit per group, a few measured trials per group. Realise: the network is walked in
data-flow order; each consumer is solved anew so that on the *pruned* inputs it gives the *original* output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.sensitivity import Trial, interpolate, measure
from sprig.core.stats import Moments
from sprig.core.types import Group, GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.bounds import floor, submodularity_ratio
from sprig.methods.greedy.evidence import Evidence, evidence, problems, write
from sprig.methods.greedy.problem import solve
from sprig.methods.greedy.pursuit import path as pursue
from sprig.methods.greedy.sequential import Sequential

RATIO_COLUMNS = 1200  # consumers wider than this are left out of the submodularity ratios


@dataclass(frozen=True)
class RefitConfig:
    """Knobs of `refit`; the defaults are meant to be left alone.

    ridge: pull towards the original weights, as a share of the mean input power; None: judged per consumer on the half
    of the data that the weights were not fitted on. rows_per_column, least_rows: data wanted per consumer.
    trials: fractions of each group whose harm to the output is measured; trial_work: multiply-adds spent on that.
    reselect: pick anew on the inputs as they are after pruning, where a group has one consumer.
    sequential_rows: rows of data per consumer in the final pass. streams: a branch that is added to a stream also makes
    up for what the stream has lost. ratio_pairs: sets drawn per group for the submodularity ratio; 0: none.
    """

    ridge: float | None = None
    rows_per_column: float = 10.0
    least_rows: int = 16384
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11
    reselect: bool = True
    sequential_rows: int = 60000
    streams: bool = True
    ratio_pairs: int = 64


def search(bench: Workbench, config: RefitConfig) -> Path:
    """Order, error and harm of every group at every size."""
    groups = bench.graph.prunable
    known = evidence_of(bench, config)
    found: dict[str, GroupPath] = {}
    for done, group in enumerate(groups):
        bench.progress("pursuit", done, len(groups))
        found[group.name] = group_path(bench, group, known.whole)
    bench.progress("pursuit", len(groups), len(groups))
    harm = measured_harm(bench, groups, found, known, config)
    return Path(
        graph=bench.graph, groups=found, harm=harm, method="refit", config=dict(config.__dict__), seed=bench.seed
    )


def evidence_of(bench: Workbench, config: RefitConfig) -> Evidence:
    """The moments, collected once per workbench."""
    key = f"evidence {config.ridge} {config.rows_per_column} {config.least_rows}"
    if key not in bench.scratch:
        bench.scratch[key] = evidence(
            bench, ridge=config.ridge, per_column=config.rows_per_column, least=config.least_rows
        )
    found: Evidence = bench.scratch[key]
    return found


def group_path(bench: Workbench, group: Group, moments: Mapping[str, Moments]) -> GroupPath:
    """The order of one group, with the error at every size and a bound for any choice of that size."""
    found = problems(bench, group, moments)
    trail = pursue(found, group.size, ridge=0.0)
    bound = floor(found, group.size, ridge=0.0, removal=False)
    order = list(trail.picks)
    values = list(trail.values)
    if len(order) < group.size:  # what is left adds nothing: lowest numbers first
        order += [u for u in range(group.size) if u not in set(order)]
        values += [values[-1]] * (group.size + 1 - len(values))
    gains = [a - b for a, b in zip(values, values[1:], strict=False)]
    return GroupPath(
        group=group.name,
        order=tuple(order),
        gains=tuple(gains),
        errors=tuple(values),
        floor=bound,
    )


def measured_harm(
    bench: Workbench,
    groups: Sequence[Group],
    found: Mapping[str, GroupPath],
    known: Evidence,
    config: RefitConfig,
) -> dict[str, tuple[float, ...]]:
    """Harm at every size: measured at a few, on samples that the trial weights were not fitted on."""
    trials = []
    for group in groups:
        sizes = sorted({max(1, min(group.size - 1, round(f * group.size))) for f in config.trials})
        trials += [Trial(group.index, n) for n in sizes]

    def weights_for(trial: Trial) -> dict[str, Tensor]:
        group = bench.graph.groups[trial.group]
        picks = found[group.name].order[: trial.kept]
        return refitted(bench, group, picks, known.half)

    results = measure(bench, trials, weights_for, work=config.trial_work)
    harm = {}
    for group in groups:
        mine = {t.kept: h for t, h in results.items() if t.group == group.index}
        harm[group.name] = interpolate(group, found[group.name].errors, mine)
    return harm


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


def realise(bench: Workbench, plan: Plan, config: RefitConfig) -> Outcome:
    """Weights for a plan, in the original shapes; with the submodularity ratio of every returned set."""
    with torch.no_grad():
        outcome = Sequential(
            bench,
            plan,
            ridge=config.ridge,
            rows=config.sequential_rows,
            reselect=config.reselect,
            streams=config.streams,
        ).run()
        notes = {"submodularity": ratios(bench, outcome.plan, config)} if config.ratio_pairs else {}
    bench.scratch.clear()  # the moments are large
    return replace(outcome, notes=notes)


def ratios(bench: Workbench, plan: Plan, config: RefitConfig) -> dict[str, dict[str, float]]:
    """min over sets of (sum of single gains) / (joint gain), from the picks of the plan; sampled where it is large."""
    out = {}
    generator = bench.generator(3)
    for group in bench.graph.prunable:
        kept = plan.keep.get(group.name, ())
        columns = max(len(bench.graph.consumers[i].axis) * bench.graph.consumers[i].block for i in group.consumers)
        if len(kept) in (0, group.size) or columns > RATIO_COLUMNS:
            continue
        found = problems(bench, group, evidence_of(bench, config).whole)
        ratio = submodularity_ratio(
            found, kept, size=group.size, ridge=0.0, most=config.ratio_pairs, generator=generator
        )
        out[group.name] = {"ratio": ratio.value, "exact": float(ratio.exact), "pairs": float(ratio.pairs)}
    return out
