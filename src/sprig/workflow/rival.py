"""Two plans of one speed: by milliseconds saved and by multiply-adds saved. Both are fitted, the better one is taken.

What the search predicts of a plan is a sum over groups that were tried one by one; where much leaves, it ranks two
plans badly. What decides here is the error of the fitted networks on the calibration inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sprig.core.allocate import LATENCY, WAYS, targets
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.surgery import mask
from sprig.core.timemodel import kept_of
from sprig.core.types import Budget, Outcome
from sprig.core.workbench import Workbench
from sprig.workflow.confirm import AIM, OVER, UNDER, Pair, Target
from sprig.workflow.judging import quality

TRIES = 3


def rival(path: Path, budget: Budget, target: Target, pair: Pair, chosen: Plan) -> Plan | None:
    """A plan found the other way down, measured to be as fast as the chosen one; None: there is no such plan."""
    if not path.harm:
        return None  # nothing is known of any plan
    clock = path.clock
    model = clock.models[LATENCY]
    plain = replace(budget, latency=None, latency_ms=None)
    other = targets(plain, path.graph) if plain != Budget() else {}
    dense, floor = model(clock.full), model(clock.least()) * (1 + 1e-9)
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
    bench: Workbench, plans: Sequence[Plan], realise: Callable[[Plan], Outcome], data: Any
) -> Outcome:
    """The fitted plan with the lower error on the calibration inputs; its notes say what was compared."""
    if len(plans) == 1:
        return realise(plans[0])
    found: list[tuple[float, int, Outcome]] = []
    for plan in plans:
        outcome = realise(plan)
        wide = mask(bench.model, outcome, bench.graph)
        seen = bench.ranks.lead(partial(quality, wide, bench.model, data))
        found.append((seen.get("kl", seen.get("relative_error", 0.0)), len(found), outcome))
    _, best, outcome = min(found, key=lambda f: f[:2])
    rows = [
        {"plan": plan.hash, "macs": plan.cost["macs"], "error": error, "taken": number == best}
        for plan, (error, number, _) in zip(plans, found, strict=True)
    ]
    return replace(outcome, notes={**outcome.notes, "rivals": rows})
