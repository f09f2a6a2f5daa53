"""Study `weak-submodular`: from figures to tables, plots and findings."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sprig.studies.record import Conclusion, Curve, Dots, Figures, Finding, Plot, Table
from sprig.studies.statistics import mean

if TYPE_CHECKING:
    from sprig.studies.weak_submodular import Settings

RULES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("exact", "exact", {}),
    ("stochastic, delta 0.001", "stochastic", {"delta": 0.001}),
    ("stochastic, delta 0.01", "stochastic", {"delta": 0.01}),
    ("stochastic, delta 0.1", "stochastic", {"delta": 0.1}),
    ("stochastic, delta 0.5", "stochastic", {"delta": 0.5}),
    ("distributed, 2 parts", "distributed", {"parts": 2}),
    ("distributed, 10 parts", "distributed", {"parts": 10}),
)
ALONE = ("best part alone, 2 parts", "best part alone, 10 parts")
FIXED = ("singly best", "random")
BOUNDED = ("exact", "stochastic, delta 0.1", "distributed, 10 parts")
CLOSE = 0.02  # what distributed picks may lose of the exact ones' R2


def conclude(settings: "Settings", found: Mapping[str, Figures]) -> Conclusion:
    """Tables, plots and findings."""
    first = [found[f"ar1 {s}"] for s in settings.seeds]
    second = [found[f"logistic {s}"] for s in settings.seeds]
    lazy = found["suppressors"]

    def r2(name: str, key: str = "r2") -> list[float]:
        return [row["arms"][name][key] for row in first]

    def likely(name: str, key: str = "likelihood") -> list[float]:
        return [row["arms"][name][key] for row in second]

    exact = mean(r2("exact")).value
    many = f"distributed, {settings.many_parts} parts"
    loss = {n: 1 - mean(r2(n)).value / exact for n in _arms(first[0], many)}
    support = {n: 1 - mean(r2(n, "true")).value / mean(r2("exact", "true")).value for n in loss}
    parted, alone = ("distributed, 2 parts", "distributed, 10 parts"), ALONE
    worst = max(loss[n] for n in parted)
    samples = [n for n, rule, _ in RULES if rule == "stochastic"]
    same = sum(row["same"] for row in first)
    climbs = [mean(likely(n)).value for n in ("exact", *samples[:3])]
    gap = [mean(likely("exact")).value - mean(likely(n)).value for n in parted]
    lead = mean(likely("exact")).value - mean(likely("random")).value
    lines = [line for text in first[0]["known"].values() for line in text.splitlines()]
    spectral = [line for line in lines if "eigenvalues" in line]
    findings = (
        Finding(
            "Distributed picks keep 98% of the exact picks' R2",
            worst <= CLOSE,
            f"with 2 and 10 parts they lose {loss[parted[0]]:.2%} and {loss[parted[1]]:.2%} of "
            f"{exact:.4f} in the mean of {len(first)} designs; random picks lose "
            f"{loss['random']:.0%}, the singly best columns {loss['singly best']:.0%}.",
        ),
        Finding(
            "The second round is what does it: the best part alone is far lower",
            min(loss[n] for n in alone) > 2 * worst,
            f"the best single part loses {loss[alone[0]]:.0%} (2 parts) and {loss[alone[1]]:.0%} (10 parts).",
        ),
        Finding(
            "Stochastic picks lose the true support sooner than R2",
            all(support[n] > loss[n] for n in samples),
            "; ".join(
                f"{n.split(', ')[1]}: R2 −{loss[n]:.0%}, true picks −{support[n]:.0%}"
                for n in samples
            )
            + ".",
        ),
        Finding(
            "With so many parts that each holds no more than k columns, nothing is distributed any more",
            same == len(first)
            if settings.features / settings.many_parts <= settings.picks
            else None,
            f"{many} of about {settings.features / settings.many_parts:.0f} columns, k = "
            f"{settings.picks}: the exact picks in {same} of {len(first)} designs.",
        ),
        Finding(
            "The bounds from eigenvalues say nothing here",
            all("vacuous" in line for line in spectral) if spectral else None,
            f"{sum('vacuous' in line for line in spectral)} of {len(spectral)} of them are vacuous; see the table.",
        ),
        Finding(
            "Lazy evaluation loses where columns suppress each other, and is refused",
            lazy["worse"] > 0 and lazy["refused"] == lazy["problems"],
            f"forced, it picks worse sets in {lazy['worse']} of {lazy['problems']} small problems "
            f"(R2 lower by up to {max(lazy['lost']):.0%}); asked plainly it is refused in "
            f"{lazy['refused']}.",
        ),
        Finding(
            "Logistic regression: smaller samples, lower likelihood",
            all(a >= b - 1e-12 for a, b in pairwise(climbs)),
            f"mean log-likelihood of {settings.logistic_picks} pixels, exact and delta 0.001, 0.01, 0.1: "
            + ", ".join(f"{v:.4f}" for v in climbs)
            + f"; random pixels {mean(likely('random')).value:.4f}.",
        ),
        Finding(
            "Logistic regression: distributed picks lose little too",
            max(gap) <= CLOSE * lead,
            f"they lose {gap[0] / lead:.1%} (2 parts) and {gap[1] / lead:.1%} (10 parts) of the "
            f"exact picks' lead over random ones ({lead:.3f}).",
        ),
    )
    tables = (
        _regression_table(settings, first),
        _logistic_table(settings, second),
        _known_table(first[0]["known"]),
    )
    plots = (
        Dots(
            "R2 on the training rows, a dot per design",
            "R2",
            tuple((n, tuple(r2(n))) for n in loss),
        ),
        Plot(
            f"Logistic regression on {settings.data}: likelihood along the picks",
            "picks",
            "log-likelihood above the intercept alone",
            tuple(
                Curve(
                    n,
                    tuple(
                        (float(k), mean([row["arms"][n]["values"][k] for row in second]).value)
                        for k in range(settings.logistic_picks + 1)
                    ),
                )
                for n in _arms(second[0])
            ),
        ),
    )
    return Conclusion(
        tables,
        plots,
        findings,
        (
            f"Synthetic regression: {settings.true} of {settings.features} columns are true, "
            f"{settings.rows} rows, k = {settings.picks}; a new design and a new partition for "
            "each seed.",
            "An evaluation is one gain computed exactly, with the refit it asks for; wall time "
            "depends on how gains are batched and is not compared.",
        ),
    )


def _arms(row: Figures, *more: str) -> list[str]:
    """The arms that these figures have, in the order of the tables."""
    known = (*(name for name, _, _ in RULES), *more, *ALONE, *FIXED)
    return [name for name in known if name in row["arms"]]


def _regression_table(settings: "Settings", rows: Sequence[Figures]) -> Table:
    out = []
    for name in _arms(rows[0], f"distributed, {settings.many_parts} parts"):
        arms = [row["arms"][name] for row in rows]
        counts = [
            "–" if arms[0][key] is None else f"{math.fsum(a[key] for a in arms) / len(arms):,.0f}"
            for key in ("evaluations", "critical")
        ]
        out.append(
            (
                name,
                f"{mean([a['r2'] for a in arms]).value:.4f}",
                f"{max(a['r2'] for a in arms) - min(a['r2'] for a in arms):.4f}",
                f"{mean([a['fresh'] for a in arms]).value:.4f}",
                f"{mean([a['true'] for a in arms]).value:.2f}",
                *counts,
            )
        )
    return Table(
        f"AR(1) regression, k = {settings.picks}",
        (
            "picks by",
            "R2",
            "spread",
            "R2 on new rows",
            "true picks",
            "evaluations",
            "one after another",
        ),
        tuple(out),
        "`singly best`: the columns that explain most alone. `best part alone`: without the second round.",
    )


def _logistic_table(settings: "Settings", rows: Sequence[Figures]) -> Table:
    out = []
    for name in _arms(rows[0]):
        arms = [row["arms"][name] for row in rows]
        count = arms[0]["evaluations"]
        out.append(
            (
                name,
                f"{mean([a['likelihood'] for a in arms]).value:.4f}",
                f"{mean([a['fresh'] for a in arms]).value:.4f}",
                f"{100 * mean([a['accuracy'] for a in arms]).value:.1f}%",
                "–"
                if count is None
                else f"{math.fsum(a['evaluations'] for a in arms) / len(arms):,.0f}",
            )
        )
    nothing = mean([row["nothing"] for row in rows]).value
    return Table(
        f"Logistic regression, {settings.logistic_picks} of about {rows[0]['features']} pixels of "
        f"{settings.data}, class {settings.classes[0]} against {settings.classes[1]}, "
        f"{rows[0]['rows']} images",
        (
            "picks by",
            "mean log-likelihood",
            "on test images",
            "accuracy on test images",
            "evaluations",
        ),
        tuple(out),
        f"The intercept alone has {nothing:.4f}.",
    )


def _known_table(known: Mapping[str, str]) -> Table:
    rows = [(name, line) for name in BOUNDED for line in known[name].splitlines()]
    return Table(
        "What is guaranteed for the picks of the first seed", ("picks by", "bound"), tuple(rows)
    )
