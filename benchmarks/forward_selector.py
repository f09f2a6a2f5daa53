"""`ForwardSelector` beside scikit-learn's `SequentialFeatureSelector`: the same features, and what they cost.

    python benchmarks/forward_selector.py            # d = 500, k = 50; minutes, nearly all of them scikit-learn's

Both choose by R2 on the training rows (cv = all rows for both halves, which is the quickest that the other can be; its
default of five folds costs five times as many fits). One thread; both in the same run, ours first and last.
Seconds of the processor are what counts on a machine that is shared; those of the clock stand beside them.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sklearn
import torch
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.linear_model import LinearRegression

from sprig.greedy import ForwardSelector

RESULTS = Path(__file__).parent / "results"


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds of the processor, seconds of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    out = run()
    return out, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", type=int, default=500)
    parser.add_argument("--picks", type=int, default=50)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "forward_selector.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    d, k, n = args.features, args.picks, args.rows
    x = rng.normal(size=(n, d)) + rng.normal(size=(n, 1))  # correlated by 1/2
    weights = np.zeros(d)
    weights[rng.permutation(d)[: 2 * k]] = rng.normal(size=2 * k)
    y = x @ weights + 0.5 * rng.normal(size=n)

    def ours() -> ForwardSelector:
        return ForwardSelector(n_features_to_select=k).fit(x, y)

    ours()  # the first call of a library is not its speed
    mine, cpu, wall = timed(ours)
    rows = np.arange(n)
    theirs, their_cpu, their_wall = timed(
        lambda: SequentialFeatureSelector(
            LinearRegression(), n_features_to_select=k, scoring="r2", cv=[(rows, rows)]
        ).fit(x, y)
    )
    _, cpu_after, wall_after = timed(ours)
    cpu, wall = max(cpu, cpu_after), max(wall, wall_after)
    same = bool((mine.get_support() == theirs.get_support()).all())
    held = LinearRegression().fit(mine.transform(x), y).score(mine.transform(x), y)
    other = LinearRegression().fit(theirs.transform(x), y).score(theirs.transform(x), y)
    named = "`SequentialFeatureSelector(LinearRegression(), cv=[(rows, rows)])`"
    text = f"""# ForwardSelector beside SequentialFeatureSelector

{n} rows, {d} features (correlated by 1/2), {k} picks, seed {args.seed}, one thread, one run; R2 on the training rows,
no folds.
Command: `python benchmarks/forward_selector.py`. scikit-learn {sklearn.__version__}, torch {torch.__version__},
Python {platform.python_version()}. The machine was shared: seconds of the processor count; ours is the slower of two
runs, before and after.

| selector | processor s | clock s | R2 of the picks |
|---|---|---|---|
| {named} | {their_cpu:.2f} | {their_wall:.2f} | {other:.6f} |
| `ForwardSelector()` | {cpu:.3f} | {wall:.3f} | {mine.scores_[-1]:.6f} |

Same features: {"yes" if same else "no"}. R2 of scikit-learn's own regression on ours: {held:.6f}.
Times faster: {their_cpu / cpu:,.0f} by the processor, {their_wall / wall:,.0f} by the clock (20 was asked for).
"""
    print(text)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
