"""Study `ball`: from figures to tables, plots and findings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sprig.studies.clipped import LAWS
from sprig.studies.record import Conclusion, Curve, Dots, Figures, Finding, Plot, Table
from sprig.studies.statistics import above, below, mean, median

if TYPE_CHECKING:
    from sprig.studies.ball import Settings

STUCK = 0.01  # share of points between the clips at or below which a network hardly moves
ARMS = (
    "dense, all features",
    "greedy on the dense, as it is",
    "greedy on the dense, trained on",
    "same mask, weights drawn anew, from scratch",
    "greedy on the labels, as it is",
    "greedy on the labels, trained on",
    "random features, from scratch",
    "random features, imitating the dense, then trained",
    "largest of the dense, as it is",
    "largest of the dense, trained on",
)


def conclude(settings: "Settings", found: Mapping[str, Figures]) -> Conclusion:
    """Tables, plots and findings."""
    risk = {
        (law, row["d"], row["r"]): [found[f"risk {law} {s}"]["rows"][at] for s in settings.seeds]
        for law in settings.laws
        for at, row in enumerate(found[f"risk {law} {settings.seeds[0]}"]["rows"])
    }
    sweep = {
        d: [found[f"dimension {s}"]["rows"][at] for s in settings.seeds]
        for at, d in enumerate(settings.sweep)
    }
    pruned = [found[f"pruning {s}"] for s in settings.seeds]
    redrawn = sum(row["dead redrawn"] for rows in (*risk.values(), *sweep.values()) for row in rows)
    redrawn += sum(p["dead redrawn"] for p in pruned)
    findings = (
        *_of_risk(settings, risk),
        _of_sweep(settings, sweep),
        *_of_pruning(settings, pruned),
    )
    return Conclusion(
        (_risk_table(risk), _sweep_table(settings, sweep), _pruning_table(settings, pruned)),
        _plots(settings, sweep, pruned),
        findings,
        (
            "Risks are mean squared errors on new points; accuracy would favour the linear read-outs.",
            f"{redrawn} dead starts were met in training and drawn anew.",
            "Laws: " + "; ".join(f"{law}: {LAWS[law]}" for law in settings.laws) + ".",
        ),
    )


def _of(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows]


def _of_risk(settings: "Settings", risk: Mapping[Any, list[Figures]]) -> list[Finding]:
    wide = max(settings.widths)
    ahead = {
        key: mean([a - b for a, b in zip(_of(rows, "clipped"), _of(rows, "best linear"))]).value
        for key, rows in risk.items()
        if key[2] == wide
    }
    falls = {
        (law, d): (
            mean(_of(risk[law, d, min(settings.widths)], "clipped")).value,
            mean(_of(risk[law, d, wide], "clipped")).value,
        )
        for law in settings.laws
        for d in settings.dims
    }
    dead = {key: mean(_of(rows, "dead")).value for key, rows in risk.items()}
    worst = max(dead, key=dead.__getitem__)
    nearly = mean([mean(_of(rows, "nearly")).value for rows in risk.values()]).value
    stuck = sum(v <= STUCK for rows in risk.values() for v in _of(rows, "live"))
    runs = sum(len(rows) for rows in risk.values())
    return [
        Finding(
            "The clipped neuron stays below the best possible linear read-out of the same features",
            all(v < 0 for v in ahead.values()),
            f"risk by law and dimension, {wide} features, clipped against linear: "
            + "; ".join(
                f"{law} d={d} {mean(_of(risk[law, d, r], 'clipped')).value:.3f} against "
                f"{mean(_of(risk[law, d, r], 'best linear')).value:.3f}"
                for law, d, r in ahead
            )
            + ".",
        ),
        Finding(
            "More random features, lower risk",
            all(b < a for a, b in falls.values()),
            f"{min(settings.widths)} to {wide} features: "
            + "; ".join(f"{law} d={d} {a:.3f} to {b:.3f}" for (law, d), (a, b) in falls.items())
            + ".",
        ),
        Finding(
            "Some starts are dead: every point below the clip, gradient exactly zero",
            max(dead.values()) > 0,
            f"up to {dead[worst]:.1%} of {settings.draws * len(settings.seeds)} random starts "
            f"({worst[0]}, d={worst[1]}, {worst[2]} features), {mean(list(dead.values())).value:.1%} "
            f"in the mean; {nearly:.1%} have at most a hundredth of the points between the clips and "
            f"hardly move: {stuck} of {runs} trainings ended that way.",
        ),
    ]


def _of_sweep(settings: "Settings", sweep: Mapping[int, list[Figures]]) -> Finding:
    share = {
        d: [a / b for a, b in zip(_of(rows, "clipped"), _of(rows, "constant"))]
        for d, rows in sweep.items()
    }
    low, high = min(sweep), max(sweep)
    change = mean([b - a for a, b in zip(share[low], share[high])])
    return Finding(
        "At a fixed number of features and points the task gets harder with the dimension",
        above(change, 0.0),
        "clipped neuron's risk as a share of the best constant's: "
        + ", ".join(f"d={d} {mean(v).value:.2f}" for d, v in share.items())
        + "; with both layers trained and no clip "
        + ", ".join(
            f"{mean([a / b for a, b in zip(_of(rows, 'both layers'), _of(rows, 'constant'))]).value:.2f}"
            for rows in sweep.values()
        )
        + ". The separation that the paper proves is asymptotic in d and of small errors; these sizes do not show "
        "it.",
    )


def _of_pruning(settings: "Settings", pruned: Sequence[Figures]) -> list[Finding]:
    def risks(arm: str) -> list[float]:
        return [p["arms"][arm]["risk"] for p in pruned]

    def gap(one: str, other: str) -> list[float]:
        return [a - b for a, b in zip(risks(one), risks(other))]

    def told(arm: str) -> str:
        return f"{mean(risks(arm)).value:.3f}"

    greedy, anew = "greedy on the dense, trained on", "same mask, weights drawn anew, from scratch"
    labels, random = "greedy on the labels, trained on", "random features, from scratch"
    large = "largest of the dense, trained on"
    chosen = mean(gap(random, greedy))
    inherit = mean(gap(anew, greedy))
    direct = mean(gap(labels, greedy))
    ratio = median([a / b for a, b in zip(risks(large), risks(greedy))])
    dead = sum(p["arms"][large]["begun"] <= STUCK for p in pruned)
    noise = 0.1 * mean(risks(random)).value
    return [
        Finding(
            f"{settings.keep} features picked greedily out of {settings.pool} beat {settings.keep} arbitrary ones",
            above(chosen, 0.0),
            f"risk {told(greedy)} against {told(random)}, difference {chosen}; the dense network "
            f"has {told('dense, all features')}.",
        ),
        Finding(
            "Inherited weights add little to the selection: the same mask drawn anew gets as far",
            below(inherit, noise),
            f"{told(anew)} against {told(greedy)} with inherited weights, difference {inherit}; "
            "as far is less than a tenth of the arbitrary features' risk.",
        ),
        Finding(
            "The dense network adds little either: picks on the labels get as far",
            below(direct, noise),
            f"{told(labels)} against {told(greedy)}, difference {direct}.",
        ),
        Finding(
            "The largest weights are a bad choice, and with a clip a fatal one",
            ratio > 2,
            f"risk {told('largest of the dense, as it is')} as they are, {told(large)} trained "
            f"on, {ratio:.1f} times the greedy picks' (median); {dead} of {len(pruned)} began "
            "dead or nearly so.",
        ),
    ]


def _risk_table(risk: Mapping[Any, list[Figures]]) -> Table:
    keys = ("clipped", "linear", "best linear", "constant")
    rows = tuple(
        (
            law,
            str(d),
            str(r),
            *(f"{mean(_of(found, k)).value:.3f}" for k in keys),
            f"{min(_of(found, 'clipped')):.3f} to {max(_of(found, 'clipped')):.3f}",
            f"{mean(_of(found, 'dead')).value:.1%}",
            f"{mean(_of(found, 'nearly')).value:.1%}",
            f"{sum(v <= STUCK for v in _of(found, 'live'))} of {len(found)}",
        )
        for (law, d, r), found in risk.items()
    )
    return Table(
        "Test risk, mean over seeds",
        (
            "law",
            "d",
            "features",
            "clipped",
            "linear, same steps",
            "best linear",
            "constant",
            "clipped, range",
            "dead starts",
            "nearly dead",
            "trained ones that ended so",
        ),
        rows,
        "`best linear` is the least over ridges on the test points themselves. The constant is the best one.",
    )


def _sweep_table(settings: "Settings", sweep: Mapping[int, list[Figures]]) -> Table:
    keys = ("clipped", "best linear", "both layers", "constant")
    rows = tuple(
        (str(d), *(f"{mean(_of(found, k)).value:.3f}" for k in keys)) for d, found in sweep.items()
    )
    return Table(
        f"Dimension, law spheres, {settings.sweep_width} features, {settings.samples} points: test risk",
        ("d", *keys),
        rows,
    )


def _pruning_table(settings: "Settings", pruned: Sequence[Figures]) -> Table:
    rows = []
    for arm in ARMS:
        values = [p["arms"][arm]["risk"] for p in pruned]
        dead = sum(p["arms"][arm]["begun"] <= STUCK for p in pruned)
        rows.append(
            (
                arm,
                f"{mean(values).value:.3f}",
                f"{min(values):.3f} to {max(values):.3f}",
                str(dead) if dead else "",
            )
        )
    return Table(
        f"Pruning {settings.pool} features to {settings.keep}, law uniform, d = {settings.prune_dim}: test risk",
        ("arm", "mean", "range", "begun dead or nearly"),
        tuple(rows),
    )


def _plots(
    settings: "Settings", sweep: Mapping[int, list[Figures]], pruned: Sequence[Figures]
) -> tuple[Plot | Dots, ...]:
    curves = tuple(
        Curve(
            key,
            tuple((float(d), mean(_of(rows, key)).value) for d, rows in sweep.items()),
            tuple(
                (float(d), min(_of(rows, key)), max(_of(rows, key))) for d, rows in sweep.items()
            ),
        )
        for key in ("clipped", "best linear", "both layers", "constant")
    )
    dots = tuple((arm, tuple(p["arms"][arm]["risk"] for p in pruned)) for arm in ARMS)
    return (
        Dots(
            f"Test risk after pruning to {settings.keep} features, a dot per seed",
            "risk",
            dots,
            log=True,
        ),
        Plot("Test risk over dimension, law spheres", "dimension", "risk", curves, log_x=True),
    )
