"""From calibration data to least-squares problems: moments, how far to trust them, and where solutions are written.

With few rows per column a plain refit learns the calibration images by heart. Rows are therefore added that pull
towards the original weights, as many as make the solution of most of the data best on the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sprig.core.collect import collect
from sprig.core.stats import Moments, merge
from sprig.core.types import Consumer, Group
from sprig.core.workbench import Workbench
from sprig.methods.greedy.metric import metric_of, norm_metric
from sprig.methods.greedy.problem import ConsumerProblem

RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
EXACT = 1024  # columns below which every ridge is tried, in float64
AMPLE = 1000.0  # rows per column beyond which a small ridge needs no judging


def unit_columns(consumer: Consumer, group: int) -> Tensor:
    """(D,) unit of the group that each weight column belongs to, -1 for columns of others."""
    units = np.where(consumer.axis.group == group, consumer.axis.unit, -1)
    return torch.from_numpy(np.repeat(units, consumer.block))


def centred(bench: Workbench, consumer: Consumer) -> bool:
    """Whether a bias or the batch norm behind absorbs a mean."""
    return consumer.bias is not None or consumer.norm is not None


def problems(
    bench: Workbench, group: Group, moments: Mapping[str, Moments], *, metric: str = "norm"
) -> list[ConsumerProblem]:
    """The group's consumers, each with the same say; moments without a target get the consumer's own output.

    metric: how the errors of their outputs count, see metric.py.
    """
    out = []
    for i in group.consumers:
        consumer = bench.graph.consumers[i]
        problem = ConsumerProblem(
            moments[consumer.node],
            unit_columns(consumer, group.index),
            own=None if len(moments[consumer.node].target_mean) else consumer.matrix(bench.weights),
            centred=centred(bench, consumer),
        ).weighed(metric_of(bench, consumer, metric))
        power = problem_power(problem)
        out.append(replace(problem, scale=1.0 / power if power > 0 else 1.0))
    return out


def problem_power(problem: ConsumerProblem) -> float:
    """Power of the target under the problem's metric."""
    moments = problem.targeted
    power = moments.power / moments.count
    if not problem.centred:
        power = power + moments.target_mean**2
    return float(power.sum() if problem.metric is None else (power * problem.metric).sum())


def anchored(moments: Moments, ridge: float, weight: Tensor) -> Moments:
    """Moments with rows added that pull the solution towards `weight`.

    Least squares on them minimises |Y - W X|^2 / n + lambda |W - W0|^2 over *all* columns, W being zero where a channel
    leaves: with much data that is the plain refit, with little it stays near the original weights and removes small
    ones first. lambda = ridge x mean input power.
    """
    pulled = replace(moments, second=moments.second.clone())
    extra = pull(pulled, ridge)
    if not len(moments.target_mean):
        return pulled
    w = weight.detach().flatten(1).to(pulled.second)
    return replace(
        pulled,
        cross=moments.cross + extra * w,
        power=moments.power + extra * w.square().sum(1),
    )


def pull(moments: Moments, ridge: float) -> float:
    """Add lambda = ridge x mean input power to the diagonal, in place."""
    extra = ridge * float(moments.second.diagonal().double().mean())
    moments.second.diagonal().add_(extra)
    return extra


