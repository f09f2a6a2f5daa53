"""What is known about a selection: how close to the best set of its size it is, as numbers, and how sure they are.

gamma and nu are the ratios of `ratios.py`, OPT the worth of the best set of k items, delta the stochastic rule's:
 - exact, lazy, and swap and beam, which are never worth less than the exact picks: f >= (1 - e^-gamma) OPT;
 - stochastic: E f >= (1 - e^-gamma - delta) OPT, and the sharper 1 - e^-((1 - delta) gamma) of the same proof;
 - distributed: E f >= nu/2 (1 - e^-gamma) OPT, gamma the smallest over the sets of all parts and of their union;
 - any set S at all: OPT <= f(S) + 1/gamma_S (sum of the k largest f(j|S)), gamma_S behind S itself.
E is the mean over the rule's draws. Enumerated ratios are those of the sets of one draw, and another draw may have
smaller ones: such a bound is an estimate, unless the ratios hold for all sets (declared, eigenvalues).
Sources: Das and Kempe 2011, Khanna et al. 2017. All of them are for monotone f with f of the empty set 0, any k items
allowed: where f is seen to fall, or an item not to be allowed, nothing is claimed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sprig.greedy.ratios import Ratio, subadditivity_ratio, submodularity_ratio
from sprig.greedy.record import Counted, Selection, Worth

ROUNDING = 1e-9  # a number this close to vacuous is vacuous; a fall this small is none
ESTIMATES = ("sampled", "one draw", "none")


@dataclass(frozen=True)
class Factor:
    """The picks are worth at least `value` times the best set of as many items."""

    formula: str
    value: float
    basis: str  # where the ratios come from: declared, enumerated, eigenvalues; sampled, one draw; none
    expected: bool = False  # holds for the mean over the rule's draws, not for each

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing."""
        return self.value <= ROUNDING

    @property
    def proved(self) -> bool:
        """Whether the ratios in it are true ones or lower bounds, not estimates from some sets or from one draw."""
        return self.basis not in ESTIMATES

    def __str__(self) -> str:
        if self.vacuous:
            return f"{self.formula}: vacuous" + ("" if self.basis == "none" else f" ({self.basis})")
        mean = ", in the mean over the draws" if self.expected else ""
        sure = "" if self.proved else ", an estimate"
        return (
            f"{self.formula}: at least {self.value:.4f} of the optimum{mean} ({self.basis}{sure})"
        )


@dataclass(frozen=True)
class Ceiling:
    """No set of as many items is worth more than `value`; basis as of `Factor`."""

    value: float
    limit: float  # what no set is worth more than anyway
    reached: float  # what the picks are worth
    basis: str

    @property
    def vacuous(self) -> bool:
        """Whether it says no more than the limit does."""
        slack = ROUNDING * abs(self.limit) if math.isfinite(self.limit) else 0.0
        return not self.value < self.limit - slack

    @property
    def proved(self) -> bool:
        """See `Factor`."""
        return self.basis not in ESTIMATES

    @property
    def share(self) -> float:
        """The part of the optimum that the picks reach at least."""
        most = min(self.value, self.limit)
        return self.reached / most if most > 0 and math.isfinite(most) else 0.0

    def __str__(self) -> str:
        if self.vacuous:
            told = f"optimum: vacuous ({self.basis})"
            if not math.isfinite(self.limit):
                return told
            return f"{told}; no set is worth more than {self.limit:.6g}, of which the picks reach {self.share:.4f}"
        sure = "" if self.proved else ", an estimate"
        return f"optimum: at most {self.value:.6g}, of which the picks reach {self.share:.4f} ({self.basis}{sure})"


@dataclass(frozen=True)
class Guarantees:
    """All that is known about one selection."""

    gamma: Ratio  # on the sets that the rule's guarantee speaks of; 1 where none is known
    nu: Ratio | None  # over all sets of that many items; only for the distributed rule
    factors: tuple[Factor, ...]
    optimum: tuple[Ceiling, ...]

    def __str__(self) -> str:
        return "\n".join(str(line) for line in (*self.factors, *self.optimum))


