"""What is known of a returned set beside the best set of its size, under the refit objective on the dense inputs.

gamma is the submodularity ratio over the beginnings of what the exact rule picks there, G, one unit at a time, so
that f(G) >= (1 - e^-gamma) OPT (Das and Kempe). The returned set S may be another: picked anew on pruned inputs,
several units at a time, or by another rule. f(S) / f(G) is measured, hence f(S) >= f(S) / f(G) (1 - e^-gamma) OPT
whatever S came from. What a rule's own theorem says of it, in the mean over its draws or not at all, stands beside.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from sprig.greedy import ErrorFall, guarantees, maximise
from sprig.methods.greedy.bounds import reach, submodularity_ratio
from sprig.methods.greedy.problem import ConsumerProblem
from sprig.methods.greedy.pursuit import RefitObjective, path
from sprig.methods.greedy.shelf import Chooser


def promised(
    found: Sequence[ConsumerProblem], kept: Sequence[int], *, size: int, pairs: int,
    chooser: Chooser, generator: torch.Generator,
) -> dict[str, Any]:  # fmt: skip
    """Ratios, bounds and what the set explains; all shares of what the consumers' outputs vary by."""
    trail = path(found, size, ridge=0.0, steps=len(kept))
    ratio = submodularity_ratio(
        found, trail.picks, size=size, ridge=0.0, most=pairs, generator=generator
    )
    behind = submodularity_ratio(
        found, kept, size=size, ridge=0.0, most=max(1, pairs // 3), generator=generator,
        levels=(len(kept),),
    )  # fmt: skip
    known = reach(found, kept, size=size, ridge=0.0)
    exact = trail.values[0] - trail.values[-1]
    beside = known.reached / exact if exact > 0 else 1.0
    return {
        "ratio": ratio.value,
        "exact": float(ratio.exact and behind.exact),
        "pairs": float(ratio.pairs + behind.pairs),
        "behind": behind.value,
        "reached": known.reached,
        "whole": known.whole,
        "ceiling": known.ceiling(behind.value),
        "of_exact": beside,
        "promised": min(1.0, beside * -math.expm1(-ratio.value)),
        **_by_theorem(found, len(kept), size=size, pairs=pairs, chooser=chooser),
    }


def _by_theorem(
    found: Sequence[ConsumerProblem], count: int, *, size: int, pairs: int, chooser: Chooser
) -> dict[str, Any]:
    """What is proven of the rule, where it is not the exact one; see `sprig.greedy.guarantees`."""
    if chooser.rule == "exact":
        return {}
    fall = ErrorFall(RefitObjective(found, size, ridge=0.0))
    own: dict[str, dict[str, Any]] = {
        "stochastic": {"delta": chooser.delta},
        "distributed": {"parts": chooser.parts},
        "beam": {"width": chooser.width},
    }
    picked = maximise(
        fall, count, rule=chooser.rule, seed=chooser.seed, **own.get(chooser.rule, {})
    )
    factor = guarantees(fall, picked, most=pairs, seed=chooser.seed).factors[0]
    return {
        "rule": chooser.rule,
        "theorem": factor.formula,
        "theorem_value": factor.value,
        "theorem_proved": float(factor.proved),
        "in_the_mean": float(factor.expected),
        "vacuous": float(factor.vacuous),
    }
