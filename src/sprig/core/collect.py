"""One pass of the calibration data through the dense network: second moments of every consumer's input."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sprig.core.chunks import Chunk
from sprig.core.deal import judges
from sprig.core.ranks import Ranks
from sprig.core.rows import Rows, rows, targets_at
from sprig.core.stats import Moments
from sprig.core.sums import COARSE, FINE, Grid, Scratch, Sums
from sprig.core.types import Consumer
from sprig.core.workbench import Workbench

WIDE = 1024  # columns from which matrices are kept, and multiplied, in float32
SHOWN = 64  # rows at least by which a chunk says how its rows scatter


def row_limit(consumer: Consumer, columns: int, samples: int, per_column: float, least: int) -> int:
    """Rows wanted of one consumer over all samples: enough for its columns, never more than there are."""
    wanted = max(least, int(per_column * columns))
    return int(min(wanted, consumer.positions * samples))


def kernel_of(consumer: Consumer, weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape[2:])


def consumer_rows(
    consumer: Consumer, weight: Tensor, x: Tensor, keep: int, limit: int, generator: torch.Generator,
    live: Tensor | None = None,
) -> Rows:  # fmt: skip
    """At most `limit` rows of one chunk (its first `keep` of the batch's samples count), and where they lie.

    `live` (batch, tokens) is False at padding, which is never taken.
    """
    if keep < x.shape[0]:
        x = x[:keep]
    return rows(
        x,
        consumer.kind,
        kernel=kernel_of(consumer, weight),
        stride=consumer.stride,
        padding=consumer.padding,
        dilation=consumer.dilation,
        extra=consumer.extra,
        transposed=consumer.transposed,
        limit=limit,
        generator=generator,
        live=None if live is None else live[:keep],
    )


def live_rows(bench: Workbench, x: Tensor, rows_here: int) -> int:
    """How much of dimension 0 belongs to samples that count (windows multiply the batch)."""
    return int(x.shape[0] * rows_here // bench.replay.batch)


class Halves:
    """The moments of one consumer, of the part of the data that suggests and of the part that judges.

    `pieces`: chunks of all data; those that this process has may be added in any order, and no process may add before
    the first process has: its first chunk sets the grid for all.
    """

    def __init__(
        self, inputs: int, outputs: int, ranks: Ranks, *, pieces: int, name: str,
        device: torch.device, compact: bool = False, scratch: tuple[Scratch, Scratch] | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.ranks = (inputs, outputs), ranks
        self.bits = COARSE - math.log2(max(pieces, 1)) if compact else FINE
        self.grid: Grid | None = None
        self.sums = [
            Sums(inputs, outputs, name=name, device=device, compact=compact, scratch=scratch)
            for _ in "ab"
        ]
        self.drawn = torch.zeros(4, dtype=torch.float64)  # see `sampled`

    def begin(self, found: Rows | None, y: Tensor | None = None) -> None:
        """Set the grid; every process calls it once, with its first rows if it has any."""
        x = None if found is None else found.x
        self.grid = Grid.shared(x, y, self.shape, self.ranks, bits=self.bits)

    def add(self, found: Rows, y: Tensor | None = None, *, number: int) -> None:
        """Rows, and targets, of the chunk of that number."""
        if self.grid is None:
            self.begin(found, y)
        assert self.grid is not None
        self.sums[int(judges(number))].add(found.x, y, self.grid, number=number)
        if len(found.x):
            self.drawn += _drawn(found)

    def close(self) -> tuple[Moments, Moments]:
        """Both parts over all processes."""
        if self.grid is None:
            self.begin(None)
        for part in self.sums:
            part.merge(self.ranks)
        self.ranks.add_(self.drawn)
        a, b = (part.close(self.grid) for part in self.sums)
        return a, b

    def sampled(self) -> dict[str, float]:
        """Rows used of those that there were, and the standard error that drawing them leaves.

        The error is that of the power of all inputs together, relative; 0 where nothing was left out.
        """
        used, there, power, variance = self.drawn.tolist()
        error = math.sqrt(variance) / power if power > 0 else 0.0
        return {"rows": used, "of": there, "error": float(f"{error:.3g}")}


def _drawn(found: Rows) -> Tensor:
    """Rows used, rows there were, their power by that sample, and the variance of that power (a sample without
    replacement); both as some of the rows, evenly spaced, show them."""
    used, there = len(found.x), found.of
    some = found.x[:: max(1, used // SHOWN)]
    spread = (some - some.mean(0)).square().sum(1, dtype=torch.float64)
    scatter = float(spread.var()) if used > 1 else 0.0
    variance = there * (there - used) * scatter / used
    return torch.tensor([used, there, there * float(spread.mean()), variance], dtype=torch.float64)


def collect(
    bench: Workbench,
    consumers: Iterable[Consumer],
    *,
    per_column: float = 10.0,
    least: int = 16384,
) -> dict[str, tuple[Moments, Moments]]:
    """Moments of the inputs of each consumer (by node name), in one forward pass; targets are their own outputs.

    Two parts that share no sample, so that what one suggests the other can judge: every fourth chunk is the judge.
    Every process looks at its own chunks; all get the sums. What drawing rows costs is left in the workbench.
    """
    replay, ranks = bench.replay, bench.ranks
    wanted = sorted(consumers, key=lambda c: replay.index[c.node])  # in the order of the calls
    sums: dict[str, Halves] = {}
    limits: dict[str, int] = {}
    scratch = Scratch(), Scratch()
    for c in wanted:
        weight = c.matrix(bench.weights)
        columns = weight[0].numel()
        sums[c.node] = Halves(
            columns, 0, ranks, pieces=bench.pieces, name=c.node, device=weight.device,
            compact=columns >= WIDE, scratch=scratch,
        )  # fmt: skip
        limits[c.node] = row_limit(c, columns, bench.samples, per_column, least)

    def watcher(c: Consumer, chunk: Chunk, generator: torch.Generator) -> Any:
        def watch(inputs: tuple[Tensor, ...], output: Tensor) -> None:
            keep = live_rows(bench, inputs[c.argument], chunk.rows)
            live = bench.live_tokens(chunk, inputs[c.argument], c.weight)
            share = -(-limits[c.node] * chunk.rows // bench.samples)  # a part chunk gives its part
            weight = c.matrix(bench.weights)
            found = consumer_rows(c, weight, inputs[c.argument], keep, share, generator, live)
            sums[c.node].add(found, number=chunk.number)

        return watch

    for done, chunk in enumerate(bench.chunks):
        bench.progress("moments", done, len(bench.chunks))
        generator = bench.generator(1, chunk.number)
        watch = {replay.index[c.node]: watcher(c, chunk, generator) for c in wanted}
        last = max(watch, default=-1)
        live = replay.start(chunk.args, chunk.kwargs, chunk.rows)
        replay.advance(live, bench.weights, last + 1, watch, alone=True)
    out = {}
    for node, both in sums.items():
        if not bench.chunks:
            both.begin(None)
        out[node] = both.close()
    bench.progress("moments", len(bench.chunks), len(bench.chunks))
    bench.scratch["sampling"] = {node: both.sampled() for node, both in sums.items()}
    return out


def sampling(bench: Workbench) -> dict[str, float]:
    """What drawing rows instead of taking all cost the last collection, as figures for the record of a search."""
    found = bench.scratch.get("sampling", {})
    if not found:
        return {}
    worst = max(row["error"] for row in found.values())
    share = min(row["rows"] / max(row["of"], 1) for row in found.values())
    return {
        "rows drawn, least share of a layer's positions": float(f"{share:.3g}"),
        "rows drawn, largest standard error of a layer's input power": worst,
    }


__all__ = [
    "WIDE", "Halves", "collect", "consumer_rows", "judges", "live_rows", "row_limit", "sampling",
    "targets_at",
]  # fmt: skip
