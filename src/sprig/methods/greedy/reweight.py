"""`reweight`: scalar pursuit. The consumers keep their weights; each kept unit gets one factor, solved exactly.

Letters (see gram.py): c residual correlations (start b), d residual norms (start diag G), V the picked columns of the
Cholesky factor of G. A step, v and w for the pick i = argmax c_i^2 / d_i:

    v = (G_:i - V V_i:^T) / sqrt(d_i);   w = c_i / sqrt(d_i);   c <- c - w v;   d <- d - v^2;   E <- E - w^2.

That is orthogonal least squares; `classic` picks by c_i^2 / G_ii, which is orthogonal matching pursuit.
The factors after n picks are L^-T w, a running sum over the columns of L^-T.
"""

import torch
from torch import Tensor

from sprig.methods.greedy.gram import AlphaPath, Gram


def reweight(g: Gram, *, classic: bool = False, among: Tensor | None = None) -> AlphaPath:
    """The path of scalar pursuit; the errors never rise. Factors may be negative.

    among: (size,) mask of the units that may be picked.

    Units that add nothing new (residual norm below 1e-10 of their start) come last, with factor 0.
    """
    size = g.size
    start = g.matrix.diagonal().clone()
    live = start > 1e-24 * start.max() if size else start > 0
    live = live if among is None else live & among
    c, d = g.cross.clone(), start.clone()
    v = torch.zeros(size, size, dtype=torch.float64)  # row t: the t-th pick's v
    w = torch.zeros(size, dtype=torch.float64)
    order: list[int] = []
    open_ = live.clone()
    for t in range(size):
        open_ &= d > 1e-10 * start
        if not bool(open_.any()):
            break
        score = c.square() / torch.where(open_, start if classic else d, 1.0)
        i = int(score.masked_fill(~open_, -1.0).argmax())
        root = d[i].sqrt()
        v[t] = (g.matrix[i] - v[:t, i] @ v[:t]) / root
        w[t] = c[i] / root
        c -= w[t] * v[t]
        d -= v[t].square()
        open_[i] = False
        order.append(i)
    n = len(order)
    lower = v[:n][:, order].mT  # L of G_SS, rows in order of picking
    inverse = torch.linalg.solve_triangular(
        lower.tril().mT, torch.eye(n, dtype=torch.float64), upper=True
    )
    alphas = torch.zeros(size + 1, size, dtype=torch.float64)
    alphas[1 : n + 1, order] = (inverse * w[:n]).cumsum(1).mT
    alphas[n + 1 :] = alphas[n]
    errors = torch.full((size + 1,), g.rest, dtype=torch.float64)
    errors[1 : n + 1] -= w[:n].square().cumsum(0)
    errors[n + 1 :] = errors[n]
    order += [i for i in range(size) if i not in set(order)]
    scaled = errors.clamp_min(0) / (g.power or 1.0)
    return AlphaPath(tuple(order), tuple(scaled.tolist()), alphas)
