"""How far a set function is from submodular, measured on the sets that a rule returned.

Letters: L a beginning of the picks, S a set disjoint from it, f(j|L) = f(L + j) - f(L).
 - submodularity ratio gamma = min over L, S with |S| <= k of (sum of f(j|L) over S) / (f(L + S) - f(L)); 1 or more for
   every submodular f (Das and Kempe 2011). Beginnings are all that the proofs about greedy picks look at;
 - subadditivity ratio nu_S = min over partitions A, B of S of (f(A) + f(B)) / f(S) (Khanna et al. 2017).
0/0 counts as 1. Single items and the empty partition are among the sets, so neither ratio exceeds 1.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from sprig.core.errors import InputError
from sprig.greedy.record import Counted, Worth

NOTHING = 1e-10  # gains below this share of the whole are rounding, and count as 0


@dataclass(frozen=True)
class Ratio:
    """The smallest ratio over the sets looked at.

    Not exact: only some sets were looked at, and the true ratio may be smaller than `value`.
    """

    value: float
    exact: bool  # every set that counts was looked at
    pairs: int  # sets looked at


Pair = tuple[float, float]  # sum of single gains, joint gain


def weakest_ratio(
    after: Callable[[Sequence[int]], Callable[[Sequence[int]], Pair]],
    picks: Sequence[int],
    *,
    size: int,
    most: int = 2000,
    generator: torch.Generator | None = None,
    levels: Sequence[int] | None = None,
    along: bool = False,
) -> Ratio:
    """The smallest (sum of single gains) / (joint gain) of sets of at most len(picks) items behind beginnings of them.

    after: given a beginning, a function from a set to its pair of gains. levels: lengths of the beginnings, all shorter
    than the picks if None. Enumerated when there are at most `most` pairs; otherwise `most` random ones, for which a
    generator is needed, and the record says so; `along` adds the rest of the picks behind each beginning.
    """
    n = len(picks)
    known = range(n) if levels is None else levels
    exact = not _more_than(
        most, (math.comb(size - at, m) for at in known for m in range(2, min(n, size - at) + 1))
    )
    if not exact and generator is None:
        raise InputError("sampling sets needs a torch.Generator, so that a seed fixes the sample")
    if not exact and levels is None:
        known = sorted({round(i * (n - 1) / 7) for i in range(8)})
    lowest, pairs = 1.0, 0
    for at in known:
        taken = set(picks[:at])
        rest = [i for i in range(size) if i not in taken]
        gains = after(picks[:at])
        sets: Iterable[Sequence[int]]
        if exact:
            sets = (s for m in range(2, min(n, len(rest)) + 1) for s in combinations(rest, m))
        else:
            sets = _drawn(rest, min(n, len(rest)), most // len(known), generator)
            if along and n - at >= 2:
                sets = [list(picks[at:]), *sets]
        for chosen in sets:
            single, joint = gains(chosen)
            pairs += 1
            if joint > 0:
                lowest = min(lowest, single / joint)
    return Ratio(lowest, exact, pairs)


def _more_than(most: int, counts: Iterable[int]) -> bool:
    """Whether the counts add up to more; the rest of them, which may have hundreds of digits, is not worked out."""
    total = 0
    return any((total := total + count) > most for count in counts)


def _drawn(
    rest: Sequence[int], most: int, count: int, generator: torch.Generator | None
) -> Iterator[list[int]]:
    """Random sets of 2..most of the units in `rest`."""
    for _ in range(count if most >= 2 else 0):
        m = int(torch.randint(2, most + 1, (1,), generator=generator))
        yield [rest[i] for i in torch.randperm(len(rest), generator=generator)[:m].tolist()]


def worth_of(objective: Worth, items: Sequence[int]) -> float:
    """f of a set, the quickest way that the set function offers."""
    if hasattr(objective, "worth"):
        return float(objective.worth(items))
    return Counted(objective).worth_of(items)


def submodularity_ratio(
    objective: Worth,
    picks: Sequence[int],
    *,
    most: int = 2000,
    generator: torch.Generator | None = None,
    levels: Sequence[int] | None = None,
) -> Ratio:
    """gamma of a set function on picks in their order; see `weakest_ratio` for the arguments."""
    everyone = torch.arange(objective.size)
    speck = NOTHING * abs(worth_of(objective, picks))

    def after(beginning: Sequence[int]) -> Callable[[Sequence[int]], Pair]:
        state = Counted(objective).of(beginning)
        here = worth_of(objective, beginning)
        single = objective.gains(state, everyone)

        def pair(chosen: Sequence[int]) -> Pair:
            joint = worth_of(objective, [*beginning, *chosen]) - here
            return float(single[list(chosen)].sum()), joint if joint > speck else 0.0

        return pair

    return weakest_ratio(
        after, picks, size=objective.size, most=most, generator=generator, levels=levels, along=True
    )


def subadditivity_ratio(
    objective: Worth,
    items: Sequence[int] | int,
    *,
    most: int = 2000,
    generator: torch.Generator | None = None,
) -> Ratio:
    """nu of a set, or, for a number k, the smallest of all sets of k items: what the distributed bound needs.

    Enumerated when there are at most `most` partitions, else that many random ones; then `value` may be too large.
    """
    k = items if isinstance(items, int) else len(items)
    halves = 2 ** max(k - 1, 0) - 1  # partitions into two sets that are not empty
    many = halves * (math.comb(objective.size, k) if isinstance(items, int) else 1)
    exact = many <= most
    if not exact and generator is None:
        raise InputError("sampling sets needs a torch.Generator, so that a seed fixes the sample")
    splits: Iterable[tuple[list[int], list[int]]]
    if exact:
        sets = combinations(range(objective.size), k) if isinstance(items, int) else [tuple(items)]
        splits = (split for chosen in sets for split in _halved(chosen))
    else:
        splits = (_split(objective.size, items, generator) for _ in range(most))
    lowest, pairs = 1.0, 0
    for a, b in splits:
        pairs += 1
        whole = worth_of(objective, [*a, *b])
        if whole > 0:
            lowest = min(lowest, (worth_of(objective, a) + worth_of(objective, b)) / whole)
    return Ratio(lowest, exact, pairs)


def _halved(chosen: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Every partition into two sets that are not empty, once."""
    for code in range(1, 2 ** max(len(chosen) - 1, 0)):
        inside = [bool(code >> at & 1) for at in range(len(chosen))]
        yield (
            [i for i, yes in zip(chosen, inside) if yes],
            [i for i, yes in zip(chosen, inside) if not yes],
        )


def _split(
    size: int, items: Sequence[int] | int, generator: torch.Generator | None
) -> tuple[list[int], list[int]]:
    """A random partition of the set, or of a random set; how many fall on one side is uniform."""
    if isinstance(items, int):
        chosen = torch.randperm(size, generator=generator)[:items]
    else:
        chosen = torch.tensor(list(items))[torch.randperm(len(items), generator=generator)]
    cut = int(torch.randint(1, len(chosen), (1,), generator=generator))
    return chosen[:cut].tolist(), chosen[cut:].tolist()
