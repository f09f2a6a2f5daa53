"""Two-layer networks as the mean of their neurons: drawing them, picking among them, training them.

A neuron is a_i tanh(w_i x + b_i), the network f = (1/n) sum_i of them (the mean-field scaling of Ye et al. 2020).
Losses are mean squared errors over the points given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError


@dataclass(frozen=True)
class Neurons:
    """Weights w (n, d), biases b (n,), outer weights a (n,)."""

    w: Tensor
    b: Tensor
    a: Tensor

    def outputs(self, x: Tensor) -> Tensor:
        """(n, points) of each neuron: the atoms whose mean the network is."""
        return (self.a * torch.tanh(x.to(self.w.dtype) @ self.w.mT + self.b)).mT.double()

    def of(self, index: Tensor) -> "Neurons":
        """Some of them."""
        return Neurons(self.w[index], self.b[index], self.a[index])

    def __len__(self) -> int:
        return len(self.a)


def draw(count: int, inputs: int, scale: float, generator: torch.Generator) -> Neurons:
    """Random neurons; outer weights are plus or minus `scale`."""
    w = 2 * torch.randn(count, inputs, generator=generator) / math.sqrt(inputs)
    b = torch.randn(count, generator=generator)
    a = scale * (2.0 * torch.randint(2, (count,), generator=generator) - 1.0)
    return Neurons(w, b, a)


@dataclass(frozen=True)
class Herd:
    """A run of picks with replacement: after each, the loss and how many different neurons are in."""

    picks: Tensor  # (steps,)
    losses: Tensor  # (steps,)
    distinct: Tensor  # (steps,)

    def at(self, count: int) -> tuple[int, float] | None:
        """The best step with at most `count` different neurons, and its loss; None before the path gets so far."""
        if int(self.distinct[-1]) < count:
            return None
        return self.within(count)

    def within(self, count: int) -> tuple[int, float]:
        """The same, however few neurons the path came to."""
        allowed = (self.distinct <= count).nonzero().flatten()
        best = int(self.losses[allowed].argmin())
        return int(allowed[best]), float(self.losses[allowed[best]])

    def weights(self, step: int, size: int) -> Tensor:
        """(size,) weights of the mean after that step, with sum 1."""
        return torch.bincount(self.picks[: step + 1], minlength=size).double() / (step + 1)


def herd(atoms: Tensor, target: Tensor, picks: int, *, distinct: int | None = None) -> Herd:
    """Greedy forward selection as published: with replacement, the atom after which the mean errs least.

    atoms (n, points), target (points,). Ends after `picks`, or once more than `distinct` different atoms are in.
    """
    if picks < 1:
        raise InputError(f"at least one pick is needed, found {picks}")
    away = atoms.double() - target.double()
    power = away.square().sum(1)
    lean = torch.zeros(len(atoms), dtype=torch.float64)  # <n (f - y), phi_i - y>
    total = torch.zeros(away.shape[1], dtype=torch.float64)
    seen = torch.zeros(len(atoms), dtype=torch.bool)
    order, losses, counts, many = [], [], [], 0
    for n in range(1, picks + 1):
        at = int((2 * lean + power).argmin())
        total = total + away[at]
        lean = away @ total
        many += not bool(seen[at])
        seen[at] = True
        order.append(at)
        losses.append(float(total.square().mean()) / n**2)
        counts.append(many)
        if distinct is not None and many > distinct:
            break
    return Herd(
        torch.tensor(order), torch.tensor(losses, dtype=torch.float64), torch.tensor(counts)
    )


def train(
    start: Neurons,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    lr: float,
    nets: int = 1,
    weights: Tensor | None = None,
) -> Neurons:
    """Adam on the whole batch with a cosine to 0; several networks of one width beside each other.

    start: the neurons of all `nets` networks one after another. weights: shares of the mean per neuron instead of 1/n.
    The rate is that of a and is the same for w and b: Adam's steps do not see the scaling of the mean.
    """
    width = len(start) // nets
    share = (torch.full((len(start),), 1 / width) if weights is None else weights).to(start.w.dtype)
    x, y = x.to(start.w.dtype), y.to(start.w.dtype)
    params = [start.w.clone(), start.b.clone(), start.a.clone()]
    first = [torch.zeros_like(p) for p in params]
    second = [torch.zeros_like(p) for p in params]
    for step in range(steps):
        w, b, a = params
        act = torch.tanh(torch.addmm(b, x, w.mT))  # (points, nets * width)
        outer = a * share
        out = (act * outer).view(len(x), nets, width).sum(2)
        slope = 2 * (out - y[:, None]) / len(x)
        spread = slope.repeat_interleave(width, 1)
        grad_a = (act * spread).sum(0) * share
        inner = spread * outer * (1 - act.square())
        grads = (inner.mT @ x, inner.sum(0), grad_a)
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        for p, m, v, g in zip(params, first, second, grads):
            m.lerp_(g, 0.1)
            v.lerp_(g.square(), 0.001)
            mean = m / (1 - 0.9 ** (step + 1))
            scale = (v / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-12)
            p.addcdiv_(mean, scale, value=-rate)
    return Neurons(*params)


def parts(neurons: Neurons, nets: int) -> list[Neurons]:
    """The networks that were trained beside each other."""
    width = len(neurons) // nets
    return [neurons.of(torch.arange(i * width, (i + 1) * width)) for i in range(nets)]


def loss_of(neurons: Neurons, x: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
    """Mean squared error of the (weighted) mean."""
    atoms = neurons.outputs(x)
    out = atoms.mean(0) if weights is None else weights.double() @ atoms
    return float((out - y.double()).square().mean())


def subsets(
    atoms: Tensor, target: Tensor, sizes: Sequence[int], draws: int, generator: torch.Generator
) -> list[float]:
    """Mean loss of the plain mean of n random atoms, drawn independently, for each n."""
    total = [0.0] * len(sizes)
    for _ in range(draws):
        order = torch.randint(len(atoms), (max(sizes),), generator=generator)
        running = atoms[order].double().cumsum(0)
        for at, n in enumerate(sizes):
            total[at] += float((running[n - 1] / n - target).square().mean()) / draws
    return total
