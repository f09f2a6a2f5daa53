"""The greedy engine: a rule walks an objective and leaves a trail.

Rules are plain functions `rule(objective, steps, *, start=()) -> Trail`; an objective is anything with the four
members of `core.contracts.Objective`. The two meet only through `gains` and `add`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprig.core.contracts import Objective
from sprig.core.errors import DivergenceError, InputError


@dataclass(frozen=True)
class Trail:
    """Picks in order, what each brought, and the error before the first and after each."""

    picks: tuple[int, ...]
    gains: tuple[float, ...]  # one per pick
    values: tuple[float, ...]  # one more than picks


def exact(
    objective: Objective,
    steps: int,
    *,
    start: Sequence[int] = (),
    among: Tensor | None = None,
    look: Callable[[Tensor], Tensor] | None = None,
    slack: float = 0.0,
) -> Trail:
    """Take the candidate of the largest gain, every candidate measured at every step.

    among: the items that may be picked, in rising order (all, if None). look: which of those left are measured at a
    step, in rising order (all, if None); a rule that samples is this walk with another look. slack: see `best`.
    """
    state = objective.start()
    values = [objective.value(state)]
    picks: list[int] = []
    gains: list[float] = []
    left = torch.arange(objective.size) if among is None else among

    def take(pick: int, gain: float) -> None:
        nonlocal state, left
        state = objective.add(state, pick)
        picks.append(pick)
        gains.append(gain)
        values.append(objective.value(state))
        if not math.isfinite(values[-1]):
            raise DivergenceError(f"the error after picking {picks} is {values[-1]}")
        left = left[left != pick]

    for pick in start:
        gain = float(gains_of(objective, state, torch.tensor([int(pick)]))[0])
        if gain == -math.inf:
            raise InputError(f"item {int(pick)} cannot be added to {sorted(picks)}")
        take(int(pick), gain)
    while len(picks) < steps:
        seen = left if look is None or not len(left) else look(left)
        chosen, gain = best(gains_of(objective, state, seen), seen, slack=slack)
        if chosen is None and len(seen) < len(left):  # none of the sample can be added
            chosen, gain = best(gains_of(objective, state, left), left, slack=slack)
        if chosen is None:
            break
        take(chosen, gain)
    return Trail(tuple(picks), tuple(gains), tuple(values))


def best(gains: Tensor, candidates: Tensor, *, slack: float = 0.0) -> tuple[int | None, float]:
    """The candidate of the largest gain, the first among equals; None if none can be added.

    slack: how far apart equals may be, as a part of the largest gain: what rounding does to equal items.
    """
    if not len(candidates):
        return None, 0.0
    at = int(gains.argmax())  # the first of equal values
    if slack:
        at = int((gains >= gains[at] - slack * gains[at].abs()).nonzero()[0])
    gain = float(gains[at])
    return (None, 0.0) if gain == -math.inf else (int(candidates[at]), gain)


RULES: dict[str, Callable[..., Trail]] = {"exact": exact}


def run(
    objective: Objective,
    steps: int | None = None,
    *,
    rule: str = "exact",
    start: Sequence[int] = (),
) -> Trail:
    """Walk `objective` for `steps` picks (all, if None), beginning with the picks in `start`.

    Stops early when nothing can be added any more (all gains -inf).
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}; known: {', '.join(sorted(RULES))}")
    steps = objective.size if steps is None else steps
    if not 0 <= steps <= objective.size:
        raise InputError(f"{steps} picks asked of {objective.size} items")
    if len(set(start)) < len(start) or not all(0 <= i < objective.size for i in start):
        raise InputError(
            f"start must name distinct items in 0..{objective.size - 1}, found {start}"
        )
    if len(start) > steps:
        raise InputError(f"start has {len(start)} picks, more than the {steps} asked for")
    return RULES[rule](objective, steps, start=start)


def swap(objective: Objective, picks: Sequence[int], *, rounds: int | None = None) -> Trail:
    """Drop the pick that costs least, add the best other item, keep the change if the error falls; repeat.

    Works on any objective by adding sets from scratch, n^2 additions a round. Ends at the first round that
    does not help, or after `rounds`. The trail adds the final picks in their order.
    """
    kept = list(dict.fromkeys(int(i) for i in picks))
    value = objective.value(_added(objective, kept))
    done = 0
    while kept and (rounds is None or done < rounds):
        without = [[j for j in kept if j != i] for i in kept]
        errors = [objective.value(_added(objective, rest)) for rest in without]
        rest = without[min(range(len(errors)), key=errors.__getitem__)]
        others = torch.tensor(
            [j for j in range(objective.size) if j not in kept], dtype=torch.int64
        )
        state = _added(objective, rest)
        pick, _ = best(gains_of(objective, state, others), others)
        if pick is None:
            break
        changed = objective.value(objective.add(state, pick))
        if not changed < value - 1e-12 * abs(value):
            break
        kept, value, done = [*rest, pick], changed, done + 1
    return run(objective, len(kept), start=kept)


def _added(objective: Objective, picks: Sequence[int]) -> object:
    state = objective.start()
    for pick in picks:
        state = objective.add(state, pick)
    return state


def gains_of(objective: Objective, state: object, candidates: Tensor) -> Tensor:
    """The gains of the candidates, checked to be numbers; -inf is an item that cannot be added."""
    gains = torch.as_tensor(objective.gains(state, candidates))
    if gains.shape != candidates.shape:
        raise InputError(
            f"{len(candidates)} candidates need as many gains, found shape {tuple(gains.shape)}"
        )
    bad = gains.isnan() | (gains == math.inf)
    if bool(bad.any()):
        item = int(candidates[int(bad.nonzero()[0])])
        raise DivergenceError(f"the gain of item {item} is not a number")
    return gains
