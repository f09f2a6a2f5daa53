"""Study `rates`: from figures to tables, plots and findings."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sprig.studies.rates_plots import network_plots, pick_plots
from sprig.studies.record import Conclusion, Figures, Finding, Table
from sprig.studies.statistics import TINY, Mean, above, below, crossing, geometric, mean, slope

if TYPE_CHECKING:
    from sprig.studies.rates import Settings

ARMS = (
    "from scratch",
    "trained net, greedy",
    "trained net, greedy, trained further",
    "random pool, greedy",
    "random pool, refit",
    "trained net, random subset",
)
ABSENT = "–"


def conclude(settings: "Settings", found: Mapping[str, Figures]) -> Conclusion:
    """Tables, plots and findings."""
    picks = [found[f"picks {s}"]["rows"] for s in settings.seeds]
    nets = [found[f"networks {s}"] for s in settings.seeds[: settings.network_seeds]]
    slopes = {
        (row["points"], row["target"]): _rates(settings, [rows[at] for rows in picks])
        for at, row in enumerate(picks[0])
    }
    curves = {arm: _curve(nets, arm) for arm in ARMS}
    findings = (*_of_picks(settings, slopes), *_of_networks(settings, nets, curves))
    tables = (_slopes_table(settings, slopes), *_network_tables(settings, nets, curves))
    plots = (*pick_plots(settings, picks), *network_plots(nets, curves))
    notes = (
        "Slopes are those of least squares through ln(loss − floor) over ln n, one per seed; the "
        "interval is Student's over seeds, since the points of one path depend on each other. An "
        "arm is below another where its geometric mean is; where the paired interval at the "
        "largest width holds zero, that cannot be told.",
        f"The networks take the first {settings.network_seeds} of the seeds.",
        "The random pool's outer weights were set to "
        f"{', '.join(format(n['scale'], 'g') for n in nets)} by validation.",
    )
    return Conclusion(tables, plots, findings, notes)


def _rates(settings: "Settings", rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Slopes and levels of one kind of problem over the seeds."""
    low, high = settings.span
    out: dict[str, Any] = {
        "greedy": [],
        "raw": [],
        "random": [],
        "level": [],
        "over": [],
        "distinct": [],
        "effective": [],
        "narrow": [],
    }
    for row in rows:
        at = [i for i, n in enumerate(row["grid"]) if low <= n <= high]
        xs = [row["grid"][i] for i in at]
        excess = [max(row["greedy"][i] - row["floor"], 0.0) for i in at]
        out["greedy"].append(slope(xs, excess))
        out["raw"].append(slope(xs, [row["greedy"][i] for i in at]))
        out["random"].append(slope(xs, [row["random"][i] for i in at]))
        near = min(range(len(row["grid"])), key=lambda i: abs(row["grid"][i] - 100))
        out["level"].append(row["greedy"][near] - row["floor"])
        out["over"].append(row["random"][near] / max(row["greedy"][near], 1e-300))
        out["distinct"].append(row["distinct"][-1])
        out["effective"].append(row["effective"])
        out["narrow"].append(row["narrow"])
        out["near"] = row["grid"][near]
    return out


def _seen(values: Sequence[float | None]) -> Mean | None:
    """The mean over those seeds where a slope could be taken."""
    known = [v for v in values if v is not None]
    return mean(known) if known else None


