"""`uniform`: local imitation with uniform weights, the two-layer algorithm of greedy forward selection.

Ye, Gong, Nie, Zhou, Klivans, Liu, "Good Subnetworks Provably Exist" (ICML 2020). Letters (see gram.py for G, b, r):
phi_i = z_i / pi_i the atoms (paper: pi_i = 1/N, the network is the mean of its neurons), f_n the mean of the n atoms
picked so far, u = n (f_n - r), U = |u|^2, p_i = <u, phi_i - r>, K_ij = <phi_i - r, phi_j - r>. A step:

    pick i = argmin 2 p_i + K_ii;   U <- U + 2 p_i + K_ii;   p <- p + K_:i;   error = U / n^2.

Units may be picked again (with replacement), so alpha_i = count_i / (n pi_i). Without replacement, as in the
released code, every unit that stays is scaled by the same N / n.
"""

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
    seen = Recorder(g)
    count = torch.zeros_like(pi)
    p, energy, n = torch.zeros_like(pi), 0.0, 0
    diagonal = k.diagonal()
    # Departure from the paper: its order need not hold every unit, a path must.
    while bool((live & (count == 0)).any()) or (replacement and n < limit and bool(live.any())):
        score = 2 * p + diagonal
        allowed = live if replacement and n < limit else live & (count == 0)
        i = int(score.masked_fill(~allowed, torch.inf).argmin())
        energy += float(score[i])
        p += k[:, i]
        count[i] += 1
        n += 1
        seen.see(i, max(energy, 0.0) / n**2 / (g.power or 1.0), count / (n * pi))
    return seen.path()


def imitation_errors(g: Gram, steps: int, *, kind: str = "mean") -> Tensor:
    """(steps,) relative error after each of many picks with replacement: what the paper's rates speak of."""
    _, live, k = atoms(g, kind)
    p, energy = torch.zeros_like(g.cross), 0.0
    errors, counts = torch.zeros(steps, dtype=torch.float64), torch.zeros_like(p)
    diagonal = k.diagonal()
    for n in range(1, steps + 1):
        score = (2 * p + diagonal).masked_fill(~live, torch.inf)
        i = int(score.argmin())
        energy = max(energy + float(score[i]), 0.0)
        p += k[:, i]
        counts[i] += 1
        if n % 64 == 0 or n == steps:  # the running sum is a difference of large numbers
            energy = max(float(counts @ p), 0.0)
        errors[n - 1] = energy / n**2
    return errors / (g.power or 1.0)


def rate_bound(g: Gram, n: int, *, kind: str = "mean") -> float:
    """max_i |phi_i - r|^2 / n, relative: no pick sequence with replacement errs more after n picks.

    Holds when r is in the convex hull of the atoms, as it is when the target is the consumers' own output.
    """
    if n < 1:
        raise InputError(f"the bound needs at least one pick, got {n}")
    _, live, k = atoms(g, kind)
    return float(k.diagonal()[live].max()) / n / (g.power or 1.0)
