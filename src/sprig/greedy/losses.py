"""What a greedy network learns from: items to be picked, aspects to be covered, or a reward of sets."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sprig.core.errors import InputError
from sprig.greedy.unfolded import Walk

TINY = 1e-30  # a chance that the logarithm is still taken of
EDGE = 1e-6  # shares are kept this far from 0 and 1 in a cross-entropy


def gold_loss(walk: Walk, gold: Tensor) -> Tensor:
    """Mean over steps of -log of the chance that the step picks what is still wanted.

    gold: (B, N), not 0 for items that should be picked, in whatever order: wanted is gold that is not held. Or
    (B, N, A), not 0 where an item serves an aspect: wanted is an item that serves an aspect which none held serves.
    What is wanted is a target, no gradient goes through it. Steps behind the number of gold items, or of aspects
    that some item serves, have no target and do not count; an example without any is refused.
    """
    y = _gold(walk, gold)
    if y.ndim == 2:
        wanted, aims = y[:, None] * (1 - walk.held.detach()), y.sum(-1)
    else:
        held = walk.held.detach()
        opened = (1 - held[..., None] * y[:, None]).prod(
            2
        )  # (B, K, A) chance that nothing held serves
        wanted = 1 - (1 - y[:, None] * opened[:, :, None]).prod(-1)
        aims = (y.amax(1) > 0).sum(-1)
    if not bool((aims > 0).all()):
        raise InputError(f"example {int((aims == 0).nonzero()[0])} has no gold item to learn from")
    step = torch.arange(walk.steps.shape[1], device=y.device)
    counts = step < torch.minimum(aims, walk.budgets.to(aims))[:, None]
    if not bool(counts.any()):
        raise InputError("no example has a budget: there is no step to learn from")
    chance = (walk.steps * wanted).sum(-1)
    return -(chance.clamp_min(TINY).log() * counts).sum() / counts.sum()


def membership_loss(walk: Walk, gold: Tensor, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the final shares against gold (B, N); mask (B, N): True for items, False for padding."""
    y = _gold(walk, gold)
    if y.ndim != 2:
        raise InputError(f"membership is (examples, items), found {tuple(gold.shape)}")
    real = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    shares = walk.chosen.clamp(EDGE, 1 - EDGE)
    return F.binary_cross_entropy(shares[real], y[real])


def reward_loss(walk: Walk, rewards: Tensor) -> Tensor:
    """Minus the mean reward, as far as its gradient goes: an unbiased estimate from sampled walks.

    rewards: (draws x B,), what `walk.chosen` earns, in the walk's order. Each draw is compared with the mean of the
    other draws of its example (Kool et al. 2019), which keeps the estimate unbiased and much of the noise out.
    """
    if walk.likelihood is None:
        raise InputError("a reward needs a walk of mode='sampled'; gold_loss is for soft ones")
    if rewards.shape != walk.likelihood.shape:
        raise InputError(
            f"a reward for each of {len(walk.likelihood)} walks, found {tuple(rewards.shape)}"
        )
    if walk.draws < 2:
        raise InputError("each draw is compared with the others: at least two draws, found 1")
    earned = rewards.detach().to(walk.likelihood).reshape(walk.draws, -1)
    above = (earned - earned.mean(0)) * walk.draws / (walk.draws - 1)  # less the others' mean
    return -(above.flatten() * walk.likelihood).mean()


def _gold(walk: Walk, gold: Tensor) -> Tensor:
    """As 0 and 1, checked."""
    if gold.ndim not in (2, 3) or gold.shape[:2] != walk.chosen.shape:
        raise InputError(
            f"gold is (examples, items) = {tuple(walk.chosen.shape)}, with aspects behind if there are, "
            f"found {tuple(gold.shape)}"
        )
    return (gold != 0).to(walk.chosen)
