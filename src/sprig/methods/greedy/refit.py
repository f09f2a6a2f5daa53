"""`refit`, the default method: forward selection with exact refit of the consumers, for every budget at once.

Search: one pass of moments, a pursuit per group, a few measured trials per group. Realise: the network is walked in
data-flow order; each consumer is solved anew so that on the *pruned* inputs it gives the *original* output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprig.core.collect import collect, consumer_rows, live_rows
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.replay import Live
from sprig.core.sensitivity import Trial, interpolate, measure
from sprig.core.stats import Accumulator, Moments, targets_at
from sprig.core.types import Consumer, Group, GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.bounds import floor
from sprig.methods.greedy.problem import ConsumerProblem, solve
from sprig.methods.greedy.pursuit import path as pursue


RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
AMPLE = 50.0  # rows per column beyond which the smallest sensible ridge needs no judging


@dataclass(frozen=True)
class RefitConfig:
    """Knobs of `refit`; the defaults are meant to be left alone.

    ridge: pull towards the original weights, as a share of the mean input power; None: judged per consumer on the half
    of the data that the weights were not fitted on. rows_per_column, least_rows: data wanted per consumer.
    trials: fractions of each group whose harm to the output is measured; trial_work: multiply-adds spent on that.
    reselect: pick anew on the inputs as they are after pruning, where a group has one consumer.
    sequential_rows: rows of data per consumer in the final pass.
    """

    ridge: float | None = None
    rows_per_column: float = 10.0
    least_rows: int = 16384
    trials: tuple[float, ...] = (0.7, 0.4)
    trial_work: float = 6e11
    reselect: bool = True
    sequential_rows: int = 60000


def unit_columns(consumer: Consumer, group: int) -> Tensor:
    """(D,) unit of the group that each weight column belongs to, -1 for columns of others."""
    units = np.where(consumer.axis.group == group, consumer.axis.unit, -1)
    return torch.from_numpy(np.repeat(units, consumer.block))


def centred(bench: Workbench, consumer: Consumer) -> bool:
    """Whether a bias or the batch norm behind absorbs a mean."""
    return consumer.bias is not None or consumer.norm is not None


def problems(
    bench: Workbench, group: Group, moments: Mapping[str, Moments], *, own: bool = True
) -> list[ConsumerProblem]:
    """The group's consumers, each with the same say."""
    out = []
    for i in group.consumers:
        consumer = bench.graph.consumers[i]
        problem = ConsumerProblem(
            moments[consumer.node],
            unit_columns(consumer, group.index),
            own=bench.weights[consumer.weight] if own else None,
            centred=centred(bench, consumer),
        )
        power = problem_power(problem)
        out.append(replace(problem, scale=1.0 / power if power > 0 else 1.0))
    return out


def problem_power(problem: ConsumerProblem) -> float:
    _, _, power = problem.targeted.system(centred=problem.centred)
    return float(power.sum())


def anchored(moments: Moments, ridge: float, weight: Tensor) -> Moments:
    """Moments with rows added that pull the solution towards `weight`.

    Least squares on them minimises |Y - W X|^2 / n + lambda |W - W0|^2 over *all* columns, W being zero where a channel
    leaves: with much data that is the plain refit, with little it stays near the original weights and removes small ones
    first. lambda = ridge x mean input power.
    """
    extra = ridge * float(moments.second.diagonal().mean())
    second = moments.second.clone()
    second.diagonal().add_(extra)
    w = weight.detach().flatten(1).to(second)
    if not len(moments.target_mean):
        return replace(moments, second=second)
    return replace(
        moments, second=second, cross=moments.cross + extra * w, power=moments.power + extra * w.square().sum(1)
    )


def judged_ridge(a: Moments, b: Moments, weight: Tensor, keep: Tensor) -> float:
    """The ridge whose solution on half `a` of the data loses least on the other half, with the columns `keep`."""
    if a.count > AMPLE * len(keep) or not b.count:
        return RIDGES[1]
    w = weight.detach().flatten(1).to(a.second)
    a, b = (m if len(m.target_mean) else m.own(w) for m in (a, b))
    best, lowest = RIDGES[0], float("inf")
    for ridge in RIDGES:
        problem = ConsumerProblem(anchored(a, ridge, w), torch.full((len(keep),), -1))
        found = solve(problem, keep, ridge=0.0).weight
        lost = float(((found @ b.second - 2 * b.cross) * found).sum())
        if lost < lowest:
            best, lowest = ridge, lost
    return best


