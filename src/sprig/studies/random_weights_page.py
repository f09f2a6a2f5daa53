"""Study `random-weights`: from figures to tables, plots and findings."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sprig.studies.edges import bits
from sprig.studies.record import Conclusion, Curve, Figures, Finding, Plot, Table
from sprig.studies.statistics import Mean, above, below, mean

if TYPE_CHECKING:
    from sprig.studies.random_weights import Settings

PLAIN, SCALED = "edge-popup, constant", "edge-popup, constant, scaled"
NORMAL, NORMAL_SCALED = "edge-popup, normal", "edge-popup, normal, scaled"
UNTRAINED, SPARSE = "random mask, untrained", "random mask, weights trained"
LEARNED = "largest weights of the dense, trained on"
MASKS = (PLAIN, SCALED, NORMAL, NORMAL_SCALED, UNTRAINED, SPARSE, LEARNED)
NEURONS = (
    "greedy from random, mean of picks",
    "greedy from random, refit",
    "random features, ridge",
    "trained from scratch",
    "greedy from trained, refit",
    "largest of trained, trained on",
    "random of trained, trained on",
)


def conclude(settings: "Settings", found: Mapping[str, Figures]) -> Conclusion:
    """Tables, plots and findings."""
    masks = {
        (w, k): found[f"masks {w} {k}"]["arms"] for w in settings.widths for k in settings.keeps
    }
    dense = {w: found[f"dense {w}"] for w in settings.widths}
    nets = [found[f"neurons {s}"] for s in settings.seeds]
    single = [found[f"one neuron {h}"] for h in settings.hidden]
    findings = (
        *_of_masks(settings, masks, dense),
        *_of_neurons(settings, nets),
        _of_single(settings, single),
    )
    tables = (
        _mask_table(settings, masks, dense),
        _neuron_table(settings, nets),
        _single_table(settings, single),
    )
    return Conclusion(
        tables,
        _plots(settings, masks, dense, nets),
        findings,
        (
            "Masks and networks have no biases and no normalisation; `keep` is the share of "
            "weights that stays in every layer.",
            "Bits: H(keep) per weight for the mask, and 32 per kept weight if weights were "
            "trained, or 64 in all for the seed.",
        ),
    )


def _level(arm: Mapping[str, Any]) -> float:
    return mean(arm["accuracy"]).value


def _gain(arms: Mapping[str, Any], one: str, other: str) -> list[float]:
    """Differences of paired seeds."""
    return [a - b for a, b in zip(arms[one]["accuracy"], arms[other]["accuracy"])]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _by_seed(rows: Sequence[Sequence[float]]) -> Mean:
    """Mean over seeds, with its interval, of what each seed has in the mean over widths or sizes."""
    return mean([mean(values).value for values in zip(*rows)])


def _of_masks(
    settings: "Settings", masks: Mapping[Any, Any], dense: Mapping[int, Any]
) -> list[Finding]:
    low, widths = min(settings.keeps), settings.widths
    others = [k for k in settings.keeps if k != low]

    def gains(one: str, other: str, keep: float) -> list[list[float]]:
        return [_gain(masks[w, keep], one, other) for w in widths]

    scaled = {k: _by_seed(gains(SCALED, PLAIN, k)) for k in settings.keeps}
    normal = {k: _by_seed(gains(NORMAL_SCALED, NORMAL, k)).value for k in settings.keeps}
    # per width and seed: the gain when sparse above the mean of the gains when not
    extra = [
        [g - mean(rest).value for g, *rest in zip(at_low, *at_others)]
        for at_low, *at_others in zip(
            gains(SCALED, PLAIN, low), *(gains(SCALED, PLAIN, k) for k in others)
        )
    ]
    half = sorted(settings.keeps)[
        len(settings.keeps) // 2
    ]  # chosen beforehand, not on these figures
    gaps = [_level(dense[w]) - _level(masks[w, half][SCALED]) for w in widths]
    beaten, learned = gains(SCALED, SPARSE, low), gains(LEARNED, SCALED, low)
    blind = max(_level(masks[key][UNTRAINED]) for key in masks)
    widest = max(widths)
    total = dense[widest]["total"]

    def told(rows: Sequence[Sequence[float]]) -> str:
        each = (f"width {w}: {_points(mean(row).value)}" for w, row in zip(widths, rows))
        return ", ".join(each) + f" points, {_interval(_by_seed(rows))} in the mean"

    return [
        Finding(
            "Scaling the weights to the share kept matters most when it is small",
            above(_by_seed(extra), 0.0),
            "scaled minus unscaled constant weights, points of accuracy in the mean over widths: "
            + ", ".join(f"keep {k:g}: {_interval(v)}" for k, v in scaled.items())
            + "; normal weights: "
            + ", ".join(f"{_points(v)}" for v in normal.values())
            + f"; at keep {low:g} "
            + told(gains(SCALED, PLAIN, low))
            + ".",
        ),
        Finding(
            "Width closes the gap between masks of random weights and the trained dense network",
            all(b <= a + 0.002 for a, b in pairwise(gaps)) and gaps[-1] < gaps[0],
            f"dense minus scaled constant edge-popup at keep {half:g}: "
            + ", ".join(f"width {w}: {_points(g)}" for w, g in zip(widths, gaps))
            + " points.",
        ),
        Finding(
            f"At keep {low:g} a searched mask of random weights beats training the weights of a "
            "random mask",
            above(_by_seed(beaten), 0.0),
            told(beaten) + ".",
        ),
        Finding(
            f"At keep {low:g} a learned mask with trained weights beats the searched mask of "
            "random ones",
            above(_by_seed(learned), 0.0),
            "largest weights of the dense network, trained on, against scaled edge-popup: "
            + told(learned)
            + "; the first has the dense network's training on top.",
        ),
        Finding(
            "A random mask of random weights is worth nothing",
            blind < 0.3,
            f"at most {100 * blind:.0f}% of ten classes.",
        ),
        Finding(
            "A mask is a smaller file than trained weights, not a better network",
            _level(masks[widest, half][SCALED]) <= _level(dense[widest]) + 0.005,
            f"width {widest}: edge-popup at keep {half:g} has "
            f"{100 * _level(masks[widest, half][SCALED]):.1f}% in "
            f"{bits(total, half, False) / 8192:.1f} KiB, the dense network "
            f"{100 * _level(dense[widest]):.1f}% in {bits(total, 1.0, True) / 8192:.1f} KiB, its "
            f"largest {low:.0%} trained on {100 * _level(masks[widest, low][LEARNED]):.1f}% in "
            f"{bits(total, low, True) / 8192:.1f} KiB; both kinds of mask run as sparse networks.",
        ),
    ]


def _interval(value: Mean) -> str:
    """A difference in points of accuracy with its interval."""
    if value.high == float("inf"):
        return _points(value.value)
    return f"{_points(value.value)} [{_points(value.low)}, {_points(value.high)}]"


def _arm(nets: Sequence[Figures], arm: str, n: int) -> list[float]:
    return [net["arms"][arm][str(n)] for net in nets if str(n) in net["arms"].get(arm, {})]


def _of_neurons(settings: "Settings", nets: Sequence[Figures]) -> list[Finding]:
    sizes = settings.neurons

    def lead(one: str, other: str) -> list[list[float]]:
        return [[a - b for a, b in zip(_arm(nets, one, n), _arm(nets, other, n))] for n in sizes]

    chosen = lead("greedy from random, refit", "random features, ridge")
    trained = lead("trained from scratch", "greedy from random, refit")
    inherited = lead("largest of trained, trained on", "trained from scratch")
    selected = lead("largest of trained, trained on", "random of trained, trained on")
    ceiling = mean([net["ceiling"] for net in nets]).value
    reached = mean(_arm(nets, "greedy from random, refit", sizes[-1])).value

    def told(rows: Sequence[Sequence[float]]) -> str:
        each = (f"{n}: {_points(mean(row).value)}" for n, row in zip(sizes, rows))
        return ", ".join(each) + f", {_interval(_by_seed(rows))} in the mean"

    return [
        Finding(
            "Choosing random neurons greedily beats taking any, at the same number and with the "
            "same read-out",
            above(_by_seed(chosen), 0.0),
            f"points of accuracy by neurons: {told(chosen)}; {settings.pool} random features, the "
            f"ceiling of any choice among them, have {100 * ceiling:.1f}%, {sizes[-1]} chosen ones "
            f"{100 * reached:.1f}%.",
        ),
        Finding(
            "Training the same number of neurons from scratch beats choosing among random ones",
            above(_by_seed(trained), 0.0),
            f"points by neurons: {told(trained)}.",
        ),
        Finding(
            "Cutting a trained wide network and training on beats training the small one from scratch",
            above(_by_seed(inherited), 0.0),
            f"points by neurons: {told(inherited)}; against a random part of the same network: "
            f"{told(selected)}.",
        ),
    ]


def _of_single(settings: "Settings", single: Sequence[Figures]) -> Finding:
    last = single[-1]
    return Finding(
        f"One ReLU neuron of {settings.inputs} inputs: masks of weights get where choosing among "
        f"{last['hidden']} random neurons cannot",
        below(mean([a - b for a, b in zip(last["masked"], last["features"])]), 0.0),
        "relative error of edge-popup against the best read-out of all random features: "
        + "; ".join(
            f"{row['hidden']} hidden: {mean(row['masked']).value:.3f} against {mean(row['features']).value:.3f}"
            for row in single
        )
        + ".",
    )


def _mask_table(settings: "Settings", masks: Mapping[Any, Any], dense: Mapping[int, Any]) -> Table:
    rows = []
    for w in settings.widths:
        for k in settings.keeps:
            cells = [f"{100 * _level(masks[w, k][a]):.1f}" for a in MASKS]
            rows.append((str(w), f"{k:g}", *cells, f"{100 * _level(dense[w]):.1f}"))
    return Table(
        "Masks: test accuracy in percent, 64-w-w-10 on digits, mean over seeds",
        ("width", "keep", *MASKS, "dense"),
        tuple(rows),
    )


def _neuron_table(settings: "Settings", nets: Sequence[Figures]) -> Table:
    rows = []
    for arm in NEURONS:
        values = [_arm(nets, arm, n) for n in settings.neurons]
        rows.append(
            (arm, *(f"{100 * mean(v).value:.1f}" if len(v) == len(nets) else "–" for v in values))
        )
    return Table(
        "One hidden layer on digits: test accuracy in percent by neurons",
        ("arm", *map(str, settings.neurons)),
        tuple(rows),
        f"All {settings.pool} random features with a read-out: "
        f"{100 * mean([n['ceiling'] for n in nets]).value:.1f}%; {settings.pool} neurons trained: "
        f"{100 * mean([n['trained'] for n in nets]).value:.1f}%.",
    )


def _single_table(settings: "Settings", single: Sequence[Figures]) -> Table:
    rows = tuple(
        (
            str(row["hidden"]),
            f"{mean(row['masked']).value:.3f}",
            f"{min(row['masked']):.3f} to {max(row['masked']):.3f}",
            f"{row['keep']:g}",
            f"{mean(row['features']).value:.3f}",
        )
        for row in single
    )
    return Table(
        f"One ReLU neuron of {settings.inputs} inputs as the target: relative test error",
        ("hidden neurons", "edge-popup", "range", "keep", "all random features, ridge"),
        rows,
    )


def _plots(
    settings: "Settings",
    masks: Mapping[Any, Any],
    dense: Mapping[int, Any],
    nets: Sequence[Figures],
) -> tuple[Plot, ...]:
    low = min(settings.keeps)
    shown = (PLAIN, SCALED, NORMAL_SCALED, SPARSE, LEARNED)
    curves = [
        Curve(
            arm,
            tuple((float(w), _level(masks[w, low][arm])) for w in settings.widths),
            tuple(
                (float(w), min(masks[w, low][arm]["accuracy"]), max(masks[w, low][arm]["accuracy"]))
                for w in settings.widths
            ),
        )
        for arm in shown
    ]
    curves.append(Curve("dense", tuple((float(w), _level(dense[w])) for w in settings.widths)))
    lines = [
        Curve(
            arm,
            tuple(
                (float(n), mean(_arm(nets, arm, n)).value)
                for n in settings.neurons
                if _arm(nets, arm, n)
            ),
        )
        for arm in NEURONS
    ]
    return (
        Plot(f"Masks at keep {low:g}", "width", "test accuracy", tuple(curves), log_x=True),
        Plot(
            "One hidden layer",
            "neurons",
            "test accuracy",
            tuple(c for c in lines if c.points),
            log_x=True,
        ),
    )
