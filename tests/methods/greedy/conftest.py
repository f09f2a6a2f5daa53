"""Small consumers of several kinds, and the refit error by plain least squares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sprig.core.stats import Moments
from sprig.methods.greedy.problem import ConsumerProblem


@dataclass
class Layer:
    """One consumer with the rows it was measured on."""

    x: Tensor
    y: Tensor
    problem: ConsumerProblem


KINDS = ("plain", "correlated", "deficient", "dead")


def make_layer(
    kind: str = "plain",
    *,
    size: int = 6,
    block: int = 1,
    base: int = 0,
    outputs: int = 4,
    seed: int = 0,
    own: bool = True,
    centred: bool = True,
    metric: bool = False,
    scale: float = 1.0,
    n: int = 80,
    shuffle: bool = True,
) -> Layer:
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    width = size * block + base
    x = randn(n, width)
    if kind == "correlated":
        x = x @ (torch.eye(width) + 0.9 * randn(width, width)) + 0.5 * randn(n, 1)
    if kind == "deficient":
        x[:, width // 2 :] = x[:, : width - width // 2] @ randn(
            width - width // 2, width - width // 2
        )
    x = x + 0.7 * randn(width)
    if kind == "dead":
        x[:, :block] = 1.25
        x[:, -1] = 0.0
    columns = torch.cat([torch.arange(size).repeat_interleave(block), torch.full((base,), -1)])
    if shuffle:
        columns = columns[torch.randperm(width, generator=g)]
    w = randn(outputs, width)
    y = x @ w.T
    if not own:
        y = y.tanh() + 0.3 * randn(n, outputs) + 1.0
    problem = ConsumerProblem(
        Moments.from_rows(x, None if own else y, name="conv"),
        columns,
        own=w if own else None,
        scale=scale,
        metric=torch.rand(outputs, generator=g) + 0.1 if metric else None,
        centred=centred,
    )
    return Layer(x, y, problem)


def lstsq_error(layers: Sequence[Layer], picks: Sequence[int], ridge: float) -> float:
    """The definition, by numpy's lstsq on the rows themselves (ridge as extra rows)."""
    lost = total = 0.0
    for layer in layers:
        x, y, problem = layer.x.numpy(), layer.y.numpy(), layer.problem
        if problem.centred:
            x, y = x - x.mean(0), y - y.mean(0)
        weights = problem.weights(y.shape[1]).numpy()
        extra = ridge * (x**2).mean(0).mean()
        keep = np.isin(problem.columns.numpy(), [*picks, -1])
        a = np.vstack([x[:, keep] / np.sqrt(len(x)), np.sqrt(extra) * np.eye(keep.sum())])
        b = np.vstack([y / np.sqrt(len(x)), np.zeros((keep.sum(), y.shape[1]))])
        fit = np.linalg.lstsq(a, b, rcond=1e-10)[0]
        lost += float((((b - a @ fit) ** 2).sum(0) * weights).sum())
        total += float((((y**2).mean(0)) * weights).sum())
    return lost / total


@pytest.fixture
def layer():
    return make_layer


@pytest.fixture
def lstsq():
    return lstsq_error