def guarantees(
    objective: Worth, selection: Selection, *, most: int = 2000, seed: int = 0
) -> Guarantees:
    """The bounds that hold for a selection, as numbers.

    most: sets to look at for each ratio; where there are more, random ones are looked at (`seed`), and what follows
    is marked as an estimate. A set function that declares diminishing returns has both ratios at 1. Least squares
    brings a second, proven version of every bound, from the eigenvalues of its columns, often vacuous.
    The bounds are for f that never falls as items are added, and for items that may be taken in any combination. No
    bound is stated where that is seen to be broken: by a pick, behind the picks, and for declared diminishing returns
    by what any item is missed by at the end, if there are at most `most`. Where nothing is seen, it is the caller's
    word: no test of some sets can prove it.

    >>> from sprig.greedy import Coverage, guarantees, maximise
    >>> cover = Coverage(torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]))
    >>> print(guarantees(cover, maximise(cover, 2)))
    1 - e^-gamma: at least 0.6321 of the optimum (declared)
    optimum: vacuous (declared); no set is worth more than 5, of which the picks reach 0.8000
    """
    broken = _broken(objective, selection, most)
    if broken:
        nothing = Factor(f"no bound is known where {broken}", 0.0, "none")
        return Guarantees(
            Ratio(0.0, False, 0),
            None,
            (nothing,),
            (Ceiling(math.inf, math.inf, selection.value, "none"),),
        )
    generator = torch.Generator().manual_seed(seed)
    k, distributed = len(selection.picks), selection.rule == "distributed"
    sets = selection.sets if selection.sets else (selection.picks,)
    gamma = _smallest([_gamma(objective, s, most=most, generator=generator) for s in sets if s])
    behind = _gamma(objective, selection.picks, most=most, generator=generator, levels=(k,))
    nu = None
    if distributed:
        nu = Ratio(1.0, True, 0)
        if not objective.diminishing:
            nu = subadditivity_ratio(objective, k, most=most, generator=generator)
            here = subadditivity_ratio(objective, selection.picks, most=most, generator=generator)
            nu = Ratio(min(nu.value, here.value), nu.exact, nu.pairs + here.pairs)
    exact = gamma.exact and (nu is None or nu.exact)
    basis = "declared" if objective.diminishing else "enumerated" if exact else "sampled"
    factors = _factors(selection, gamma.value, 1.0 if nu is None else nu.value, basis, objective)
    tops = float(
        _behind(objective, selection.picks).clamp_min(0).sort(descending=True).values[:k].sum()
    )
    limit = float(getattr(objective, "ceiling", math.inf))
    basis = "declared" if objective.diminishing else "enumerated" if behind.exact else "sampled"
    optimum = [_ceiling(selection.value, tops, behind.value, limit, basis)]
    if hasattr(objective, "spectral"):
        low, part = objective.spectral()
        factors += _factors(selection, low, part, "eigenvalues", objective)
        optimum.append(_ceiling(selection.value, tops, low, limit, "eigenvalues"))
    return Guarantees(gamma, nu, tuple(factors), tuple(optimum))


def _gamma(
    objective: Worth,
    picks: Sequence[int],
    *,
    most: int,
    generator: torch.Generator,
    levels: Sequence[int] | None = None,
) -> Ratio:
    if objective.diminishing:
        return Ratio(1.0, True, 0)
    return submodularity_ratio(objective, picks, most=most, generator=generator, levels=levels)


def _smallest(ratios: Sequence[Ratio]) -> Ratio:
    return Ratio(
        min((r.value for r in ratios), default=1.0),
        all(r.exact for r in ratios),
        sum(r.pairs for r in ratios),
    )


def _factors(
    selection: Selection, gamma: float, nu: float, basis: str, objective: Worth
) -> list[Factor]:
    """What the rule's theorem says for these ratios."""
    plain = -math.expm1(-max(gamma, 0.0))
    drawn = "one draw" if basis == "enumerated" else basis
    if selection.rule == "stochastic":
        delta = float(selection.options.get("delta", 0.1))
        sharp = -math.expm1(-(1 - delta) * max(gamma, 0.0))
        return [
            Factor("1 - e^-gamma - delta", plain - delta, drawn, True),
            Factor("1 - e^-((1 - delta) gamma)", sharp, drawn, True),
        ]
    if selection.rule == "distributed":
        return [Factor("nu/2 (1 - e^-gamma)", nu / 2 * plain, drawn, True)]
    if selection.rule == "backward" or (selection.rule == "lazy" and not objective.diminishing):
        return [Factor(f"no bound is known for {selection.rule} picks", 0.0, "none")]
    return [Factor("1 - e^-gamma", plain, basis)]


def _behind(objective: Worth, picks: Sequence[int]) -> torch.Tensor:
    """The gains of all other items behind the picks."""
    left = torch.ones(objective.size, dtype=torch.bool)
    left[list(picks)] = False
    return Counted(objective).checked(Counted(objective).of(picks), left.nonzero().flatten())


def _broken(objective: Worth, selection: Selection, most: int) -> str:
    """What the theorems ask for and this set function is seen not to have; empty if nothing is seen."""
    begin = Counted(objective).checked(objective.start(), torch.arange(objective.size))
    gains = torch.cat([begin, _behind(objective, selection.picks).to(begin)])
    if bool((gains == -math.inf).any()):
        return "items cannot be added"
    scale = max(abs(v) for v in (*selection.values, *gains.tolist(), 0.0))
    lowest = min([*selection.gains, *gains.tolist()], default=0.0)
    if objective.diminishing and objective.size <= most:  # no item is missed less than at the end
        end = Counted(objective).eliminate(range(objective.size)).losses()
        lowest = min([lowest, *end.tolist()])
    return "f falls as items are added" if lowest < -ROUNDING * scale else ""


def _ceiling(value: float, tops: float, gamma: float, limit: float, basis: str) -> Ceiling:
    # at gamma 0 items that bring nothing one by one may bring much together
    most = value + max(tops, 0.0) / gamma if gamma > 0 else math.inf
    return Ceiling(most, limit, value, basis)