def _of_picks(settings: "Settings", slopes: Mapping[Any, dict[str, Any]]) -> list[Finding]:
    low, high = min(settings.points), max(settings.points)
    near, far = (slopes[m, "inside"] for m in (low, high))
    steep, flat = _seen(near["greedy"]), _seen(far["greedy"])
    assert steep is not None and flat is not None
    change = mean([b - a for a, b in zip(near["greedy"], far["greedy"])])
    slower = above(change, 0.0)
    ahead = geometric(far["over"])
    sampled = _seen(far["random"])
    off = slopes[high, "off hull"]
    raw, freed = _seen(off["raw"]), _seen(off["greedy"])
    distinct = [d for m in settings.points for d in slopes[m, "inside"]["distinct"]]
    return [
        Finding(
            f"The loss of greedy picks falls like n⁻² in {low} dimensions",
            below(steep, -1.5),
            f"slope {steep} over n = {settings.span[0]} to {settings.span[1]}, target inside the hull.",
        ),
        Finding(
            f"It falls more slowly in {high} dimensions",
            None if slower is None else above(flat, -2.0) and slower,
            f"slope {flat}; flatter than in {low} by {change}; by dimensions: "
            + ", ".join(f"{m}: {_seen(slopes[m, 'inside']['greedy'])}" for m in settings.points)
            + ".",
        ),
        Finding(
            "There too greedy picks are far ahead of random ones, in level if not in slope",
            ahead >= 10,
            f"{high} dimensions, {far['near']} picks: {ahead:,.0f} times lower loss (geometric "
            f"mean); slope of random subsets {sampled}.",
        ),
        Finding(
            "Outside the hull the loss levels off at the hull's distance",
            None if raw is None else above(raw, -0.1),
            f"{high} dimensions: slope {raw} as it is, {freed if freed else 'not to be had'} "
            "after the floor is subtracted.",
        ),
        Finding(
            "Picks are not neurons: many are picked again",
            max(distinct) < settings.picks,
            f"{settings.picks} picks took {min(distinct)} to {max(distinct)} different neurons.",
        ),
    ]


def _curve(nets: Sequence[Figures], arm: str) -> dict[str, Any]:
    """Geometric means over the seeds at the sizes that all of them reached."""
    rows = [net["arms"].get(arm, {"n": [], "train": [], "test": []}) for net in nets]
    common = sorted(set.intersection(*(set(row["n"]) for row in rows)))
    out: dict[str, Any] = {"n": common}
    for key in ("train", "test"):
        values = [[row[key][row["n"].index(n)] for row in rows] for n in common]
        out[key] = [geometric(seen) for seen in values]
        out[f"{key} seeds"] = values
        out[f"{key} range"] = [(min(seen), max(seen)) for seen in values]
        out[f"{key} slopes"] = [
            slope(common, [seen[i] for seen in values]) for i in range(len(rows))
        ]
    return out


