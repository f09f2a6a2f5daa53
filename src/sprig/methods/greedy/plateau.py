"""Refit up to what the activation behind a consumer hides.

A ReLU turns everything below 0 into 0: where the original value z lies there, every value below 0 is as good as z, and
a consumer with fewer inputs need not spend them on reproducing it. With plateaus (-inf, low] and [high, inf), of ReLU
(0, inf), ReLU6 (0, 6) and the like, and entries z = a y + c + o (a, c: the batch norm between; o: what is added from
elsewhere), the refit asks for less than y:

    min over W, b of  sum over rows |W x + b - P(W x + b)|^2 + ridge,   P the nearest values of the same activation.

That is convex. Each round projects the present outputs and solves least squares towards them; only the cross moment
changes, the matrix and its factor stay, and the error never rises. The rounds need the rows themselves and run on a
sample of them. Targets and matrix must then come from the same rows: freed entries wander far, and what one sample says
of them does not fit the matrix of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from sprig.core.replay import Replay
from sprig.core.stats import Moments
from sprig.core.types import Consumer
from sprig.methods.greedy.evidence import anchored
from sprig.methods.greedy.problem import ConsumerProblem, Refit, Solution, solve
from sprig.methods.greedy.seam import PASSING, Scale, Seam, op_of

ROWS = 64  # rows per column that the rounds look at
ENOUGH = 5  # ... and below which there are none: they would learn the rows by heart
LEAST, MOST = 8192, 2**27  # at least so many rows; at most so many numbers
WORK = 1e11  # multiply-adds of all rounds on one consumer
FREE = float("inf")
SHELVES = {  # activation -> (constant up to, constant from)
    "relu": (0.0, FREE),
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, FREE),
    "hardsigmoid": (-3.0, 3.0),
}


def wanted_rows(columns: int, outputs: int, rounds: int) -> int:
    """Rows of a consumer that the rounds look at.

    >>> wanted_rows(144, 16, 8), wanted_rows(4608, 512, 8)
    (9216, 2649)
    """
    affordable = min(MOST / columns, WORK / (2 * rounds * columns * outputs))
    return max(1, int(min(max(LEAST, ROWS * columns), affordable)))


@dataclass(frozen=True)
class Plateau:
    """The activation behind a consumer: constant up to `low` and from `high` on."""

    low: float
    high: float
    norm: str | None = None  # the batch norm between
    eps: float = 0.0

    def projected(self, found: Tensor, original: Tensor) -> Tensor:
        """The values nearest to `found` that the activation maps to the same as `original`.

        >>> Plateau(0.0, 6.0).projected(torch.tensor([-2.0, 1.0, 5.0]), torch.tensor([-1.0, -1.0, 7.0]))
        tensor([-2.,  0.,  6.])
        """
        inside = torch.where(original >= self.high, found.clamp_min(self.high), original)
        return torch.where(original <= self.low, found.clamp_max(self.low), inside)


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a consumer: inputs, targets in front of the norm, and what is added behind it."""

    x: Tensor  # (P, D)
    y: Tensor  # (P, O)
    added: Tensor | None = None  # (P, O)

    def drawn(self, most: int, generator: torch.Generator) -> "Sample":
        """At most so many of the rows."""
        if most >= len(self.x):
            return self
        at = torch.randperm(len(self.x), generator=generator)[:most].sort().values.to(self.x.device)
        return Sample(self.x[at], self.y[at], None if self.added is None else self.added[at])

    def own_target(self, weight: Tensor, bias: Tensor | None) -> "Sample":
        """With targets as `evidence.own_target` has them."""
        own = self.x.float() @ weight.detach().flatten(1).float().mT
        return replace(self, y=(own if bias is None else own + bias.detach().float()).to(self.y))

    @staticmethod
    def joined(parts: Sequence["Sample"]) -> "Sample":
        """The rows of all parts."""
        added = [p.added for p in parts if p.added is not None]
        return Sample(
            torch.cat([p.x for p in parts]),
            torch.cat([p.y for p in parts]),
            torch.cat(added) if added else None,
        )


def find_plateau(replay: Replay, consumer: Consumer, seam: Seam | None) -> Plateau | None:
    """The activation that alone reads a consumer's output, perhaps through its batch norm and the seam's addition."""
    node = replay.nodes[replay.index[consumer.node]]
    norm, eps = None, 0.0
    while len(node.users) == 1:
        user = next(iter(node.users))
        ends, name = _ends(user), op_of(user)
        if ends is not None:
            return Plateau(*ends, norm, eps)
        if name == "batch_norm" and norm is None and consumer.norm is not None:
            norm, eps = consumer.norm, float(user.args[7])  # type: ignore[arg-type]
        elif name not in PASSING and (seam is None or replay.index[user.name] != seam.add):
            return None
        node = user
    return None


def _ends(node: fx.Node) -> tuple[float, float] | None:
    """Up to where, and from where on, an activation is constant; None for anything else."""
    name = op_of(node).rstrip("_")
    if name in SHELVES:
        return SHELVES[name]
    if name not in ("hardtanh", "clamp", "clip", "clamp_min"):
        return None
    usual: tuple[float | None, float | None] = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    given = [node.args[i] if len(node.args) > i else u for i, u in ((1, usual[0]), (2, usual[1]))]
    given = [node.kwargs.get(k, g) for k, g in zip(("min", "max"), given, strict=True)]
    if any(isinstance(g, fx.Node) for g in given):
        return None
    low, high = (None if g is None else float(g) for g in given)  # type: ignore[arg-type]
    return -FREE if low is None else low, FREE if high is None else high


def relaxed(
    problem: ConsumerProblem,
    keep: Tensor,
    sample: Sample,
    plateau: Plateau,
    scale: Scale | None,
    *,
    ridge: float,
    start: Tensor,
    rounds: int,
) -> Solution:
    """The refit on the columns `keep` (a mask) after so many rounds; the problem's targets include the bias.

    The rounds run on the sample alone, pulled towards the weights `start` by `ridge` as the problem is (anchored); by
    how much they move the weights there, the refit on all rows is moved.
    """
    whole = solve(problem, keep, ridge=0.0)
    if len(sample.x) < ENOUGH * int(keep.sum()):
        return whole
    own = Moments.from_rows(sample.x, sample.y, name=problem.name, precision="float32")
    fit = Refit(replace(problem, moments=anchored(own, ridge, start), own=None), keep, ridge=0.0)
    moments, first = fit.moments, fit.solution()
    kept = keep.nonzero().flatten()
    x = sample.x[:, kept].float()
    x = x - x.mean(0)
    y = sample.y.float()
    slope = torch.ones_like(y[0]) if scale is None else scale.slope.to(y)
    rest = torch.zeros_like(y[0]) if scale is None else scale.shift.to(y)
    if sample.added is not None:
        rest = rest + sample.added.to(y)
    original = y * slope + rest
    middle, solution = moments.mean[kept], first
    for _ in range(rounds):
        weight = solution.weight[:, kept]
        bias = solution.bias + weight @ middle
        found = (x @ weight.to(x).mT + bias.to(x)) * slope + rest
        freed = (plateau.projected(found, original) - original) / slope
        if scale is not None:
            freed = torch.where(scale.usable, freed, 0.0)
        cross = moments.cross.clone()
        cross[:, kept] += (freed.mT @ x).to(cross)
        mean = moments.target_mean + freed.mean(0).double()
        solution = fit.solution(replace(moments, cross=cross, target_mean=mean))
    return whole._replace(
        weight=whole.weight + solution.weight - first.weight,
        bias=whole.bias + solution.bias - first.bias,
    )
