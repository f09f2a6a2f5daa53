"""Claims about how good a selection is beside any other of its size: lower bounds, ratios, bounds on the optimum."""

from collections.abc import Mapping
from typing import Any

from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.types import Claim

ROUNDING = 1e-9  # a bound this near to saying nothing says nothing


def floors(path: Path, plan: Plan, data: str) -> list[Claim]:
    """How far any other choice of the same size could have been better, per group."""
    detail = {}
    gap = 0.0
    for name, kept in plan.keep.items():
        found = path.groups.get(name)
        if found is None or not found.floor or not found.errors or len(kept) >= len(found.order):
            continue
        n = len(kept)
        detail[name] = {"kept": n, "error": found.errors[n], "lower_bound": found.floor[n]}
        gap = max(gap, found.floor[n] - found.errors[n])
    if not detail:
        return []
    return [
        Claim(
            name="lower-bound",
            statement="the error of each selection is not below the bound that holds for any choice of its size",
            passed=gap <= 1e-9,
            value=gap,
            tolerance=1e-9,
            data=data,
            how="tail singular values of the consumers' outputs (rank at most k x block), removal costs",
            detail=detail,
        )
    ]


def submodularity(found: Mapping[str, Mapping[str, Any]], data: str) -> list[Claim]:
    """How close to diminishing returns each group is, and what share of the best fall that guarantees."""
    if not found:
        return []
    lowest = min(float(row["ratio"]) for row in found.values())
    exact = all(row["exact"] for row in found.values())
    bound = min(float(row["promised"]) for row in found.values())
    return [
        Claim(
            name="submodularity-ratio",
            statement="lowest submodularity ratio along what exact selection picks"
            + ("" if exact else " (over sampled sets: the true one may be lower)"),
            passed=0 <= lowest <= 1 + 1e-9,
            value=lowest,
            tolerance=None,
            data=data,
            how="sum of single gains over joint gain, worst set found; reaches: (1 - e^-ratio) of the best fall of the "
            "error, times what the returned set explains of what exact selection does, on the dense inputs",
            detail={"groups": {k: dict(v) for k, v in found.items()}, "reaches": bound},
        ),
        _optimum(found, data, exact=exact),
    ]


def rates(found: Mapping[str, Mapping[str, float]], data: str) -> list[Claim]:
    """How fast the error of the published rule must fall with its picks, and where each returned set stands."""
    if not found:
        return []
    rows, highest, silent = {}, 0.0, 0
    for name, row in found.items():
        least = min(float(row["first"]), float(row["second"]))
        # An empty set errs by 1: a bound that allows as much says nothing.
        said = "first" if float(row["first"]) <= float(row["second"]) else "second"
        rows[name] = {**row, "bound": "vacuous" if least >= 1 - ROUNDING else said}
        highest = max(highest, float(row["error"]) / least if least > 0 else 0.0)
        silent += least >= 1 - ROUNDING
    return [
        Claim(
            name="imitation-rate",
            statement="no selection errs more than n picks with replacement may: D^2/n, max(D^2, D^4/4r^2)/n^2"
            + (f"; vacuous for {silent} of {len(rows)} groups" if silent else ""),
            passed=highest <= 1 + 1e-6,
            value=highest,
            tolerance=1.0,
            data=data,
            how="largest error over the lower of both; D: distance of the farthest unit from the target, r: a ball "
            "around it in the hull, at least the least variance of the units over D; imitation of the layer's output",
            detail={"groups": rows},
        )
    ]


def _optimum(found: Mapping[str, Mapping[str, Any]], data: str, *, exact: bool) -> Claim:
    """What is known of the best set of each size, from the gains behind the returned one."""
    rows = {}
    for name, row in found.items():
        most, reached = float(row["ceiling"]), float(row["reached"])
        rows[name] = {
            "reached": reached,
            "optimum_at_most": most,
            "share": min(1.0, reached / most) if most > 0 else 1.0,
            # No set is worth more than all units together: a bound that says just that says nothing.
            "bound": "vacuous" if most >= float(row["whole"]) - ROUNDING else "tells",
        }
    lowest = min(float(row["share"]) for row in rows.values())
    silent = sum(row["bound"] == "vacuous" for row in rows.values())
    return Claim(
        name="optimum",
        statement="each selection explains at least this share of what the best set of its size explains"
        + ("" if exact else " (an estimate: ratios of sampled sets)")
        + (f"; vacuous for {silent} of {len(rows)} groups" if silent else ""),
        passed=0 <= lowest <= 1,
        value=lowest,
        tolerance=None,
        data=data,
        how="f(S) + (sum of the largest gains behind S) / (submodularity ratio there), or what all units explain",
        detail={"groups": rows},
    )
