"""`uniform`: local imitation with uniform weights, the two-layer algorithm of greedy forward selection.

Ye, Gong, Nie, Zhou, Klivans, Liu, "Good Subnetworks Provably Exist" (ICML 2020). Letters (see gram.py for G, b, r):
phi_i = z_i / pi_i the atoms (paper: pi_i = 1/N, the network is the mean of its neurons), f_n the mean of the n atoms
picked so far, u = n (f_n - r), U = |u|^2, p_i = <u, phi_i - r>, K_ij = <phi_i - r, phi_j - r>. A step:

    pick i = argmin 2 p_i + K_ii;   U <- U + 2 p_i + K_ii;   p <- p + K_:i;   error = U / n^2.

Units may be picked again (with replacement), so alpha_i = count_i / (n pi_i). Without replacement, as in the
released code, every unit that stays is scaled by the same N / n.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.methods.greedy.gram import AlphaPath, Gram, Recorder, atoms


def uniform(
    g: Gram,
    *,
    replacement: bool = True,
    kind: str = "mean",
    steps: int | None = None,
    among: Tensor | None = None,
) -> AlphaPath:
    """The path of uniform imitation.

    among: (size,) mask of the units that may be picked; the atoms are those of the whole network.

    kind: "mean" atoms as published, or "norm" (see gram.atoms). steps: most picks with replacement
    (default: 4 x units); those that were never picked by then follow in greedy order without replacement.
    The errors are those of the imitation itself and need not fall.
    """
    limit = 4 * g.size if steps is None else steps
    if limit < 0:
        raise InputError(f"steps {steps}: must not be negative")
    pi, live, k = atoms(g, kind)
    live = live if among is None else live & among
    seen, walk, energy = Recorder(g), _Walk(k), 0.0
    # Departure from the paper: its order need not hold every unit, a path must.
    while bool((live & walk.never).any()) or (replacement and walk.n < limit and bool(live.any())):
        i, rise = walk.best(live if replacement and walk.n < limit else live & walk.never)
        energy += rise
        walk.take(i)
        error = max(energy, 0.0) / walk.n**2 / (g.power or 1.0)
        seen.see(i, error, walk.count / (walk.n * pi))
    return seen.path()


class _Walk:
    """Picks so far, and p: see above."""

    def __init__(self, k: Tensor) -> None:
        self.k, self.diagonal, self.n = k, k.diagonal(), 0
        self.p, self.count = torch.zeros_like(self.diagonal), torch.zeros_like(self.diagonal)

    @property
    def never(self) -> Tensor:
        return self.count == 0

    def best(self, allowed: Tensor) -> tuple[int, float]:
        """The pick that the rule makes among `allowed`, and by how much U then rises."""
        score = (2 * self.p + self.diagonal).masked_fill(~allowed, torch.inf)
        i = int(score.argmin())
        return i, float(score[i])

    def take(self, i: int) -> None:
        self.p += self.k[:, i]
        self.count[i] += 1
        self.n += 1


def imitation_errors(g: Gram, steps: int, *, kind: str = "mean") -> Tensor:
    """(steps,) relative error after each of many picks with replacement: what the paper's rates speak of."""
    _, live, k = atoms(g, kind)
    walk, energy, errors = _Walk(k), 0.0, torch.zeros(steps, dtype=torch.float64)
    for n in range(1, steps + 1):
        i, rise = walk.best(live)
        energy = max(energy + rise, 0.0)
        walk.take(i)
        if n % 64 == 0 or n == steps:  # the running sum is a difference of large numbers
            energy = max(float(walk.count @ walk.p), 0.0)
        errors[n - 1] = energy / n**2
    return errors / (g.power or 1.0)


def rate_bound(g: Gram, n: int, *, kind: str = "mean") -> float:
    """max_i |phi_i - r|^2 / n, relative: no pick sequence with replacement errs more after n picks.

    Holds when r is in the convex hull of the atoms, as it is when the target is the consumers' own output.
    """
    return constants(g, kind=kind).first(n)


@dataclass(frozen=True)
class Constants:
    """What the rates of imitation with replacement depend on; squares are relative to the power of the target."""

    farthest: float  # D^2 = max_i |phi_i - r|^2
    radius: float  # a ball of that radius around r, within the atoms' affine span, is sure to be in their hull
    inside: bool  # r is the atoms' mean with the weights pi, so it is in their hull

    def first(self, n: int) -> float:
        """D^2 / n: some atom is no worse than one drawn with the weights that make r."""
        _at_least_one(n)
        return self.farthest / n

    def second(self, n: int) -> float:
        """max(D^2, D^4 / 4 r^2) / n^2: some atom lies at least r behind r, seen from where u points."""
        _at_least_one(n)
        if self.radius <= 0:
            return math.inf
        return max(self.farthest, self.farthest**2 / (4 * self.radius**2)) / n**2


def constants(g: Gram, *, kind: str = "mean") -> Constants:
    """D and a lower bound on the radius of the largest ball around r in the hull of the atoms.

    For any unit vector v of the span, the numbers <v, phi_i - r> have mean 0 under pi and are at least -D, so their
    largest is at least their variance / D (Bhatia and Davis), and no variance is below the smallest eigenvalue.
    """
    pi, live, k = atoms(g, kind)
    if not bool(live.any()):
        return Constants(0.0, 0.0, inside=True)
    power, k = g.power or 1.0, k[live][:, live]
    root = pi[live].sqrt()
    spread = torch.linalg.eigvalsh(root[:, None] * k * root)
    within = spread[spread > len(spread) * torch.finfo(k.dtype).eps * spread[-1].clamp_min(0)]
    farthest = max(float(k.diagonal().max()), 0.0)
    least = float(within[0]) if len(within) else 0.0
    radius = least / math.sqrt(farthest) if farthest > 0 else 0.0
    own = (g.matrix.sum(1) - g.cross).abs().max() <= 1e-8 * g.cross.abs().max()
    return Constants(farthest / power, radius / math.sqrt(power), inside=bool(own))


def picks_within(g: Gram, most: int, *, kind: str = "mean") -> tuple[int, frozenset[int], float]:
    """How often the rule picks before it would take more than `most` different units, which ones, and the error then.

    At most 4 x units picks, as in `uniform`.
    """
    _, live, k = atoms(g, kind)
    walk = _Walk(k)
    while walk.n < 4 * g.size and bool(live.any()):
        i, _ = walk.best(live)
        if bool(walk.never[i]) and int((~walk.never).sum()) == most:
            break
        walk.take(i)
    error = max(float(walk.count @ walk.p), 0.0) / max(walk.n, 1) ** 2 / (g.power or 1.0)
    return walk.n, frozenset((~walk.never).nonzero().flatten().tolist()), error


def _at_least_one(n: int) -> None:
    if n < 1:
        raise InputError(f"the bound needs at least one pick, got {n}")
