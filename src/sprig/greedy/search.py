"""`maximise`: k items of a set function by a rule of the shelf."""

import inspect
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch

from sprig.core.errors import InputError
from sprig.core.ranks import ALONE, present
from sprig.greedy.exchange import backward, beam, swap
from sprig.greedy.record import Counted, Found, Selection, Worth
from sprig.greedy.rules import distributed, exact, lazy, stochastic

RULES: Mapping[str, Callable[..., Found]] = MappingProxyType(
    {
        "exact": exact,
        "stochastic": stochastic,
        "distributed": distributed,
        "lazy": lazy,
        "backward": backward,
        "swap": swap,
        "beam": beam,
    }
)
CALLS = ("start", "gains", "add", "value")
EMPTY = 1e-9  # what the empty set may be worth


def maximise(
    objective: Worth, k: int, *, rule: str = "exact", seed: int = 0, processes: bool = False,
    **options: Any,
) -> Selection:  # fmt: skip
    """Pick k items whose set is worth much.

    objective: a set function, `sprig.greedy.record.Worth`; ready ones are LeastSquares, LogLikelihood, Coverage and
    FacilityLocation; SetFunction wraps a plain function, ErrorFall an objective of the pruning methods.
    rule and its options:
     - exact: the best item, k times;
     - stochastic (delta=0.1): the best of a fresh sample of ceil((size / k) ln(1 / delta)) of the items left;
     - distributed (parts=2): exact in each random part, exact on the union of their picks, the best of all;
     - lazy (force=False, trials=64): exact picks with fewer evaluations, for diminishing returns only;
     - backward: from all items, the one missed least leaves;
     - swap (rounds=None): exact, then exchanges of one item while they help;
     - beam (width=4): the best sets of each size are all extended, greedy's own among them.
    processes: of the distributed rule; the processes of torch.distributed's group, all of which call this alike, take
    its parts in turn, and all get the same answer.
    seed: of stochastic, distributed and the check of lazy. Fewer than k picks come back only where the objective lets
    no item be added any more. Raises InputError, and DivergenceError where a gain is not a number.

    >>> from sprig.greedy import Coverage, maximise
    >>> shows = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
    >>> found = maximise(Coverage(shows), 3)
    >>> found.picks, found.values, found.evaluations
    ((0, 1, 3), (0.0, 3.0, 4.0, 5.0), 9)
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    missing = [n for n in ("size", "diminishing", *CALLS) if not hasattr(objective, n)]
    if missing:
        raise InputError(
            f"a set function has {', '.join(('size', 'diminishing', *CALLS))}; found {type(objective).__name__} "
            f"without {', '.join(missing)}: SetFunction(size, function) wraps a plain function"
        )
    k = whole(k, "k")
    if not 0 <= k <= objective.size:
        raise InputError(f"{k} picks asked of {objective.size} items")
    known = [
        n for n, p in inspect.signature(RULES[rule]).parameters.items() if p.kind is p.KEYWORD_ONLY
    ]
    odd = sorted(set(options) - set(known))
    if odd:
        has = f"its options: {', '.join(known)}" if known else "it has none"
        raise InputError(f"the {rule} rule has no option {odd[0]!r}; {has}")
    for name in ("parts", "width", "rounds", "trials"):
        if options.get(name) is not None:
            options[name] = whole(options[name], name)
    if not isinstance(options.get("delta", 0.1), Real):
        raise InputError(f"delta is a probability between 0 and 1, found {options['delta']!r}")
    nothing = float(objective.value(objective.start()))
    if abs(nothing) > EMPTY:
        raise InputError(
            f"the empty set must be worth 0, found {nothing:.6g}: subtract it (SetFunction does)"
        )
    if processes and rule != "distributed":
        raise InputError(f"the {rule} rule runs in one process; rule='distributed' can be shared")
    counted = Counted(objective, present() if processes else ALONE)
    found = RULES[rule](counted, k, torch.Generator().manual_seed(seed), **options)
    evaluations = counted.evaluations
    return Selection(
        rule,
        found.trail.picks,
        tuple(0.0 - value for value in found.trail.values),
        evaluations,
        evaluations if found.critical is None else found.critical,
        seed,
        found.sets,
        dict(options),
    )


def whole(value: Any, name: str) -> int:
    """A whole number, as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} is a whole number, found {value!r}") from None
