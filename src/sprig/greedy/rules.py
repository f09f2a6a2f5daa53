"""Rules that add: exact, stochastic, distributed, lazy. Each is `rule(counted, k, generator, **options) -> Found`.

Among equal gains the lowest number wins everywhere, in every part of a distributed run too: its proof needs one
order that does not depend on who looks (removing an item that greedy did not pick must not change its picks).
Sources: Nemhauser, Wolsey and Fisher 1978 (exact); Minoux 1978 (lazy); Mirzasoleiman et al. 2015 (stochastic);
Barbosa et al. 2015 and Khanna et al. 2017 (distributed).
"""

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sprig.core import greedy
from sprig.core.errors import InputError
from sprig.core.greedy import Trail
from sprig.greedy.record import TIE, Counted, Found, Worth, retrace

SLACK = 1e-9  # by which gains may grow, relative to the largest, before they count as growing


def exact(counted: Counted, k: int, generator: torch.Generator) -> Found:
    """Every item left is measured at every step."""
    trail = greedy.exact(counted, k, slack=TIE)
    return Found(trail, (trail.picks,))


def sample_size(size: int, k: int, delta: float) -> int:
    """Items that the stochastic rule looks at per step: ceil((size / k) ln(1 / delta)), at least one.

    >>> sample_size(1000, 75, 0.1)
    31
    """
    if not 0 < delta < 1:
        raise InputError(f"delta is a probability between 0 and 1, found {delta}")
    return max(1, math.ceil(size / max(k, 1) * math.log(1 / delta)))


def stochastic(
    counted: Counted, k: int, generator: torch.Generator, *, delta: float = 0.1
) -> Found:
    """At every step a fresh uniform sample of the items left is measured, all of them if they are fewer."""
    many = sample_size(counted.size, k, delta)

    def look(left: Tensor) -> Tensor:
        drawn = torch.randperm(len(left), generator=generator)[:many]
        return left[drawn.sort().values]

    trail = greedy.exact(counted, k, look=look, slack=TIE)
    return Found(trail, (trail.picks,))


def distributed(counted: Counted, k: int, generator: torch.Generator, *, parts: int = 2) -> Found:
    """Every item goes to one of `parts` parts, each uniformly and on its own; greedy in each part, greedy on the union
    of what they picked, and the best of all these sets.
    """
    if parts < 1:
        raise InputError(f"a distributed run needs at least one part, found {parts}")
    return spread(
        counted, k, torch.randint(parts, (counted.size,), generator=generator), parts=parts
    )


def spread(counted: Counted, k: int, part: Tensor, *, parts: int) -> Found:
    """The distributed rule for a given assignment: (size,) the part of each item. Processes take the parts in turn."""

    def walked(among: Tensor, start: Sequence[int] = ()) -> tuple[list[tuple[float, ...]], int]:
        before = counted.evaluations
        trail = greedy.exact(counted, k, start=start, among=among, slack=TIE)
        used, counted.evaluations = counted.evaluations - before, before
        return [trail.picks, trail.gains, trail.values], used

    def trail_of(fields: list[tuple[float, ...]]) -> Trail:
        return Trail(tuple(int(i) for i in fields[0]), fields[1], fields[2])

    own = [(part == number).nonzero().flatten() for number in range(parts)]
    found = counted.ranks.each(own, walked)
    local = [trail_of(fields) for fields, _ in found]
    union = torch.tensor(sorted({i for trail in local for i in trail.picks}), dtype=torch.int64)
    last, used = counted.ranks.lead(lambda: walked(union))
    trails = [trail_of(last), *local]
    counted.evaluations += used + sum(n for _, n in found)
    critical = used + max(n for _, n in found)
    least = min(trail.values[-1] for trail in trails)
    # the union's among equals
    winner = next(t for t in trails if t.values[-1] <= least + TIE * abs(least))
    others = tuple(trail.picks for trail in trails if trail is not winner)
    if len(winner.picks) < k:  # of a part with fewer items, or whose items depended on each other
        everyone, short = torch.arange(counted.size), winner.picks
        last, used = counted.ranks.lead(lambda: walked(everyone, short))
        winner = trail_of(last)
        counted.evaluations += used
        critical += used
    return Found(winner, (winner.picks, *others), critical)


