"""Regressions with a known answer, and what each way to pick columns gets out of them.

`ar1` is the synthetic design of Khanna et al. 2017: rows come from X_{t+1} = sqrt(1 - a^2) X_t + e with
Var e = a^2 = 0.25, so that neighbours are correlated by 0.866; true coefficients +-(5 sqrt(ln d / n) + N(0, 1)); noise
variance 0.01 |X beta|^2 / n (the paper's text does not divide by n, which would drown the signal).
`suppressors` are small problems in which a column is worth little until its partner is in: gains grow.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

A2 = 0.25


def ar1(seed: int, d: int, n: int, true: int) -> tuple[Tensor, Tensor, Tensor, Tensor, set[int]]:
    """Training rows and targets, held-out rows and targets, and the true columns.

    >>> x, y, _, _, support = ar1(0, 20, 10, 5)
    >>> x.shape, y.shape, len(support)
    (torch.Size([10, 20]), torch.Size([10]), 5)
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(2 * n, d)
    for t in range(1, d):
        x[:, t] = math.sqrt(1 - A2) * x[:, t - 1] + math.sqrt(A2) * x[:, t]
    support = torch.randperm(d, generator=generator)[:true]
    sign = torch.randint(2, (true,), generator=generator) * 2.0 - 1.0
    beta = torch.zeros(d, dtype=torch.float64)
    beta[support] = sign * (5 * math.sqrt(math.log(d) / n) + normal(true))
    clean = x @ beta
    y = clean + normal(2 * n) * (0.1 * clean[:n].norm() / math.sqrt(n))
    return x[:n], y[:n], x[n:], y[n:], set(support.tolist())


def held_out(x: Tensor, y: Tensor, new: Tensor, target: Tensor, picks: Sequence[int]) -> float:
    """R2 of the regression on the picks, on rows that nothing was chosen by."""
    chosen = list(picks)
    mean, level = x[:, chosen].mean(0), y.mean()
    weights = torch.linalg.lstsq(x[:, chosen] - mean, (y - level)[:, None]).solution[:, 0]
    left = target - level - (new[:, chosen] - mean) @ weights
    return 1 - float(left.square().sum() / (target - target.mean()).square().sum())


def suppressors(seed: int, *, rows: int = 60, others: int = 8) -> tuple[Tensor, Tensor]:
    """Two pairs of columns, each pair a signal hidden in a common nuisance and the nuisance itself, and noise columns.

    The nuisance alone says nothing about y; next to its partner it takes the nuisance out of it.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    signals, nuisances = normal(rows, 2), 3 * normal(rows, 2)
    weights = 0.5 + torch.rand(2, generator=generator, dtype=torch.float64)
    y = signals @ weights + 0.3 * normal(rows)
    noise = normal(rows, others) + 0.4 * y[:, None] * torch.rand(
        others, generator=generator, dtype=torch.float64
    )
    hidden = signals + nuisances
    return torch.cat([hidden, nuisances, noise], 1), y
