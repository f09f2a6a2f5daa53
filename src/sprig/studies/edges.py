"""Multilayer perceptrons of which a mask of weights is searched (edge-popup) or whose weights are trained under a mask.

Ramanujan et al. 2020: frozen random weights w, a trained score s for each; the forward pass uses w * [|s| among the
largest `keep` of the layer], the backward pass goes straight through, grad s = grad(w mask) * w * sign(s). Weights are
plus or minus sqrt(2 / fan-in) ("constant") or normal with that deviation; "scaled" takes keep * fan-in for fan-in.
No biases, no normalisation: nothing but the mask is learned. `keep` is the share that stays, everywhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sprig.core.errors import InputError

Weights = list[Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Training:
    """SGD with momentum and a cosine to 0."""

    steps: int
    batch: int = 128
    momentum: float = 0.9
    decay: float = 1e-4


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, and how; batches are drawn with the generator."""

    x: Tensor
    y: Tensor
    loss: Loss
    lr: float
    how: Training
    generator: torch.Generator


def draw(
    sizes: Sequence[int],
    kind: Literal["constant", "normal"],
    generator: torch.Generator,
    *,
    keep: float = 1.0,
) -> Weights:
    """Random weights (out, in) of each layer; with `keep` below 1 their size makes up for what the mask takes."""
    out = []
    for fan_in, fan_out in pairwise(sizes):
        w = torch.randn(fan_out, fan_in, generator=generator)
        if kind == "constant":
            w = w.sign()
        out.append(w * math.sqrt(2 / (keep * fan_in)))
    return out


def forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """ReLU between the layers."""
    for w in weights[:-1]:
        x = torch.relu(x @ w.mT)
    return x @ weights[-1].mT


def top(scores: Tensor, keep: float) -> Tensor:
    """(same shape) 1.0 at the largest round(keep * size) of |scores|, at least one; else 0.0.

    >>> top(torch.tensor([[0.1, -3.0], [2.0, 0.5]]), 0.5)
    tensor([[0., 1.],
            [1., 0.]])
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep is the share that stays, in (0, 1]; found {keep}")
    count = max(1, round(keep * scores.numel()))
    mask = torch.zeros(scores.numel(), dtype=scores.dtype)
    mask[scores.detach().abs().flatten().topk(count).indices] = 1.0
    return mask.view_as(scores)


def random_masks(weights: Weights, keep: float, generator: torch.Generator) -> Weights:
    """A random mask per layer with the same count as `top`."""
    return [top(torch.rand(w.shape, generator=generator) + 1e-9, keep) for w in weights]


def popup(weights: Weights, keep: float, task: Task) -> Weights:
    """The masks that edge-popup finds."""
    scores = [
        (
            (2 * torch.rand(w.shape, generator=task.generator) - 1) / math.sqrt(w.shape[1])
        ).requires_grad_()
        for w in weights
    ]

    def effective() -> Weights:
        out = []
        for w, s in zip(weights, scores):
            size = s.abs()
            out.append(w * (top(s, keep) + size - size.detach()))
        return out

    descend(scores, effective, task)
    return [top(s, keep) for s in scores]


def train(weights: Weights, masks: Weights | None, task: Task) -> Weights:
    """The weights under fixed masks (none: all of them), trained; masked ones are 0."""
    params = [w.clone().requires_grad_() for w in weights]
    held = [torch.ones_like(w) for w in weights] if masks is None else masks
    descend(params, lambda: [w * m for w, m in zip(params, held)], task)
    return [(w * m).detach() for w, m in zip(params, held)]


def descend(params: Weights, effective: Callable[[], Weights], task: Task) -> None:
    """Train `params` in place; the network's weights are `effective()`."""
    x, y, how, generator = task.x, task.y, task.how, task.generator
    optimizer = torch.optim.SGD(params, lr=task.lr, momentum=how.momentum, weight_decay=how.decay)
    order, at = torch.randperm(len(x), generator=generator), 0
    for step in range(how.steps):
        if at + how.batch > len(x) and at > 0:
            order, at = torch.randperm(len(x), generator=generator), 0
        here = order[at : at + how.batch]
        at += how.batch
        optimizer.param_groups[0]["lr"] = task.lr * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        optimizer.zero_grad()
        task.loss(forward(effective(), x[here]), y[here]).backward()
        optimizer.step()


def cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of class numbers."""
    return F.cross_entropy(out, target)


def squared(out: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of one output."""
    return (out[:, 0] - target).square().mean()


@torch.no_grad()
def accuracy(weights: Weights, x: Tensor, y: Tensor) -> float:
    """Share of right classes."""
    return float((forward(weights, x).argmax(1) == y).double().mean())


@torch.no_grad()
def error(weights: Weights, x: Tensor, y: Tensor) -> float:
    """Mean squared error over the target's mean square."""
    return float((forward(weights, x)[:, 0] - y).square().mean() / y.square().mean())


def bits(total: int, keep: float, trained: bool) -> float:
    """Bits to store a masked network: H(keep) per weight for the mask, and 32 per kept weight or 64 for the seed.

    >>> bits(1000, 0.5, trained=False), bits(1000, 1.0, trained=True)
    (1064.0, 32000.0)
    """
    entropy = (
        0.0 if keep in (0.0, 1.0) else -keep * math.log2(keep) - (1 - keep) * math.log2(1 - keep)
    )
    return total * entropy + (32 * round(keep * total) if trained else 64)
