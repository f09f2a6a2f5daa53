"""One pass of the calibration data through the dense network: second moments of every consumer's input."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sprig.core.replay import Chunk
from sprig.core.rows import rows, targets_at
from sprig.core.stats import Accumulator, Moments
from sprig.core.types import Consumer
from sprig.core.workbench import Workbench

WIDE = 1024  # columns from which matrices are kept, and multiplied, in float32


def row_limit(consumer: Consumer, columns: int, samples: int, per_column: float, least: int) -> int:
    """Rows wanted of one consumer over all samples: enough for its columns, never more than there are."""
    wanted = max(least, int(per_column * columns))
    return int(min(wanted, consumer.positions * samples))


def kernel_of(consumer: Consumer, weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape[2:])


def consumer_rows(
    consumer: Consumer, weight: Tensor, x: Tensor, keep: int, limit: int, generator: torch.Generator,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """At most `limit` rows of one chunk (its first `keep` of the batch's samples count), and where they lie.

    `live` (batch, tokens) is False at padding, which is never taken.
    """
    if keep < x.shape[0]:
        x = x[:keep]
    found = rows(
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
    return found.x, found.where


def live_rows(bench: Workbench, x: Tensor, rows_here: int) -> int:
    """How much of dimension 0 belongs to samples that count (windows multiply the batch)."""
    return int(x.shape[0] * rows_here // bench.replay.batch)


def judges(chunk: int) -> bool:
    """Whether a chunk belongs to the part that judges what the others suggest.

    >>> [judges(i) for i in range(5)]
    [False, False, False, True, False]
    """
    return chunk % 4 == 3


def collect(
    bench: Workbench,
    consumers: Iterable[Consumer],
    *,
    per_column: float = 10.0,
    least: int = 16384,
) -> dict[str, tuple[Moments, Moments]]:
    """Moments of the inputs of each consumer (by node name), in one forward pass; targets are their own outputs.

    Two parts that share no sample, so that what one suggests the other can judge: every fourth chunk is the judge.
    """
    wanted = list(consumers)
    sums: dict[str, tuple[Accumulator, Accumulator]] = {}
    limits: dict[str, int] = {}
    for c in wanted:
        weight = c.matrix(bench.weights)
        columns = weight[0].numel()
        sums[c.node] = tuple(  # type: ignore[assignment]
            Accumulator(
                columns,
                name=c.node,
                precision="float32",
                device=weight.device,
                compact=columns >= WIDE,
            )
            for _ in "ab"
        )
        limits[c.node] = row_limit(c, columns, bench.samples, per_column, least)
    generator = bench.generator(1)
    replay = bench.replay

    def watcher(c: Consumer, chunk: Chunk, half: int) -> Any:
        def watch(inputs: tuple[Tensor, ...], output: Tensor) -> None:
            keep = live_rows(bench, inputs[c.argument], chunk.rows)
            live = bench.live_tokens(chunk, inputs[c.argument], c.weight)
            share = -(-limits[c.node] * chunk.rows // bench.samples)  # a part chunk gives its part
            weight = c.matrix(bench.weights)
            x, _ = consumer_rows(c, weight, inputs[c.argument], keep, share, generator, live)
            sums[c.node][half].add(x)

        return watch

    for done, chunk in enumerate(bench.chunks):
        bench.progress("moments", done, len(bench.chunks))
        watch = {replay.index[c.node]: watcher(c, chunk, int(judges(done))) for c in wanted}
        last = max(watch, default=-1)
        live = replay.start(chunk.args, chunk.kwargs, chunk.rows)
        replay.advance(live, bench.weights, last + 1, watch, alone=True)
    bench.progress("moments", len(bench.chunks), len(bench.chunks))
    out = {}
    for node, (a, b) in sums.items():
        out[node] = (a.close(), b.close())
    return out


__all__ = ["WIDE", "collect", "consumer_rows", "judges", "live_rows", "row_limit", "targets_at"]
