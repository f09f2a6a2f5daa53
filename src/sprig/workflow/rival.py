"""Two plans of one speed: by milliseconds saved and by multiply-adds saved. Both are fitted, the better one is taken.

What the search predicts of a plan is a sum over groups that were tried one by one; where much leaves, it ranks two
plans badly. What decides here is the error of the fitted networks on calibration inputs that were kept back.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from sprig.core.allocate import LATENCY, WAYS, targets
from sprig.core.batches import Triple, map_tensors
from sprig.core.deal import EVERY, judges
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.surgery import mask
from sprig.core.timemodel import kept_of
from sprig.core.types import Budget, Outcome
from sprig.core.workbench import Workbench
from sprig.workflow.confirm import AIM, OVER, UNDER, Pair, Target
from sprig.workflow.judging import quality

TRIES = 3
PLAIN = (
    0.1  # share of the error by which one plan must be ahead for a quarter of the inputs to decide
)


def rival(path: Path, budget: Budget, target: Target, pair: Pair, chosen: Plan) -> Plan | None:
    """A plan found the other way down, measured to be as fast as the chosen one; None: there is no such plan."""
    if not path.harm:
        return None  # nothing is known of any plan
    clock = path.clock
    model = clock.models[LATENCY]
    plain = replace(budget, latency=None, latency_ms=None)
    other = targets(plain, path.graph) if plain != Budget() else {}
    dense, floor = model(clock.full), clock.floor(LATENCY) * (1 + 1e-9)
    aim = max(floor, min(dense, model(kept_of(chosen, path.graph)) * (1 + 1e-9)))
    ways = [w for w in WAYS if path.within({**other, LATENCY: aim}, w).keep != chosen.keep]
    if not ways:
        return None
    found: dict[float, Plan] = {}
    for _ in range(TRIES):
        plan = path.within({**other, LATENCY: aim}, ways[-1])
        if plan in found.values():
            break
        excess = target.excess(pair(plan))
        if excess <= OVER:
            found[excess] = plan
        if UNDER <= excess <= OVER:
            break
        aim = max(floor, min(dense, aim * AIM / excess))
    best = found[max(found)] if found else chosen
    return best if best.keep != chosen.keep else None


def better(
    bench: Workbench,
    plans: Sequence[Plan],
    realise: Callable[[Workbench, Plan], Outcome],
    data: Any,
) -> Outcome:
    """The plan whose fitted network errs less on inputs that it was not fitted on; fitted on all, then.

    A network that keeps more weights learns more of the calibration inputs by heart, so on those the two cannot be told
    apart. A quarter judges what the others fit; where that leaves them close, each quarter in its turn. The notes say
    what was compared. `data`: all calibration inputs, for where they cannot be divided.
    """
    if len(plans) == 1:
        return realise(bench, plans[0])
    known: Sequence[Outcome] = ()  # fitted on all inputs
    rounds: list[list[float]] = []  # per turn, the error of every plan
    for part in (divided(bench, turn) for turn in range(EVERY)):
        if part is None:
            known = [realise(bench, plan) for plan in plans]
            rounds = [[_error(bench, outcome, data) for outcome in known]]
        else:
            on, judge = part
            rounds.append([_error(bench, realise(on, plan), judge) for plan in plans])
        errors = [sum(column) / len(rounds) for column in zip(*rounds, strict=True)]
        low, high = min(errors), max(errors)
        if known or high - low > PLAIN * high:
            break
    best = min(range(len(plans)), key=errors.__getitem__)
    taken = known[best] if known else realise(bench, plans[best])
    rows = [
        {
            "plan": plan.hash,
            "macs": plan.cost["macs"],
            "error": error,
            "unseen": not known,
            "turns": len(rounds),
            "taken": number == best,
        }
        for number, (plan, error) in enumerate(zip(plans, errors, strict=True))
    ]
    return replace(taken, notes={**taken.notes, "rivals": rows})


def _error(bench: Workbench, outcome: Outcome, judge: Any) -> float:
    wide = mask(bench.model, outcome, bench.graph)
    seen = bench.ranks.lead(partial(quality, wide, bench.model, judge))
    return float(seen.get("kl", seen.get("relative_error", 0.0)))


def divided(bench: Workbench, turn: int = 0) -> tuple[Workbench, list[Any]] | None:
    """A workbench on three quarters of the inputs, and batches of the rest; None where that cannot be done.

    `turn`: which quarter is the rest, counted back from the one that judges everywhere else.
    """
    if bench.dealt is not None or len(bench.chunks) < EVERY:
        return None
    fit: list[Triple] = []
    judge: list[Any] = []
    for chunk in bench.chunks:
        args, kwargs, target = map_tensors(
            (chunk.args, dict(chunk.kwargs), chunk.target),
            partial(_counting, bench.size, chunk.rows),
        )
        if not judges(chunk.number + turn):
            fit.append((args, kwargs, target))
        elif (args and kwargs) or not all(isinstance(a, Tensor) for a in args):
            return None
        else:
            judge.append((kwargs or args, target))
    return replace(bench, triples=fit, scratch={}), judge


def _counting(size: int, rows: int, tensor: Tensor) -> Tensor:
    """Of a tensor of a whole chunk the rows that count."""
    return tensor[:rows] if tensor.dim() and tensor.shape[0] == size else tensor
