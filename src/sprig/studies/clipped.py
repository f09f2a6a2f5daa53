"""The ball indicator, and the clipped neuron on frozen random features that learns it.

Safran and Lee 2022. Target: y = 1 where |x| <= radius. Letters: u_j ~ N(0, I/4), b_j ~ N(0, 1/4) frozen, features
t = erf(U x + b) in R^r, network [w.t] clipped to [0, 1], w ~ N(0, I/r^2) at the start. Training: gradient descent with
a fixed step on F(w) = mean_i ([w.t_i] - y_i)^2, whose gradient is
(2/n) sum_i ([w.t_i] - y_i) 1{0 < w.t_i < 1} t_i. Where w.t_i <= 0 for all i it is exactly zero and stays so: a dead
start.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError

LAWS = {  # how |x| is distributed; the direction is uniform
    "uniform": "norm uniform on [0, 3], radius 1.5",
    "cauchy": "norm 1.5 |Cauchy|, radius 1.5",
    "spheres": "sum of two points of the unit sphere, radius sqrt 2",
}


def radius_of(law: str) -> float:
    """The ball that is to be told from the rest."""
    return math.sqrt(2) if law == "spheres" else 1.5


def ball(law: str, d: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, d) points of a radial law and (count,) whether they lie in the ball, without noise.

    >>> x, y = ball("uniform", 4, 1000, torch.Generator().manual_seed(0))
    >>> x.shape, bool((y == (x.norm(dim=1) <= 1.5)).all()), 0.4 < float(y.mean()) < 0.6
    (torch.Size([1000, 4]), True, True)
    """
    if law not in LAWS:
        raise InputError(f"unknown law {law!r}; known are {', '.join(LAWS)}")
    x = _sphere(d, count, generator)
    if law == "uniform":
        x = x * (3 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    elif law == "cauchy":
        flat = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        x = x * (1.5 * torch.tan(math.pi / 2 * flat))
    else:
        x = x + _sphere(d, count, generator)
    return x, (x.norm(dim=1) <= radius_of(law)).double()


def _sphere(d: int, count: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(count, d, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Features:
    """Frozen random features."""

    u: Tensor  # (r, d)
    b: Tensor  # (r,)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, r) erf(U x + b)."""
        return torch.erf(x @ self.u.mT + self.b)


def features(d: int, r: int, generator: torch.Generator) -> Features:
    """Random features as the theorem has them."""
    u = torch.randn(r, d, generator=generator, dtype=torch.float64) / 2
    return Features(u, torch.randn(r, generator=generator, dtype=torch.float64) / 2)


def start(r: int, generator: torch.Generator) -> Tensor:
    """(r,) weights of the neuron at the start."""
    return torch.randn(r, generator=generator, dtype=torch.float64) / r


def risk(t: Tensor, w: Tensor, y: Tensor, *, clip: bool = True) -> float:
    """Mean squared error of the clipped (or plain) neuron."""
    out = t @ w
    return float(((out.clamp(0, 1) if clip else out) - y).square().mean())


def live(t: Tensor, w: Tensor) -> float:
    """The share of the points that lie between the clips: only they have a gradient."""
    out = t @ w
    return float(((out > 0) & (out < 1)).double().mean())


def is_dead(t: Tensor, w: Tensor) -> bool:
    """Whether the gradient is exactly zero at w: no point of the data lies between the clips."""
    return live(t, w) == 0.0


def alive(t: Tensor, generator: torch.Generator, *, most: int = 100) -> tuple[Tensor, int]:
    """A start that is not dead, and how many dead ones were drawn before it."""
    for dead in range(most):
        w = start(t.shape[1], generator)
        if not is_dead(t, w):
            return w, dead
    raise InputError(f"{most} starts in a row were dead: the features do not separate these points")


def live_shares(t: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """(draws,) the share of points between the clips for each of that many random starts."""
    r = t.shape[1]
    out = t @ (torch.randn(r, draws, generator=generator, dtype=torch.float64) / r)
    return ((out > 0) & (out < 1)).double().mean(0)


def smoothness(t: Tensor) -> float:
    """L = 2 lambda_max(T'T / n) of the squared loss before the clip; the step is 1 / L."""
    return 2 * float(torch.linalg.eigvalsh(t.mT @ t / len(t))[-1])


def descend(t: Tensor, y: Tensor, w: Tensor, steps: int, *, goal: float = 0.0) -> Tensor:
    """Gradient descent on the clipped neuron with step 1 / L; ends as soon as the loss is at most `goal`."""
    step = 2 / (smoothness(t) * len(t))
    t32, y32, w32 = t.float(), y.float(), w.float()
    for at in range(steps):
        out = t32 @ w32
        left = out.clamp(0, 1) - y32
        if goal and at % 50 == 0 and float(left.square().mean()) <= goal:
            break
        left[(out <= 0) | (out >= 1)] = 0.0
        w32 = w32 - step * (left @ t32)
    return w32.double()


def descend_linear(t: Tensor, y: Tensor, w: Tensor, steps: int) -> Tensor:
    """What `steps` of gradient descent with step 1 / L give for the plain linear read-out, in closed form.

    In the eigenbasis of T'T/n the distance of each coordinate from its optimum shrinks by the factor
    1 - 2 lambda / L a step, 2 / L being 1 / lambda_max.
    """
    values, basis = torch.linalg.eigh(t.mT @ t / len(t))
    values = values.clamp_min(0.0)
    shrink = (1 - values / values[-1]) ** steps
    cross = basis.mT @ (t.mT @ y) / len(t)
    best = torch.where(values > 1e-12, cross / values.clamp_min(1e-300), 0.0)
    return basis @ (shrink * (basis.mT @ w) + (1 - shrink) * best)


def best_linear(t: Tensor, y: Tensor, new: Tensor, target: Tensor) -> float:
    """The least test risk of any ridge read-out with a bias: a floor, since it looks at the test points."""
    one, two = (torch.cat([f, torch.ones(len(f), 1, dtype=f.dtype)], 1) for f in (t, new))
    values, basis = torch.linalg.eigh(one.mT @ one / len(one))
    cross, turned = basis.mT @ (one.mT @ y) / len(one), two @ basis
    ridges = [10.0**p for p in range(-12, 2)]
    risks = [
        float((turned @ (cross / (values.clamp_min(0.0) + ridge)) - target).square().mean())
        for ridge in ridges
    ]
    return min(risks)


def descend_both(
    x: Tensor, y: Tensor, f: Features, w: Tensor, steps: int, *, bias: float = 0.5
) -> tuple[Features, Tensor, float]:
    """The weak network: both layers and the output bias by gradient descent, no clip.

    The step starts at 1 / L of the read-out and is halved whenever the loss would rise (the paper asks for a step below
    2 / L of the whole network, whose L nobody knows).
    """
    params = [p.float().requires_grad_() for p in (f.u, f.b, w, torch.tensor(bias))]
    x32, y32 = x.float(), y.float()
    step = 1 / smoothness(f(x))
    last, kept = math.inf, [p.detach().clone() for p in params]
    for _ in range(steps):
        u, b, v, c = params
        loss = (torch.erf(x32 @ u.mT + b) @ v + c - y32).square().mean()
        value = float(loss.detach())
        if value > last * (1 + 1e-6) or not math.isfinite(value):
            step /= 2
            with torch.no_grad():
                for p, k in zip(params, kept):
                    p.copy_(k)
            last = math.inf
            continue
        last, kept = value, [p.detach().clone() for p in params]
        grads = torch.autograd.grad(loss, params)
        with torch.no_grad():
            for p, g in zip(params, grads):
                p -= step * g
    u, b, v, c = (k.double() for k in kept)
    return Features(u, b), v, float(c)
