"""How far an output has moved from the dense network's: one number per sample, lower is better.

Class scores: KL(dense || changed), its mean over the positions of a sequence.
Anything else: squared distance relative to the dense output's own spread.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def looks_like_scores(outputs: Sequence[Tensor], *, named: bool = False) -> bool:
    """One tensor (samples, classes) of at least two classes; if the model names it its logits, of positions too."""
    if len(outputs) != 1 or outputs[0].dim() not in ((2, 3) if named else (2,)):
        return False
    return outputs[0].shape[-1] > 1


def harm(dense: Sequence[Tensor], changed: Sequence[Tensor], *, scores: bool) -> Tensor:
    """(samples,) harm.

    >>> same = [torch.tensor([[1.0, 2.0]])]
    >>> float(harm(same, same, scores=True)[0])
    0.0
    """
    if scores:
        p = dense[0].double().log_softmax(-1)
        q = changed[0].double().log_softmax(-1)
        gap = (p.exp() * (p - q)).sum(-1).clamp_min(0)
        return gap if gap.dim() == 1 else gap.flatten(1).mean(1)
    lost, power = None, 0
    samples = max((len(a) for a in dense if a.dim()), default=0)
    for a, b in zip(dense, changed, strict=True):
        if (
            not a.dim() or len(a) != samples
        ):  # e.g. a loss beside the scores: not one row per sample
            continue
        a, b = a.double().reshape(samples, -1), b.double().reshape(samples, -1)
        spread = (
            float((a - a.mean(0)).square().sum(1).mean()) or float(a.square().sum(1).mean()) or 1.0
        )
        here = (a - b).square().sum(1) / spread
        lost = here if lost is None else lost + here
        power += 1
    if lost is None:
        return torch.zeros(0, dtype=torch.float64)
    return lost / power