def _cross(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> str:
    common = [n for n in ours["n"] if n in theirs["n"]]
    a, b = ([c[key][c["n"].index(n)] for n in common] for c in (ours, theirs))
    found = crossing(common, a, b)
    ahead = [n for n, p, q in zip(common, a, b) if p < q]
    if not common:
        return "no width in common"
    if found is not None:
        return (
            f"from {found:.0f} neurons on"
            if found > common[0]
            else f"at every width ({common[0]} to {common[-1]})"
        )
    return (
        f"at {', '.join(map(str, ahead))} only"
        if ahead
        else f"at no width ({common[0]} to {common[-1]})"
    )


def _of_networks(
    settings: "Settings", nets: Sequence[Figures], curves: Mapping[str, Any]
) -> list[Finding]:
    scratch = curves["from scratch"]
    plain, tuned, pool = (
        curves[a]
        for a in (
            "trained net, greedy",
            "trained net, greedy, trained further",
            "random pool, greedy",
        )
    )

    def crosses(arm: Mapping[str, Any], key: str) -> bool | None:
        """Whether the arm is below at all widths from some on; None if by no more than the seeds differ at the last."""
        common = [n for n in arm["n"] if n in scratch["n"]]
        if not common:
            return None
        a, b = ([c[key][c["n"].index(n)] for n in common] for c in (arm, scratch))
        if crossing(common, a, b) is None:
            return False
        ours, theirs = (c[f"{key} seeds"][c["n"].index(common[-1])] for c in (arm, scratch))
        ahead = below(
            mean([math.log(max(p, TINY) / max(q, TINY)) for p, q in zip(ours, theirs)]), 0.0
        )
        return True if ahead else None

    def at_last(arm: Mapping[str, Any], key: str) -> str:
        n = arm["n"][-1]
        return f"{arm[key][-1]:.2e} against {scratch[key][scratch['n'].index(n)]:.2e} at {n}"

    reached = max(plain["n"], default=0)
    subset = curves["trained net, random subset"]
    same = [n for n in plain["n"] if n in subset["n"]]
    gain = [subset["test"][subset["n"].index(n)] / plain["test"][plain["n"].index(n)] for n in same]
    floors = mean([n["floors"]["random pool"] for n in nets]).value
    return [
        Finding(
            "Picks from a trained wide network, as they are, get below training from scratch (training loss)",
            crosses(plain, "train"),
            f"below it {_cross(plain, scratch, 'train')}"
            + (
                f"; {at_last(plain, 'train')} neurons; more than {reached} different ones were "
                "not reached in all seeds."
                if plain["n"]
                else "."
            ),
        ),
        Finding(
            f"Trained further for {settings.tuning_steps} steps, they do (training loss)",
            crosses(tuned, "train"),
            f"below it {_cross(tuned, scratch, 'train')}"
            + (f"; {at_last(tuned, 'train')} neurons." if tuned["n"] else "."),
        ),
        Finding(
            "Picks from a trained wide network and trained further get below training from scratch (test loss)",
            crosses(tuned, "test"),
            f"below it {_cross(tuned, scratch, 'test')}; without further training {_cross(plain, scratch, 'test')}.",
        ),
        Finding(
            "Picks from a random pool do not get below training from scratch",
            None if crosses(pool, "train") is None else not crosses(pool, "train"),
            f"training loss below it {_cross(pool, scratch, 'train')}, with refitted outer "
            f"weights {_cross(curves['random pool, refit'], scratch, 'train')}; on test points "
            f"{_cross(pool, scratch, 'test')} and "
            f"{_cross(curves['random pool, refit'], scratch, 'test')}; distance of the pool's "
            f"hull {floors:.1e}.",
        ),
        Finding(
            "Which neurons of the trained network stay matters",
            min(gain) > 1 if gain else None,
            (
                f"a random subset has {min(gain):.1f} to {max(gain):.1f} times the test loss of greedy picks."
                if gain
                else "no common width."
            ),
        ),
    ]


def _slopes_table(settings: "Settings", slopes: Mapping[Any, dict[str, Any]]) -> Table:
    rows = []
    for (points, target), row in slopes.items():
        level = geometric(row["level"])
        ahead = geometric(row["over"])
        shown = [_seen(row[k]) for k in ("greedy", "raw", "random")]
        rows.append(
            (
                str(points),
                f"{mean(row['effective']).value:.0f}",
                f"{mean(row['narrow']).value:.0e}",
                target,
                *(ABSENT if s is None else str(s) for s in shown),
                f"{level:.1e}" if level > 1e-15 else "below 1e-15",
                f"{ahead:,.3g}×",
                f"{min(row['distinct'])} to {max(row['distinct'])}",
            )
        )
    return Table(
        f"Picks from {settings.pool} random neurons: log-log slopes over n = {settings.span[0]} "
        f"to {settings.span[1]}, mean over seeds [95%]",
        (
            "dimensions",
            "effective",
            "narrowest",
            "target",
            "greedy − floor",
            "greedy as it is",
            "random subset",
            f"greedy − floor at about {_near(slopes)}",
            "random / greedy there",
            f"different neurons in {settings.picks} picks",
        ),
        tuple(rows),
        "Effective: the square of the summed variances of the neurons' outputs over the sum of "
        "their squares. Narrowest: their smallest standard deviation over the root of the summed "
        "variances; the n⁻² bound needs a ball inside the hull, and its constant grows as that "
        "gets thin. Greedy picks are with replacement. A random subset's loss for a target "
        "that is not the pool's mean levels off at the mean's own error, so its slope above −1 "
        "there is that bias.",
    )


def _near(slopes: Mapping[Any, dict[str, Any]]) -> int:
    return int(next(iter(slopes.values()))["near"])


def _network_tables(
    settings: "Settings", nets: Sequence[Figures], curves: Mapping[str, Any]
) -> list[Table]:
    out = []
    for key, words in (("train", "training"), ("test", "test")):
        rows = []
        for arm, curve in curves.items():
            cells = [
                f"{curve[key][curve['n'].index(n)]:.1e}" if n in curve["n"] else ABSENT
                for n in settings.widths
            ]
            fitted = _seen(curve[f"{key} slopes"])
            rows.append((arm, *cells, ABSENT if fitted is None else str(fitted)))
        wide = geometric([net["wide"][key] for net in nets])
        out.append(
            Table(
                f"Networks: {words} loss by different neurons, geometric mean over seeds",
                ("arm", *map(str, settings.widths), "slope [95%]"),
                tuple(rows),
                f"The trained network of {settings.wide} has {wide:.1e}; the target's mean square "
                f"is {mean([net['power'] for net in nets]).value:.2g}. {ABSENT}: not reached, or "
                "not asked for, in every seed.",
            )
        )
    return out
