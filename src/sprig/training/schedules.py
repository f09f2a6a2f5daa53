"""Learning-rate schedules: pure functions of the step that give the factor on the base rate.

All share the warm-up: for the first `warmup` steps the factor rises in equal steps, (step + 1) / warmup.
After it, with t = (step - warmup) / (total - warmup) in [0, 1]:

cosine: final + (1 - final) (1 + cos(pi t)) / 2        linear: 1 - (1 - final) t
constant: 1                                            steps: factor ** (milestones passed)
"""

import math
from collections.abc import Sequence


def cosine(step: int, *, total: int, warmup: int = 0, final: float = 0.0) -> float:
    """Half a cosine from 1 down to `final` at `total` steps.

    >>> [cosine(s, total=4) for s in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    if step < warmup:
        return _rise(step, warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * _progress(step, total, warmup))) / 2


def linear(step: int, *, total: int, warmup: int = 0, final: float = 0.0) -> float:
    """A straight line from 1 down to `final` at `total` steps.

    >>> linear(1, total=4)
    0.75
    """
    if step < warmup:
        return _rise(step, warmup)
    return 1 - (1 - final) * _progress(step, total, warmup)


def constant(step: int, *, warmup: int = 0) -> float:
    """1 throughout, after the warm-up.

    >>> [constant(s, warmup=2) for s in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    return _rise(step, warmup) if step < warmup else 1.0


def steps(step: int, *, milestones: Sequence[int], factor: float = 0.1, warmup: int = 0) -> float:
    """Times `factor` at each milestone, a step number.

    >>> [steps(s, milestones=(10, 20), factor=0.5) for s in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """
    if step < warmup:
        return _rise(step, warmup)
    return float(factor ** sum(step >= m for m in milestones))


def _rise(step: int, warmup: int) -> float:
    return (step + 1) / warmup


def _progress(step: int, total: int, warmup: int) -> float:
    return min(1.0, (step - warmup) / max(1, total - warmup))
