"""The paper's synthetic regression (Khanna et al. 2017): exact, stochastic and distributed picks, and random ones.

    python benchmarks/ar1.py           # d = 1000, n = 800, k = 75; three seeds, a few minutes

Rows come from X_{t+1} = sqrt(1 - a^2) X_t + e with Var e = a^2 = 0.25, neighbours correlated by 0.866; 100 of 1000 true
coefficients, +-(5 sqrt(ln d / n) + N(0, 1)); noise variance 0.01 |X beta|^2 / n (the paper's text does not divide by n,
which would drown the signal; its 100 true columns are 80 on the axes of its figure). R2 in and out of sample, how many
picks are true, evaluations of f in all and one after another, and what is known about the picks (`guarantees`).
The design and the arms are those of the study `weak-submodular` (src/sprig/studies).
"""

import argparse
import math
import platform
import time
from pathlib import Path

import torch

from sprig.studies.weak_submodular import Settings, regression
from sprig.studies.weak_submodular_page import ALONE, RULES

RESULTS = Path(__file__).parent / "results"
SHOWN = (*(name for name, _, _ in RULES[:6]), ALONE[0], RULES[6][0], ALONE[1], "random")
KEYS = ("r2", "fresh", "true", "evaluations", "critical")
# R2 on the training rows, share of true picks, evaluations (one after another): an earlier trial of this design
EXPECTED = {
    "exact": (0.9825, 0.91, 72225),
    "stochastic, delta 0.001": (0.954, 0.61, 6975),
    "stochastic, delta 0.01": (0.944, 0.52, 4650),
    "stochastic, delta 0.1": (0.908, 0.43, 2325),
    "stochastic, delta 0.5": (0.793, 0.23, 750),
    "distributed, 2 parts": (0.969, 0.72, 44700),
    "distributed, 10 parts": (0.979, 0.83, 59550),
    "best part alone, 2 parts": (0.896, 0.44, None),
    "best part alone, 10 parts": (0.591, 0.12, None),
    "random": (0.416, 0.09, None),
}


def run(seed: int, args: argparse.Namespace) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Figures of each way to pick, and what is known about some of them: the study's, in the order of the page."""
    settings = Settings(
        seeds=(0,), features=args.features, rows=args.rows, true=args.true, picks=args.picks, ratios=args.pairs
    )  # fmt: skip
    found = regression(settings, seed)
    rows = {}
    for name in SHOWN:
        arm = found["arms"][name]
        rows[name] = tuple(math.nan if arm[key] is None else arm[key] for key in KEYS)
        print(seed, name, *(round(value, 4) for value in rows[name]), flush=True)
    return rows, found["known"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--picks", type=int, default=75)
    parser.add_argument("--true", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=200, help="sets looked at for each ratio")
    parser.add_argument("--out", type=Path, default=RESULTS / "ar1.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, said = dict[str, list[tuple[float, ...]]](), dict[str, str]()
    begin = time.process_time()
    for seed in range(args.seeds):
        figures, known = run(seed, args)
        said |= known
        for name, row in figures.items():
            rows.setdefault(name, []).append(row)
    text = page(args, rows, said, time.process_time() - begin)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(text)


def beside(mean: dict[str, list[float]], spread: dict[str, float]) -> str:
    """Which means are as far from the earlier trial's as the seeds are from each other, and which are farther."""
    gaps = {n: mean[n][0] - EXPECTED[n][0] for n in mean if n in EXPECTED}
    far = [f"{n} ({gap:+.3f})" for n, gap in gaps.items() if abs(gap) > spread[n]]
    return (
        f"Beside the earlier trial (one design, one draw of each rule): {len(gaps) - len(far)} of {len(gaps)} means "
        f"differ by no more than the range of the seeds, beyond it: {', '.join(far) or 'none'}."
    )


def page(
    args: argparse.Namespace,
    rows: dict[str, list[tuple[float, ...]]],
    said: dict[str, str],
    seconds: float,
) -> str:
    mean = {name: [sum(c) / len(c) for c in zip(*found)] for name, found in rows.items()}
    spread = {
        name: max(r[0] for r in found) - min(r[0] for r in found) for name, found in rows.items()
    }
    lines = [
        "# The paper's regression on an AR(1) design",
        "",
        f"{args.features} columns, {args.rows} rows, {args.true} true, {args.picks} picks; "
        f"means of {args.seeds} seeds, each with a design and partition of its own.",
        f"Command: `python benchmarks/ar1.py`. {seconds:.0f} s of one processor, torch {torch.__version__}, Python "
        f"{platform.python_version()}.",
        "",
        "| picks by | R2 (spread over seeds) | R2 on new rows | true picks | evaluations | one after another "
        "| earlier trial: R2, true, evaluations |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (fit, fresh, right, evaluations, critical) in mean.items():
        counts = ["" if math.isnan(v) else f"{v:,.0f}" for v in (evaluations, critical)]
        known = EXPECTED.get(name, (math.nan, math.nan, None))
        told = f"{known[0]}, {known[1]}" + ("" if known[2] is None else f", {known[2]:,}")
        cells = (
            name,
            f"{fit:.4f} ({spread[name]:.4f})",
            f"{fresh:.4f}",
            f"{right:.2f}",
            *counts,
            told,
        )
        lines.append(f"| {' | '.join(cells)} |")
    best = mean["exact"][0]
    worst = max(
        best - r for name in rows if name.startswith("distributed") for r in [mean[name][0]]
    )
    lines += [
        "",
        f"Distributed picks lose at most {worst / best:.2%} of the exact rule's R2 in the mean (2% was asked for), "
        f"random ones {(best - mean['random'][0]) / best:.0%}.",
        "",
        beside(mean, spread),
        "",
        f"What is known about them, seed 0, {args.pairs} sets looked at for each ratio:",
        "",
    ]
    for name, text in said.items():
        lines += [f"- {name}", *(f"    - {line}" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