def judged_ridge(
    a: Moments, b: Moments, weight: Tensor, keep: Tensor, *, metric: Tensor | None = None,
    ridges: Sequence[float] = RIDGES,
) -> float:  # fmt: skip
    """The ridge whose solution on part `a` of the data loses least on the rest, with the columns `keep`."""
    if a.count > AMPLE * len(keep) or not b.count:
        return RIDGES[0]
    w = weight.detach().flatten(1).to(a.second)
    kept = keep.nonzero().flatten()
    exact = torch.float64 if len(kept) < EXACT else torch.float32  # ridges are far above rounding

    def cut(m: Moments) -> tuple[Tensor, Tensor]:
        rows = m.second[kept]
        target = m.cross[:, kept] if len(m.target_mean) else w @ rows.mT
        return rows[:, kept].to(exact), target.to(exact)

    (seen, target), (unseen, judge) = cut(a), cut(b)
    power, start = float(a.second.diagonal().double().mean()), w[:, kept].to(exact)
    if not power > 0:  # nothing varies: every ridge is as good
        return RIDGES[0]
    tried = ridges if exact == torch.float64 else ridges[1::2]  # a few suffice where each is dear
    best, lowest = tried[-1], float("inf")
    for ridge in tried:
        extra = ridge * power
        shifted = seen.clone()
        shifted.diagonal().add_(extra)
        factor, singular = torch.linalg.cholesky_ex(shifted)
        if int(singular):  # few rows of very unequal columns: rounding outweighs this ridge
            continue
        found = torch.cholesky_solve((target + extra * start).mT, factor).mT
        per_output = ((found @ unseen - 2 * judge) * found).sum(1)
        lost = float(per_output.sum() if metric is None else (per_output * metric).sum())
        if lost < lowest:
            best, lowest = ridge, lost
    return best


def own_target(moments: Moments, weight: Tensor, bias: Tensor | None) -> Moments:
    """With what weight and bias make of the inputs for a target; the power stays that of the one that was there."""
    own = moments.own(weight, bias=bias)
    return replace(moments, cross=own.cross, target_mean=own.target_mean)


def stronger(a: Moments, weight: Tensor, block: int) -> Tensor:
    """Columns of the half of the input channels that carry most of the output's power."""
    w = weight.detach().flatten(1).to(a.second)
    power = (w.square().sum(0) * a.second.diagonal()).reshape(-1, block).sum(1)
    keep = torch.zeros(len(power), dtype=torch.bool)
    keep[power.argsort(descending=True, stable=True)[: max(1, len(power) // 2)]] = True
    return keep.repeat_interleave(block)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Moments of all consumers by node, pulled towards the weights: of the part that trial weights are fitted on, and
    of everything."""

    bench: Workbench
    fitted: Mapping[str, Moments]
    whole: Mapping[str, Moments]

    def of(self, group: Group, *, whole: bool = True) -> dict[str, Moments]:
        """Of every consumer of a group, by node, with the consumer's own output as the target."""
        consumers = [self.bench.graph.consumers[i] for i in group.consumers]
        moments = self.whole if whole else self.fitted
        return {c.node: moments[c.node].own(c.matrix(self.bench.weights)) for c in consumers}


def evidence(bench: Workbench, *, ridge: float | None, per_column: float, least: int) -> Evidence:
    """One pass of the data, and a ridge for every consumer."""
    needed = sorted({i for g in bench.graph.prunable for i in g.consumers})
    consumers = [bench.graph.consumers[i] for i in needed]
    parts = collect(bench, consumers, per_column=per_column, least=least)
    fitted, whole = {}, {}

    def judged(consumer: Consumer) -> float:
        (a, b), weight = parts[consumer.node], consumer.matrix(bench.weights)
        likely = stronger(a, weight, consumer.block)
        return judged_ridge(a, b, weight, likely, metric=norm_metric(bench, consumer))

    for consumer, strength in zip(
        consumers,
        bench.ranks.each(consumers, judged) if ridge is None else [ridge] * len(consumers),
        strict=True,
    ):
        a, b = parts.pop(consumer.node)
        both = merge(a, b, into=True) if a.count and b.count else merge(a, b)
        if both is a:
            both = replace(a, second=a.second.clone())
        pull(both, strength)
        pull(a, strength)
        fitted[consumer.node], whole[consumer.node] = a, both
    return Evidence(bench, fitted, whole)


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
    out[consumer.weight] = consumer.stored(weight, old)
    if consumer.bias is not None:
        start = dense[consumer.bias].double() if own else 0.0
        out[consumer.bias] = (start + bias).to(dense[consumer.bias])
    elif consumer.norm is not None:
        name = f"{consumer.norm}.running_mean"
        out[name] = (dense[name].double() - bias).to(dense[name])
