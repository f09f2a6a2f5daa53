"""Rules that take out as well as add: backward, swap, beam. Each is `rule(counted, k, generator, **options) -> Found`.

Taking out uses the set function's own exact down-dates where it offers them (`eliminate`), so that no set is solved
from scratch.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sprig.core import greedy
from sprig.core.errors import DivergenceError, InputError
from sprig.greedy.record import TIE, Counted, Elimination, Found, retrace

RISE = 1e-12  # a change of the set must bring more than this, relative to its worth


def backward(counted: Counted, k: int, generator: torch.Generator) -> Found:
    """From all items, the one that is missed least leaves (the highest number among equals), until none is left.

    The last k to leave are the picks, the very last first: every beginning of them is backward elimination's own set
    of that size.
    """
    elimination = counted.eliminate(range(counted.size))
    gone = []
    while len(elimination.items):
        at = least(counted, elimination)
        gone.append(int(elimination.items[at]))
        elimination.drop(gone[-1])
    try:
        return Found(retrace(counted.worth, gone[::-1][:k]), ())
    except InputError as error:
        raise InputError(
            f"the backward rule begins with all items together, which this set function does not allow ({error}); "
            "use another rule"
        ) from None


def least(counted: Counted, elimination: Elimination) -> int:
    """Where the item stands that is missed least; the last among equals."""
    losses = _losses(counted, elimination)
    equal = losses <= losses.min() + TIE * losses.abs().max()
    return int(equal.nonzero()[-1])


def swap(
    counted: Counted, k: int, generator: torch.Generator, *, rounds: int | None = None
) -> Found:
    """Exact greedy, then exchanges: one pick leaves, the best other item enters, if the set is worth more after.

    Picks are tried in the order in which they are missed least, and the first exchange that helps is made. Ends when
    none does, or after `rounds` of them: no single exchange can then better the set.
    """
    if rounds is not None and rounds < 0:
        raise InputError(f"rounds is a number of exchanges, found {rounds}")
    first = greedy.exact(counted, k, slack=TIE)
    kept, value, done = list(first.picks), -first.values[-1], 0
    while rounds is None or done < rounds:
        better = _exchange(counted, kept, value)
        if better is None:
            break
        (kept, value), done = better, done + 1
    trail = first if not done else retrace(counted.worth, kept)
    return Found(trail, (first.picks,))


def _exchange(counted: Counted, kept: list[int], value: float) -> tuple[list[int], float] | None:
    taken = torch.zeros(counted.size, dtype=torch.bool)
    taken[kept] = True
    others = (~taken).nonzero().flatten()
    if not kept or not len(others):
        return None
    elimination = counted.eliminate(kept)
    for at in _losses(counted, elimination).argsort(stable=True).tolist():
        leaves = int(elimination.items[at])
        rest = [i for i in kept if i != leaves]
        state = counted.of(rest)
        pick, gain = greedy.best(counted.checked(state, others), others, slack=TIE)
        changed = -counted.value(state) + gain
        if pick is not None and changed > value + RISE * abs(value):
            return [*rest, pick], changed
    return None


def beam(counted: Counted, k: int, generator: torch.Generator, *, width: int = 4) -> Found:
    """The `width` best sets of each size are kept and all extended. Greedy's own set is always one of them, so the
    outcome is never worth less than that of the exact rule.
    """
    if width < 1:
        raise InputError(f"a beam keeps at least one set, found width {width}")
    rows: list[tuple[tuple[int, ...], Any]] = [((), counted.start())]  # the first is greedy's
    for _ in range(k):
        grown = _grown(counted, rows)
        if not grown:
            break
        own = [entry for entry in grown if entry.parent == 0]
        gains = torch.tensor([entry.gain for entry in own], dtype=torch.float64)
        at, _ = greedy.best(gains, torch.arange(len(own)), slack=TIE)
        first = [] if at is None else [own[at]]
        seen: set[frozenset[int]] = set()
        ahead: list[_Grown] = []
        for entry in [*first, *ranked(grown, [entry.error for entry in grown])]:
            if frozenset(entry.picks) not in seen and len(ahead) < width:
                seen.add(frozenset(entry.picks))
                ahead.append(entry)
        rows = [
            (entry.picks, counted.add(copy.deepcopy(rows[entry.parent][1]), entry.picks[-1]))
            for entry in ahead
        ]
    own_picks = rows[0][0]
    sets = [_Grown(counted.value(state), picks, 0, 0.0) for picks, state in rows]
    best = ranked(sets, [s.error for s in sets])[0].picks
    return Found(retrace(counted.worth, best), (own_picks,))


class _Grown(NamedTuple):
    error: float
    picks: tuple[int, ...]
    parent: int  # the row that it comes from
    gain: float


def ranked(sets: list[_Grown], errors: list[float]) -> list[_Grown]:
    """By error; among equals, rounding aside, the lowest numbers first."""
    order = sorted(range(len(sets)), key=errors.__getitem__)
    level, levels = 0, dict[int, int]()
    for before, at in zip([None, *order], order, strict=False):
        if before is not None and errors[at] > errors[before] + TIE * abs(errors[before]):
            level += 1
        levels[at] = level
    return [
        sets[at]
        for at in sorted(order, key=lambda at: (levels[at], sorted(sets[at].picks), sets[at].picks))
    ]


def _grown(counted: Counted, rows: list[tuple[tuple[int, ...], Any]]) -> list[_Grown]:
    """Every set with one item more."""
    out = []
    for parent, (picks, state) in enumerate(rows):
        left = torch.ones(counted.size, dtype=torch.bool)
        left[list(picks)] = False
        candidates = left.nonzero().flatten()
        gains = counted.checked(state, candidates)
        error = counted.value(state)
        for item, gain in zip(candidates.tolist(), gains.tolist()):
            if gain > -torch.inf:
                out.append(_Grown(error - gain, (*picks, item), parent, gain))
    return out


def _losses(counted: Counted, elimination: Elimination) -> Tensor:
    losses = counted.losses(elimination)
    if not bool(losses.isfinite().all()):
        item = int(elimination.items[int((~losses.isfinite()).nonzero()[0])])
        raise DivergenceError(f"what is lost without item {item} is not a number")
    return losses
