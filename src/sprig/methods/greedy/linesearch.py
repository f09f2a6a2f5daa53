"""`linesearch`: imitation with the best step instead of 1/(n+1), as in the follow-up of greedy forward selection.

Ye, Wu, Liu, "Greedy Optimization Provably Wins the Lottery" (NeurIPS 2020); the step is Frank-Wolfe with exact line
search. Letters (see gram.py, uniform.py): a on the simplex, f = sum a_i phi_i, E = |f - r|^2,
p_i = <f - r, phi_i - r> = (K a)_i. A step:

    num_i = E - p_i;  den_i = K_ii - 2 p_i + E;  gamma_i = clip(num_i / den_i, lo_i, 1);
    E'_i = E - 2 gamma_i num_i + gamma_i^2 den_i;   take the smallest;   a <- (1 - gamma) a + gamma e_i.

lo_i = 0, or -a_i / (1 - a_i) with `shrink`, which lets a unit lose weight or leave. alpha_i = a_i / pi_i.
"""

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.methods.greedy.gram import AlphaPath, Gram, Recorder, atoms

REFRESH = 64  # steps between evaluations of p and E from scratch


def linesearch(
    g: Gram,
    *,
    shrink: bool = False,
    kind: str = "mean",
    steps: int | None = None,
    among: Tensor | None = None,
) -> AlphaPath:
    """The path of line-searched imitation.

    among: (size,) mask of the units that may enter; the atoms are those of the whole network.

    For every number of units the best factors met. kind: see gram.atoms. steps: most steps over present units
    (default 10 x units); from there on, or after as many steps without a new unit as there are units, only
    units that were never in may enter. Units whose entry would not lower the error come last with factor 0.
    With `shrink` the units of alpha(n) need not be the first n of `order`.
    """
    limit = 10 * g.size if steps is None else steps
    if limit < 0:
        raise InputError(f"steps {steps}: must not be negative")
    pi, live, k = atoms(g, kind)
    live = live if among is None else live & among
    seen = Recorder(g)
    if not bool(live.any()):
        return seen.path()
    scale, diagonal = g.power or 1.0, k.diagonal()
    i = int(diagonal.masked_fill(~live, torch.inf).argmin())
    a = torch.zeros_like(pi)
    a[i] = 1.0
    fresh = live.clone()
    fresh[i] = False
    p, energy, n, last_new = k[:, i].clone(), float(k[i, i]), 1, 1
    seen.see(i, energy / scale, a / pi)
    while n < limit or bool(fresh.any()):
        only_fresh = bool(fresh.any()) and (n >= limit or n - last_new >= g.size)
        num, den = energy - p, diagonal - 2 * p + energy
        low = -a / (1 - a).clamp_min(1e-12) if shrink else torch.zeros_like(a)
        gamma = torch.where(den > 1e-14 * scale, num / den.clamp_min(1e-300), 0.0)
        gamma = torch.minimum(torch.maximum(gamma, low), torch.ones_like(gamma))
        after = energy - 2 * gamma * num + gamma.square() * den
        i = int(after.masked_fill(~(fresh if only_fresh else live), torch.inf).argmin())
        if not float(after[i]) < energy * (1 - 1e-12):
            if not only_fresh or n >= limit:
                break
            last_new = n  # no new unit helps yet; go on with those that are in
            continue
        step, leaves = float(gamma[i]), float(gamma[i]) <= float(low[i]) < 0
        a = (1 - step) * a
        a[i] += step
        if leaves:
            a[i] = 0.0
        p, energy, n = (1 - step) * p + step * k[:, i], max(float(after[i]), 0.0), n + 1
        if bool(fresh[i]):
            fresh[i], last_new = False, n
        if n % REFRESH == 0:
            p = k @ a
            energy = max(float(a @ p), 0.0)
        seen.see(i, energy / scale, a / pi)
    return seen.path()