def lazy(
    counted: Counted, k: int, generator: torch.Generator, *, force: bool = False, trials: int = 64
) -> Found:
    """Old gains serve as upper bounds; only items whose bound is on top are measured again.

    That is right where gains never grow. Refused unless the set function declares it, passes `trials` random tests, and
    no gain is seen to grow on the way; `force` leaves all three out, and the picks may then be worse than exact ones.
    """
    if not force:
        refuse_growth(counted.worth, k, generator, trials=trials)
    everyone = torch.arange(counted.size)
    state, picks = counted.start(), list[int]()
    fresh = counted.checked(state, everyone).tolist() if k else []
    top = max((abs(g) for g in fresh if g > -math.inf), default=0.0)
    heap = [(-gain, item, 0) for item, gain in enumerate(fresh) if gain > -math.inf]
    heapq.heapify(heap)
    while heap and len(picks) < k:
        equals: list[
            tuple[float, int, int]
        ] = []  # measured now, not below the first by more than rounding
        aside: list[tuple[float, int, int]] = []  # would lose the tie
        while heap and (not equals or heap[0][0] <= equals[0][0] + TIE * abs(equals[0][0])):
            bound, item, age = heapq.heappop(heap)
            if equals and item > min(equal[1] for equal in equals):
                aside.append((bound, item, age))
                continue
            if age == len(picks):
                equals.append((bound, item, age))
                continue
            gain = float(counted.checked(state, torch.tensor([item]))[0])
            if not force and gain > -bound + SLACK * top:
                raise InputError(_grew(item, picks[:age], -bound, picks, gain))
            if gain > -math.inf:
                heapq.heappush(heap, (-gain, item, len(picks)))
        if equals:
            chosen = min(item for _, item, _ in equals)
            state = counted.add(state, chosen)
            picks.append(chosen)
            for entry in (*equals, *aside):
                if entry[1] != chosen:
                    heapq.heappush(heap, entry)
    trail = retrace(counted.worth, picks)
    return Found(trail, (trail.picks,))


def refuse_growth(worth: Worth, k: int, generator: torch.Generator, *, trials: int = 64) -> None:
    """Raise unless f declares diminishing returns and shows none that grow on random chains of at most k items."""
    if not worth.diminishing:
        raise InputError(
            "the lazy rule needs a set function whose gains never grow; this one does not declare that "
            "(R2 and likelihoods do not have it): use rule='exact' or 'stochastic'"
        )
    most = min(k, worth.size - 1)
    for _ in range(trials if most > 0 else 0):
        order = torch.randperm(worth.size, generator=generator)
        cuts = torch.randint(most + 1, (2,), generator=generator).sort().values.tolist()
        left = order[cuts[1] :].sort().values
        state, gains = worth.start(), list[Tensor]()
        for at in range(cuts[1] + 1):
            if at in cuts:
                gains.append(worth.gains(state, left))
            if at < cuts[1]:
                state = worth.add(state, int(order[at]))
        early, late = gains[0], gains[-1]
        worst = int((late - early).nan_to_num(nan=0.0).argmax())
        scale = float(early.abs().nan_to_num(posinf=0.0).max())
        if float(late[worst]) > float(early[worst]) + SLACK * scale:
            sets = order[: cuts[0]].tolist(), order[: cuts[1]].tolist()
            item = int(left[worst])
            raise InputError(_grew(item, sets[0], float(early[worst]), sets[1], float(late[worst])))


def _grew(item: int, first: Sequence[int], early: float, second: Sequence[int], late: float) -> str:
    return (
        f"the lazy rule needs gains that never grow: item {item} brings {early:.6g} after {sorted(first)}, "
        f"but {late:.6g} after {sorted(second)}; use rule='exact'"
    )