def stronger(a: Moments, weight: Tensor, block: int) -> Tensor:
    """Columns of the half of the input channels that carry most of the output's power."""
    w = weight.detach().flatten(1).to(a.second)
    power = (w.square().sum(0) * a.second.diagonal()).reshape(-1, block).sum(1)
    keep = torch.zeros(len(power), dtype=torch.bool)
    keep[power.argsort(descending=True, stable=True)[: max(1, len(power) // 2)]] = True
    return keep.repeat_interleave(block)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Moments of all consumers, pulled towards their weights: the half that trials are fitted on, and all."""

    half: Mapping[str, Moments]
    whole: Mapping[str, Moments]


def evidence(bench: Workbench, config: RefitConfig) -> Evidence:
    """One pass of the data, and a ridge for every consumer."""
    needed = sorted({i for g in bench.graph.prunable for i in g.consumers})
    consumers = [bench.graph.consumers[i] for i in needed]
    halves = collect(bench, consumers, per_column=config.rows_per_column, least=config.least_rows)
    half, whole = {}, {}
    for consumer in consumers:
        a, b = halves.pop(consumer.node)
        weight = bench.weights[consumer.weight]
        ridge = config.ridge
        if ridge is None:
            ridge = judged_ridge(a, b, weight, stronger(a, weight, consumer.block))
        half[consumer.node] = anchored(a, ridge, weight)
        whole[consumer.node] = anchored(a + b, ridge, weight)
    return Evidence(half, whole)


def search(bench: Workbench, config: RefitConfig) -> Path:
    """Order, error and harm of every group at every size."""
    groups = bench.graph.prunable
    known = evidence(bench, config)
    found: dict[str, GroupPath] = {}
    for done, group in enumerate(groups):
        bench.progress("pursuit", done, len(groups))
        found[group.name] = group_path(bench, group, known.whole)
    bench.progress("pursuit", len(groups), len(groups))
    harm = measured_harm(bench, groups, found, known, config)
    return Path(
        graph=bench.graph, groups=found, harm=harm, method="refit", config=dict(config.__dict__), seed=bench.seed
    )


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


def write(
    dense: Mapping[str, Tensor],
    out: dict[str, Tensor],
    consumer: Consumer,
    weight: Tensor,
    bias: Tensor,
    *,
    own: bool,
) -> None:
    """Put a solution into tensors of the original shapes. `own`: the targets were without the bias."""
    old = dense[consumer.weight]
    out[consumer.weight] = weight.reshape(old.shape).to(old)
    if consumer.bias is not None:
        start = dense[consumer.bias].double() if own else 0.0
        out[consumer.bias] = (start + bias).to(dense[consumer.bias])
    elif consumer.norm is not None:
        name = f"{consumer.norm}.running_mean"
        out[name] = (dense[name].double() - bias).to(dense[name])


class Sequential:
    """Original targets, pruned inputs: consumers in data-flow order, all chunks in step."""

    def __init__(self, bench: Workbench, plan: Plan, config: RefitConfig) -> None:
        self.bench, self.plan, self.config = bench, plan, config
        self.masks = plan.masks(bench.graph)
        self.weights: dict[str, Tensor] = dict(bench.weights)
        self.changed: dict[str, Tensor] = {}
        self.generator = bench.generator(2)
        replay = bench.replay
        self.dense: list[Live] = [replay.start(c.args, c.kwargs, c.rows) for c in bench.chunks]
        self.pruned: list[Live] = [live.fork() for live in self.dense]

    def run(self) -> Outcome:
        graph = self.bench.graph
        started = False
        shared = {
            c.weight
            for c in graph.consumers
            if sum(d.weight == c.weight for d in graph.consumers) > 1
        }
        for done, consumer in enumerate(graph.consumers):
            self.bench.progress("refit", done, len(graph.consumers))
            touched = not consumer.axis.keep(self.masks).all()
            started = started or touched
            if not started:
                continue
            if consumer.weight in shared:
                self.cut(consumer)
                continue
            self.visit(consumer)
        self.bench.progress("refit", len(graph.consumers), len(graph.consumers))
        plan = self.plan
        keep = {
            g.name: tuple(int(i) for i in np.flatnonzero(self.masks[g.index]))
            for g in graph.groups
            if g.index in self.masks
        }
        plan = with_cost(replace(plan, keep=keep), graph)
        return Outcome(plan, self.changed)

    def cut(self, consumer: Consumer) -> None:
        """A weight with several uses is not solved again: its columns are zeroed."""
        keep = torch.from_numpy(consumer.axis.keep(self.masks))
        old = self.weights[consumer.weight]
        new = old * keep.to(old).reshape([1, -1] + [1] * (old.dim() - 2))
        self.weights[consumer.weight] = self.changed[consumer.weight] = new

    def visit(self, consumer: Consumer) -> None:
        first, second = self.moments(consumer)
        weight = self.bench.weights[consumer.weight]
        keep = torch.from_numpy(np.repeat(consumer.axis.keep(self.masks), consumer.block))
        ridge = self.config.ridge
        if ridge is None:
            ridge = judged_ridge(first, second, weight, keep)
        moments = anchored(first + second, ridge, weight)
        problem = ConsumerProblem(
            moments, torch.full((len(moments.mean),), -1), centred=centred(self.bench, consumer)
        )
        if self.config.reselect:
            self.reselect(consumer, problem)
        keep = torch.from_numpy(np.repeat(consumer.axis.keep(self.masks), consumer.block))
        solution = solve(problem, keep, ridge=0.0)
        found: dict[str, Tensor] = {}
        write(self.bench.weights, found, consumer, solution.weight, solution.bias, own=False)
        self.weights.update(found)
        self.changed.update(found)

    def reselect(self, consumer: Consumer, problem: ConsumerProblem) -> None:
        """Pick the same number of units again, on what the inputs have become."""
        for index in consumer.groups:
            group = self.bench.graph.groups[index]
            if index not in self.masks or len(group.consumers) > 1 or self.masks[index].all():
                continue
            count = int(self.masks[index].sum())
            here = replace(problem, columns=unit_columns(consumer, index))
            others = torch.from_numpy(
                np.repeat(
                    consumer.axis.keep({k: v for k, v in self.masks.items() if k != index}),
                    consumer.block,
                )
            )
            if not bool(others.all()):
                continue  # other groups of this consumer have lost columns: keep the search's picks
            trail = pursue([here], group.size, ridge=0.0, steps=count)
            if len(trail.picks) == count:
                mask = np.zeros(group.size, dtype=bool)
                mask[list(trail.picks)] = True
                self.masks[index] = mask

    def moments(self, consumer: Consumer) -> tuple[Moments, Moments]:
        """Pruned inputs against original outputs, even and odd chunks."""
        bench, replay = self.bench, self.bench.replay
        at = replay.index[consumer.node]
        old = bench.weights[consumer.weight]
        sums = [
            Accumulator(
                old[0].numel(), consumer.out, name=consumer.node, precision="float32", device=old.device
            )
            for _ in "ab"
        ]
        limit = -(-self.config.sequential_rows // len(bench.chunks))
        for j, chunk in enumerate(bench.chunks):
            self.dense[j] = replay.advance(self.dense[j], bench.weights, at)
            self.pruned[j] = replay.advance(self.pruned[j], self.weights, at)
            node = replay.nodes[at]
            x = self.pruned[j].values[node.args[0]]
            keep = live_rows(bench, x, chunk.rows)
            rows, where = consumer_rows(consumer, old, x, keep, limit, self.generator)
            seen: list[Any] = []
            self.dense[j] = replay.advance(
                self.dense[j],
                bench.weights,
                at + 1,
                {at: lambda _, output, seen=seen: seen.append(output)},
            )
            sums[j % 2].add(rows, targets_at(seen[0][:keep], where, consumer.kind))
        return sums[0].moments(), sums[1].moments()


def realise(bench: Workbench, plan: Plan, config: RefitConfig) -> Outcome:
    """Weights for a plan, in the original shapes."""
    with torch.no_grad():
        return Sequential(bench, plan, config).run()
