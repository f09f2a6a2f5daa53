"""Whether a penalty can do anything in the training at hand, told before it starts.

The measure is what the penalty alone would take off a weight of mean size over the whole run, with nothing against it,
going by its pull as it will be: coefficients are followed to where they come. A penalty that knows better has `reach`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.errors import InputError

LONG = 100_000  # steps that a training of unknown length is taken to have
IDLE = 0.25  # share of its size that a weight must be able to lose
FEW = 0.02  # share of the weights that a threshold must be able to empty
PARTS = 400  # pieces that a path is followed in
HALVINGS = 60


@torch.no_grad()
def reach(
    penalty: Any,
    weights: Sequence[Tensor],
    state: dict[str, Any],
    *,
    steps: float,
    lr: float,
    boost: float,
) -> float:
    """Share of its size that a weight of mean size loses in so many steps at most; 1 and more: it can vanish."""
    own = getattr(penalty, "reach", None)
    if own is not None:
        return float(own(weights, state, steps=steps, lr=lr, boost=boost))
    pull = sum(float(p.abs().sum()) for p in penalty.push(weights, state))
    return steps * lr * boost * pull / max(sum(float(w.abs().sum()) for w in weights), 1e-30)


def why_idle(
    penalty: Any,
    weights: Sequence[Tensor],
    state: dict[str, Any],
    *,
    steps: float,
    lr: float,
    boost: float = 1.0,
) -> str | None:
    """Why these settings can do nothing; None: they can do something."""
    if not penalty.pushes and not penalty.proximal:
        return None
    lost = reach(penalty, weights, state, steps=steps, lr=lr, boost=boost)
    if lost >= IDLE:
        return None
    remedy = getattr(penalty, "remedy", "raise its strength")
    what = "gates" if hasattr(penalty, "gates") else "weights"
    return (
        f"{type(penalty).__name__} does nothing with these settings: in {round(steps):,} steps at learning rate {lr:g} "
        f"it can take no more than {lost:.1%} of their size off the {what}; {remedy}, or train longer"
    )


def normalised(penalty: Any, optimizer: torch.optim.Optimizer) -> str | None:
    """Why this optimiser takes the effect from a pull; None: it does not."""
    if not penalty.pushes or hasattr(penalty, "gates") or not adaptive(optimizer):
        return None
    instead = next((m for m in ("proximal", "prox") if _takes(penalty, m)), None)
    advice = f"take mode={instead}, or SGD" if instead else "take SGD"
    return (
        f"{type(optimizer).__name__} divides a gradient by its size, and the pull of {type(penalty).__name__} with it: "
        f"how hard it shrinks is no longer what its settings say; {advice}"
    )


def adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Whether steps do not grow with the gradient, as in Adam and its relatives."""
    optim = torch.optim
    kinds = (optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Rprop)
    named = any(n in type(optimizer).__name__.lower() for n in ("adam", "adafactor", "lion"))
    return (
        named or isinstance(optimizer, kinds) or any("betas" in g for g in optimizer.param_groups)
    )


def _takes(penalty: Any, mode: str) -> bool:
    field = type(penalty).__dataclass_fields__.get("mode")
    return field is not None and f'"{mode}"' in str(field.type).replace("'", '"')


def highest_rate(group: dict[str, Any]) -> float:
    """The learning rate that a parameter group comes to: what a schedule begins with may be less."""
    return max(float(group.get(key, 0.0)) for key in ("lr", "initial_lr", "max_lr"))


def path(
    slope: Callable[[float], float], *, start: float, least: float, length: float
) -> list[float]:
    """A coefficient that goes down a slope for so long (steps times rate), at evenly spaced times.

    Where a piece would jump over the point without slope it stops there: a slope that rises has one.

    >>> round(path(lambda x: 2 * x - 1, start=1.0, least=0.0, length=1e6)[-1], 9)
    0.5
    """
    now, piece, found = start, length / PARTS, []
    for _ in range(PARTS):
        found.append(now)
        here = slope(now)
        then = max(least, now - piece * here)
        if here * slope(then) < 0:
            low, high = min(now, then), max(now, then)
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (low, middle) if slope(middle) > 0 else (middle, high)
            then = high
        now = then
    return found


def refuse_pulls(
    model: nn.Module, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Refuse what a pull on every weight does not go together with: maximising, and sparse gradients."""
    mine = {id(w): name for name, w in weights.items()}
    for group in optimizer.param_groups:
        found = [mine[id(p)] for p in group["params"] if id(p) in mine]
        if found and group.get("maximize"):
            raise InputError(
                f"the optimiser maximises with {found[0]}, and a pull towards zero would push it away; minimise the "
                "negative instead"
            )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) and id(getattr(module, "weight", None)) in mine:
            raise InputError(
                f"{name or 'the model'} gives sparse gradients, which a penalty on every weight cannot be added to; "
                "build it with sparse=False, or exclude it"
            )
