"""Study `finetune-or-retrain`: from figures to a table, a plot and findings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sprig.studies.record import Conclusion, Dots, Figures, Finding, Table
from sprig.studies.statistics import Mean, above, mean

if TYPE_CHECKING:
    from sprig.studies.finetune_or_retrain import Settings

REFIT, PLAIN, RANDOM = "inherited, refitted", "inherited, as they are", "random channels, inherited"
ANEW, LABELS = "drawn anew", "picked on labels, untrained net"
SHORT = (REFIT, PLAIN, RANDOM, ANEW, LABELS)
ANEW_LONG, LABELS_LONG = f"{ANEW}, long", f"{LABELS}, long"
LONG = (ANEW_LONG, LABELS_LONG)


def conclude(settings: "Settings", found: Mapping[str, Figures]) -> Conclusion:
    """A table and a plot per network, and the same findings for each."""
    arms = {
        net: {arm: [found[f"{net} {s} {arm}"] for s in settings.seeds] for arm in (*SHORT, *LONG)}
        for net in settings.nets
    }
    dense = {net: [found[f"{net} {s} dense"] for s in settings.seeds] for net in settings.nets}
    findings = [f for net in settings.nets for f in _of(settings, net, arms[net])]
    return Conclusion(
        tuple(_table(settings, net, arms[net], dense[net]) for net in settings.nets),
        tuple(
            Dots(
                f"{net}: test accuracy after training, a dot per seed",
                "accuracy",
                (
                    ("dense", tuple(d["accuracy"] for d in dense[net])),
                    *((arm, tuple(r["after"] for r in rows)) for arm, rows in arms[net].items()),
                ),
            )
            for net in settings.nets
        ),
        tuple(findings),
        (
            "Every arm has the same widths, those that `refit` gave the trained dense network. "
            "Where weights are inherited or drawn without a refit, batch norm is estimated anew "
            "before training.",
            "A difference of fewer seeds than three has an interval too wide to decide anything; "
            "more seeds: --seeds.",
        ),
    )


def _gap(arms: Mapping[str, Any], one: str, other: str) -> Mean:
    """Points of accuracy between two arms, paired by seed."""
    return mean([100 * (a["after"] - b["after"]) for a, b in zip(arms[one], arms[other])])


def _of(settings: "Settings", net: str, arms: Mapping[str, Any]) -> list[Finding]:
    equal, granted = _gap(arms, REFIT, ANEW), _gap(arms, REFIT, ANEW_LONG)
    picked, chosen = _gap(arms, REFIT, LABELS_LONG), _gap(arms, PLAIN, RANDOM)
    refit = _gap(arms, REFIT, PLAIN)
    start = {
        arm: mean([100 * row["before"] for row in arms[arm]]).value
        for arm in (REFIT, PLAIN, RANDOM)
    }
    short, long = settings.epochs, settings.epochs + settings.dense_epochs
    return [
        Finding(
            f"{net}: inherited weights beat the same shape drawn anew at equal training",
            above(equal, 0.0),
            f"{equal} points after {short} epochs each.",
        ),
        Finding(
            f"{net}: they still do when the new one also gets the epochs that the dense network took",
            above(granted, 0.0),
            f"{granted} points, {short} epochs against {long}.",
        ),
        Finding(
            f"{net}: the dense training is worth more than a selection on labels in an untrained network",
            above(picked, 0.0),
            f"{picked} points against channels picked on labels, {long} epochs; at {short} epochs "
            f"{_gap(arms, REFIT, LABELS)} points.",
        ),
        Finding(
            f"{net}: which channels are inherited matters after training",
            above(chosen, 0.0),
            f"picked against random channels, both as they are: {chosen} points; before training "
            f"{start[PLAIN]:.1f}% against {start[RANDOM]:.1f}%.",
        ),
        Finding(
            f"{net}: refitted weights stay ahead after training",
            above(refit, 0.0),
            f"{refit} points; before training {start[REFIT]:.1f}% against {start[PLAIN]:.1f}%.",
        ),
    ]


def _table(settings: "Settings", net: str, arms: Mapping[str, Any], dense: Any) -> Table:
    rows = []
    for arm, found in arms.items():
        after = mean([100 * r["after"] for r in found])
        rows.append(
            (
                arm,
                f"{mean([100 * r['before'] for r in found]).value:.1f}",
                f"{after.value:.1f}",
                f"{min(100 * r['after'] for r in found):.1f} to {max(100 * r['after'] for r in found):.1f}",
                str(found[0]["epochs"]),
                "/".join(sorted({f"{r['rate']:g}" for r in found})),
            )
        )
    before, after_macs = dense[0]["macs"]
    return Table(
        f"{net} on {settings.data}, {settings.images} training images, {after_macs / before:.1%} "
        "of the multiply-adds: test accuracy in percent",
        ("arm", "before training", "after", "range", "epochs", "rate"),
        tuple(rows),
        f"Dense: {mean([100 * d['accuracy'] for d in dense]).value:.1f}% after "
        f"{settings.dense_epochs} epochs; {before:,} multiply-adds and {dense[0]['params'][0]:,} "
        f"parameters, cut to {after_macs:,} and {dense[0]['params'][1]:,} with the first seed.",
    )
