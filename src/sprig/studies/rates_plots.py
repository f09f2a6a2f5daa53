"""Study `rates`: its plots."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sprig.studies.record import Curve, Figures, Plot
from sprig.studies.statistics import geometric

if TYPE_CHECKING:
    from sprig.studies.rates import Settings


def pick_plots(settings: "Settings", picks: Sequence[Sequence[Mapping[str, Any]]]) -> list[Plot]:
    """Loss over picks in the fewest and in the most dimensions, geometric mean over seeds."""
    curves = []
    for m in (min(settings.points), max(settings.points)):
        same = [
            row
            for rows in picks
            for row in rows
            if row["points"] == m and row["target"] == "inside"
        ]
        grid = same[0]["grid"]
        for key, name in (("greedy", "greedy picks"), ("random", "random subset")):
            points = tuple(
                (
                    float(n),
                    geometric([row[key][i] for row in same]),
                )
                for i, n in enumerate(grid)
            )
            curves.append(Curve(f"{name}, {m} dimensions", points))
    return [
        Plot(
            "Loss over picks, target inside the hull",
            "picks n",
            "mean squared error",
            tuple(curves),
            True,
            True,
        )
    ]


def network_plots(nets: Sequence[Figures], curves: Mapping[str, Any]) -> list[Plot]:
    """Training and test loss of every arm over its size; bars from the lowest to the highest seed."""
    out = []
    for key, words in (("train", "Training"), ("test", "Test")):
        drawn = tuple(
            Curve(
                arm,
                tuple(zip(map(float, c["n"]), c[key])),
                tuple((float(n), *ends) for n, ends in zip(c["n"], c[f"{key} range"])),
            )
            for arm, c in curves.items()
            if c["n"]
        )
        out.append(
            Plot(
                f"{words} loss over different neurons",
                "different neurons",
                "mean squared error",
                drawn,
                True,
                True,
            )
        )
    return out
