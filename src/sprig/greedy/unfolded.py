"""Greedy picks of a feature-based set function, unfolded into steps that gradients pass through.

At every step each item has a gain; an argmax would take the best one, here a softmax shares the step out, so that what
the features are made by can learn from which items should have been picked (deep unfolding; after Powers et al. 2018,
whose text was not at hand: this is a reconstruction). Modes:
 - soft: shares s in [0, 1], p = softmax of the gains over temperature; differentiable;
 - sampled: at every step one item drawn from that softmax, the set is hard; log-likelihoods for score-function
   gradients (Sakaue 2021); with epsilon = temperature x scale the mean worth is at least
   (1 - 1/e) (best - k epsilon ln N), because a step loses at most epsilon ln N to the best gain;
 - hard: the argmax, in float64, equal gains to the lowest number: the picks of `maximise` on the same function.

Letters: m (B, N, U) features, w (B, U) weights, s (B, N) shares, c (B, U) what is joined, g (B, N) gains, p (B, N).

The soft step departs from the plain recipe p = softmax(g/tau + log(1 - s)), s + p. There a pick of share 1 - e^(-d/tau)
leaves a remainder whose gain, that of one more copy, can outweigh the next item's at every tau: with a linear curve the
second step picks the first item again with half its weight, however small tau. Here no step takes more of an item than
there is left:  p_j = (1 - s_j) min(1, e^(g_j/tau - theta)),  theta such that they sum to 1, which is the distribution
nearest to the plain one under that limit. So shares stay in [0, 1], t of them are held after t steps, with shares of 0
and 1 it is the softmax of the items left, and the limit tau -> 0 is greedy wherever the best gain is unique.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.greedy.features import Curve, curve_of
from sprig.greedy.record import TIE

MODES = ("soft", "sampled", "hard")
GONE = 1e-30  # what is left of an item that is wholly in, for the logarithm


@dataclass(frozen=True)
class Walk:
    """What the steps did. B examples (times draws, one draw of all examples after another), K the largest budget."""

    steps: Tensor  # (B, K, N) how each step shares itself out; rows of 0 behind an example's budget
    held: Tensor  # (B, K, N) shares before each step
    chosen: Tensor  # (B, N) shares after the last step; 0 and 1 if sampled or hard
    worth: Tensor  # (B,) f of them
    budgets: Tensor  # (B,) picks of each example
    picks: Tensor | None = None  # (B, K) items in order, -1 behind the budget; None if soft
    likelihood: Tensor | None = (
        None  # (B,) log of the chance of these picks in this order; if sampled
    )
    draws: int = 1


def unfold(
    features: Tensor,
    budgets: int | Sequence[int] | Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    curve: str = "sqrt",
    temperature: float = 1.0,
    scale: float | Tensor = 1.0,
    mode: str = "soft",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Walk:
    """Walk greedily through the items of every example of a batch.

    features: (B, N, U), at least 0. budgets: picks of each example, one number for all or (B,). weights: (U,) or
    (B, U), at least 0. mask: (B, N), True for items, False for padding. curve: a name in `CURVES`. Gains are divided
    by temperature times scale. draws, generator: of the sampled mode only.

    >>> from sprig.greedy import unfold
    >>> words = torch.tensor([[[4.0, 0.0], [3.9, 0.0], [0.0, 1.0]]])
    >>> unfold(words, 2, mode="hard").picks.tolist()
    [[0, 2]]
    >>> unfold(words, 2, temperature=1e-4).chosen.round(decimals=3).tolist()
    [[1.0, 0.0, 1.0]]
    """
    shape = curve_of(curve)
    real, wanted = _checked(features, budgets, mask, shape, curve)
    w = _weights(features, weights)
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if not temperature > 0 or not float(scale) > 0:
        raise InputError(
            f"temperature and scale are above 0, found {temperature} and {float(scale)}; "
            "the limit 0 is mode='hard'"
        )
    if (draws != 1 or generator is not None) and mode != "sampled":
        raise InputError(f"draws and a generator are for mode='sampled', found mode={mode!r}")
    m = features.masked_fill(~real[..., None], 0)
    if mode == "hard":
        with torch.no_grad():
            return _hard(m.double(), w.double(), real, wanted, shape)
    if mode == "soft":
        return _soft(m, w, real, wanted, shape, scale * temperature)
    if generator is None or draws < 1:
        raise InputError(
            f"sampling needs a generator and at least one draw, found {generator} and {draws}"
        )
    m, w, real, wanted = (t.repeat(draws, *[1] * (t.ndim - 1)) for t in (m, w, real, wanted))
    return _sampled(m, w, real, wanted, shape, scale * temperature, generator, draws)


def gains(m: Tensor, w: Tensor, s: Tensor, shape: Curve) -> Tensor:
    """(B, N) what a whole item more brings."""
    c = shape.gather(s, m)[:, None]
    return torch.einsum("bnu,bu->bn", shape.rise(c, m), w)


def share_out(g: Tensor, left: Tensor) -> Tensor:
    """left x min(1, e^(g - theta)) with a sum of 1, in the last dimension; left in [0, 1], its sum at least 1.

    >>> share_out(torch.tensor([9.0, 1.0, 1.0]), torch.tensor([0.2, 1.0, 1.0]))
    tensor([0.2000, 0.4000, 0.4000])
    """
    dtype = g.dtype  # gains over a low temperature are large: half of the digits would not do
    g, left = g.double() - g.detach().double().amax(-1, keepdim=True), left.double()
    order = g.argsort(
        -1, descending=True
    )  # the items of the largest gain are the first to be used up
    high, there = g.gather(-1, order), left.gather(-1, order)
    room = 1 - (there.cumsum(-1) - there)  # if all before are used up
    rest = (high + there.clamp_min(GONE).log()).flip(-1).logcumsumexp(-1).flip(-1)
    theta = rest - room.clamp_min(GONE).log()
    rounding = 4 * torch.finfo(g.dtype).eps * (1 + high.abs())
    fits = (room > 0) & (theta >= high - rounding)
    fits[..., -1] = True  # whatever rounding did: nothing is left over
    theta = theta.gather(-1, fits.int().argmax(-1, keepdim=True))
    return (left * (g - theta).clamp_max(0).exp()).to(dtype)


def _soft(
    m: Tensor, w: Tensor, real: Tensor, wanted: Tensor, shape: Curve, tau: float | Tensor
) -> Walk:
    s = torch.zeros_like(m[..., 0])
    steps, held = list[Tensor](), list[Tensor]()
    for active in _steps(wanted):
        p = share_out(gains(m, w, s, shape) / tau, (1 - s) * real) * active[:, None]
        steps.append(p)
        held.append(s)
        s = (s + p).clamp_max(1)
    return _walk(m, w, s, shape, wanted, steps, held)


def _hard(m: Tensor, w: Tensor, real: Tensor, wanted: Tensor, shape: Curve) -> Walk:
    s = torch.zeros_like(m[..., 0])
    steps, held, picks = list[Tensor](), list[Tensor](), list[Tensor]()
    for active in _steps(wanted):
        g = gains(m, w, s, shape).masked_fill(~real | (s > 0), -torch.inf)
        top = g.amax(-1, keepdim=True)
        # a row without items left has no finite gain; it is behind its budget
        pick = (g >= top - TIE * top.abs()).int().argmax(-1)
        one = torch.nn.functional.one_hot(pick, m.shape[1]).to(s) * active[:, None]
        steps.append(one)
        held.append(s)
        picks.append(torch.where(active, pick, -1))
        s = s + one
    return _walk(m, w, s, shape, wanted, steps, held, picks=picks)


def _sampled(
    m: Tensor,
    w: Tensor,
    real: Tensor,
    wanted: Tensor,
    shape: Curve,
    tau: float | Tensor,
    generator: torch.Generator,
    draws: int,
) -> Walk:
    s = torch.zeros_like(m[..., 0])
    likelihood = torch.zeros_like(s[:, 0])
    steps, held, picks = list[Tensor](), list[Tensor](), list[Tensor]()
    for active in _steps(wanted):
        off = (~real | (s > 0)) & active[:, None]
        logits = (gains(m, w, s, shape) / tau).masked_fill(off, -torch.inf)
        logs = logits.log_softmax(-1)
        p = logs.exp() * active[:, None]
        pick = torch.multinomial(logs.detach().exp(), 1, generator=generator)[:, 0]
        likelihood = likelihood + torch.where(active, logs.gather(1, pick[:, None])[:, 0], 0)
        steps.append(p)
        held.append(s)
        picks.append(torch.where(active, pick, -1))
        s = s + torch.nn.functional.one_hot(pick, m.shape[1]).to(s) * active[:, None]
    return _walk(m, w, s, shape, wanted, steps, held, picks, likelihood, draws)


def _walk(
    m: Tensor,
    w: Tensor,
    s: Tensor,
    shape: Curve,
    wanted: Tensor,
    steps: list[Tensor],
    held: list[Tensor],
    picks: list[Tensor] | None = None,
    likelihood: Tensor | None = None,
    draws: int = 1,
) -> Walk:
    worth = (shape.height(shape.gather(s, m)) * w).sum(-1)
    none = s.new_zeros(len(s), 0, s.shape[1])
    order = None
    if picks is not None:
        order = torch.stack(picks, 1) if picks else wanted.new_zeros(len(s), 0)
    return Walk(
        torch.stack(steps, 1) if steps else none,
        torch.stack(held, 1) if held else none,
        s,
        worth,
        wanted,
        order,
        likelihood,
        draws,
    )


def _steps(wanted: Tensor) -> list[Tensor]:
    """For each step, (B,) who still has picks to make."""
    return [wanted > step for step in range(int(wanted.max()))]


def _checked(
    features: Tensor,
    budgets: int | Sequence[int] | Tensor,
    mask: Tensor | None,
    shape: Curve,
    curve: str,
) -> tuple[Tensor, Tensor]:
    """(B, N) what is no padding, (B,) picks of each example."""
    if features.ndim != 3 or 0 in features.shape or not features.is_floating_point():
        raise InputError(
            "features are real numbers of shape (examples, items, concepts), "
            f"found {tuple(features.shape)} {features.dtype}"
        )
    examples, items, _ = features.shape
    if mask is None:
        mask = torch.ones(examples, items, dtype=torch.bool, device=features.device)
    check_mask(mask, (examples, items))
    wanted = torch.as_tensor(budgets, device=features.device)
    if wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(f"budgets are whole numbers of picks, found {wanted.dtype}")
    if wanted.shape not in ((), (examples,)):
        raise InputError(
            f"{examples} examples need one budget or as many, found {tuple(wanted.shape)}"
        )
    wanted = wanted.to(torch.int64).expand(examples)
    many = mask.sum(1)
    bad = ((wanted < 0) | (wanted > many)).nonzero().flatten()
    if len(bad):
        at = int(bad[0])
        raise InputError(f"{int(wanted[at])} picks asked of the {int(many[at])} items of row {at}")
    with torch.no_grad():
        seen = features.masked_fill(~mask[..., None], 0)
        if not bool(seen.isfinite().all()) or float(seen.min()) < 0:
            raise InputError("features are finite numbers of at least 0, found others")
        if float(seen.max()) > shape.most:
            raise InputError(
                f"the curve {curve!r} is for features of at most {shape.most:g}, found {float(seen.max()):.6g}"
            )
    return mask, wanted


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless it is a mask of items."""
    if mask.shape != shape or mask.dtype != torch.bool:
        raise InputError(
            f"a mask is True for items and False for padding, of shape {shape}, "
            f"found {tuple(mask.shape)} {mask.dtype}"
        )


def _weights(features: Tensor, weights: Tensor | None) -> Tensor:
    examples, _, concepts = features.shape
    if weights is None:
        return features.new_ones(examples, concepts)
    if weights.shape not in ((concepts,), (examples, concepts)):
        raise InputError(
            f"weights have shape {(concepts,)} or {(examples, concepts)}, found {tuple(weights.shape)}"
        )
    if not bool(weights.isfinite().all()) or float(weights.detach().min()) < 0:
        raise InputError("weights are finite numbers of at least 0, found others")
    return weights.to(features.dtype).expand(examples, concepts)
