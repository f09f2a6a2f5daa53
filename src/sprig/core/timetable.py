"""The latency table of one network on one machine: every call at a grid of widths, measured.

Isolated calls at a grid of (in width, out width), and how the time goes up within a step of the vector units; then
each call once more inside the dense network, and the dense network as a whole. The isolated times give the shape over
the widths, the others the level.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from sprig.core.errors import InputError
from sprig.core.example import Example
from sprig.core.opbench import Bench, Op
from sprig.core.records import dumps, loads, read
from sprig.core.replay import Replay
from sprig.core.timecache import TimeCache, cache_folder
from sprig.core.timelayers import PERIOD, VIEWS, Layer, Width, grid, layers
from sprig.core.timerun import Observed, cast, inputs_for, observe
from sprig.core.timing import Timing, threads
from sprig.core.types import Graph, device_of
from sprig.core.workbench import Progress, silent

Gauge = Callable[[Sequence[Op], Callable[[int, int], None]], list[float]]
Watch = Callable[[nn.Module, Replay, Example, Timing], Observed]

BASES = (2 * PERIOD, 5 * PERIOD)  # widths from which steps are looked for
PYTHON = 0.01  # milliseconds per call, at most, that modules spend outside of it whatever the width
DISPATCH = 0.004  # milliseconds that a call takes before it does anything, where nothing smaller was measured


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one call at a grid of widths."""

    node: str
    where: str
    kind: str
    family: str
    inside: Width
    outside: Width
    grid_in: tuple[int, ...]
    grid_out: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]  # [in][out], as measured alone
    factor: float  # inside the dense network over alone


@dataclass(frozen=True)
class TimeTable:
    """What a network takes at any widths, on one machine in one setting."""

    graph: str  # fingerprint
    setting: Mapping[str, Any]
    layers: tuple[LayerTime, ...]
    steps: Mapping[str, tuple[float, ...]]  # family and side -> time between two multiples of 16
    overhead: float  # milliseconds between the calls, the same at all widths
    level: float  # the dense network end to end, over its calls and what is between them
    dense_ms: float  # end to end
    note: str  # what stands for what

    def to_json(self) -> str:
        return dumps({"format": "sprig-latency", "version": 1, "table": self}, indent=1)

    @staticmethod
    def from_json(text: str) -> "TimeTable":
        raw = loads(text, what="latency table")
        if not isinstance(raw, dict) or raw.get("format") != "sprig-latency":
            raise InputError('not a latency table of sprig: expected "format": "sprig-latency"')
        if raw.get("version") != 1:
            raise InputError(
                f"a latency table of version {raw.get('version')!r}, this sprig reads version 1"
            )
        table = read(TimeTable, raw.get("table"), what="latency table")
        if not table.layers:
            raise InputError("the latency table has no layers")
        return table


def measure(
    model: nn.Module, example_inputs: Example, graph: Graph, timing: Timing | None = None, *,
    gauge: Gauge | None = None, watch: Watch = observe, progress: Progress = silent,
) -> TimeTable:  # fmt: skip
    """Time every call of the network at a grid of widths on this machine, in this setting.

    Numbers that the cache knows are not measured again; the dense network itself always is.
    `gauge`, `watch`: other stopwatches, for tests.
    """
    timing = (timing or Timing()).of(model)
    device = device_of(model)
    with threads(timing.threads):
        twin = cast(model, timing)
        replay = Replay(twin, *inputs_for(example_inputs, timing, device), check=False)
        found = layers(graph, replay.program)
        _same_program(graph, found)
        setting = timing.setting(device)
        wanted, rippled = _wanted(found)
        cache = TimeCache(cache_folder(timing.cache), setting)
        known = {} if timing.refresh else cache.read()
        missing = {k: op for k, op in wanted.items() if k not in known}
        if missing:
            cache.check()  # before minutes are spent on what could not be kept
            gauge = gauge or Bench(timing, device)
            times = gauge(
                list(missing.values()), lambda done, of: progress("timing of layers", done, of)
            )
            fresh = {k: ms for k, ms in zip(missing, times, strict=True) if math.isfinite(ms)}
            cache.add(fresh)
            known.update(fresh)
        seen = watch(model, replay, example_inputs, timing)
    rows = [_row(layer, known) for layer in found]
    steps = {
        side: _steps([known.get(op.key, math.nan) for op in ops]) for side, ops in rippled.items()
    }
    rows, overhead, level, note = _levelled(rows, seen, timing)
    whole = seen.whole_ms
    return TimeTable(graph.fingerprint, setting, tuple(rows), steps, overhead, level, whole, note)


def _same_program(graph: Graph, found: Sequence[Layer]) -> None:
    names = {layer.node for layer in found}
    lost = [t.where for t in graph.terms if t.unit == "macs" and t.axes and t.where not in names]
    if lost:
        raise InputError(
            f"the model runs other operations at the batch size of the timing ({lost[0]} is not there): "
            "trace it with example inputs of that batch size"
        )


def _wanted(found: Sequence[Layer]) -> tuple[dict[str, Op], dict[str, list[Op]]]:
    """All operations to measure by key, and those that show the steps of each family."""
    wanted: dict[str, Op] = {}
    largest: dict[tuple[str, int], Layer] = {}
    for layer in found:
        if layer.kind in VIEWS:
            continue
        for i in grid(layer.inside) if layer.mixes else (0,):
            for o in grid(layer.outside):
                op = layer.at(i or o, o)
                if op is not None:
                    wanted.setdefault(op.key, op)
        if layer.contracts:
            for side, width in enumerate((layer.inside, layer.outside)):
                if (side or layer.mixes) and width.free and width.full >= 3 * PERIOD:
                    before = largest.get((layer.family, side))
                    if before is None or _work(layer) > _work(before):
                        largest[layer.family, side] = layer
    rippled = {}
    for (family, side), layer in largest.items():
        ops = []
        mine, other = (layer.outside, layer.inside) if side else (layer.inside, layer.outside)
        beside = max(grid(other)[:-1] or (other.full,))
        for base in (n for n in BASES if n + PERIOD <= mine.full):
            for n in range(base, base + PERIOD + 1):
                pair = (beside, n) if side else (n, beside)
                op = layer.at(*(pair if layer.mixes else (n, n)))
                assert op is not None  # contractions can be written down at any width
                ops.append(wanted.setdefault(op.key, op))
        rippled[f"{family} {'out' if side else 'in'}"] = ops
    return wanted, rippled


def _work(layer: Layer) -> float:
    x, w = layer.op.args[:2]
    return float(math.prod(x.shape) * math.prod(w.shape))


def _row(layer: Layer, known: Mapping[str, float]) -> LayerTime:
    outs = grid(layer.outside)
    ins = grid(layer.inside) if layer.mixes else (layer.inside.full,)
    if layer.kind in VIEWS:
        outs, table = (layer.outside.full,), np.array([[math.nan]])
    else:
        ops = [[layer.at(i if layer.mixes else o, o) for o in outs] for i in ins]
        table = np.array(
            [[known.get(op.key, math.nan) if op else math.nan for op in r] for r in ops]
        )
    good = np.isfinite(table).all(axis=0)
    if layer.contracts and not good.all():
        good &= np.isfinite(table[-1, -1])
    if not good[
        -1
    ]:  # not even the dense call runs alone: only what it takes in the network is known
        outs, table = (outs[-1],), np.full((len(ins), 1), math.nan)
    else:
        outs, table = tuple(o for o, g in zip(outs, good, strict=True) if g), table[:, good]
    return LayerTime(
        layer.node, layer.where, layer.kind, layer.family, layer.inside, layer.outside, ins, outs,
        tuple(tuple(float(v) for v in row) for row in table), 1.0,
    )  # fmt: skip


def _steps(times: Sequence[float]) -> tuple[float, ...]:
    """Where between two multiples of 16 channels the time lies: 0 at the lower, 1 at the upper one.

    A kernel that computes whole vectors gives 1 from the first channel on; what is slower than the next multiple,
    gives more. Where the two ends can hardly be told apart, a straight line.
    """
    straight = tuple(r / PERIOD for r in range(PERIOD + 1))
    t = np.array(times).reshape(-1, PERIOD + 1).sum(axis=0)
    if not np.isfinite(t).all() or t[-1] <= 1.05 * t[0]:
        return straight
    share = np.clip((t - t[0]) / (t[-1] - t[0]), 0.0, 6.0)
    share[0], share[-1] = 0.0, 1.0
    return tuple(float(s) for s in share)


def _levelled(
    rows: list[LayerTime], seen: Observed, timing: Timing
) -> tuple[list[LayerTime], float, float, str]:
    """Times alone, brought to the level of the times in the network."""
    alone = np.array([row.ms[-1][-1] for row in rows])
    if seen.node_ms:
        there = np.array([seen.node_ms[row.node] for row in rows])
        rows = [_seen(row, float(ms)) for row, ms in zip(rows, there, strict=True)]
        total = float(there.sum())
        fixed = min(max(seen.whole_ms - total, 0.0), PYTHON * len(rows))
        note = "each call measured alone over its widths, and inside the dense network"
        return rows, fixed, seen.whole_ms / max(total + fixed, 1e-9), note
    known = np.nan_to_num(alone)
    heavy = np.array([row.kind in ("conv", "depthwise", "linear") for row in rows])
    rest = seen.whole_ms - float(known[heavy].sum())
    light = float(known[~heavy].sum())
    if rest > 0 and light > 0:
        factors = np.where(heavy, 1.0, rest / light)
        note = (
            f"contractions measured alone; {timing.backend} fuses the rest, whose times in eager mode were scaled by "
            "one factor to what is left of the dense network end to end"
        )
    else:
        factors = np.full(len(rows), seen.whole_ms / max(float(known[heavy].sum()), 1e-9))
        factors[~heavy] = 0.0
        note = f"contractions measured alone, scaled by one factor to the dense network end to end by {timing.backend}"
    made = [
        replace(row, factor=float(f))
        if np.isfinite(a)
        else replace(row, ms=((0.0,),), grid_in=row.grid_in[-1:])
        for row, f, a in zip(rows, factors, alone, strict=True)
    ]
    return made, 0.0, 1.0, note


def _seen(row: LayerTime, ms: float) -> LayerTime:
    """A row whose dense end is what was seen in the network."""
    alone = row.ms[-1][-1]
    if math.isfinite(alone) and alone > 0:
        return replace(row, factor=ms / alone)
    full, fixed = row.outside.full, min(ms, DISPATCH)
    if not row.outside.free or ms <= 2 * DISPATCH:
        return replace(row, ms=((ms,),), grid_in=row.grid_in[-1:], grid_out=(full,), factor=1.0)
    # what cannot be run alone moves numbers in proportion
    low = max(1, full // 16)
    ends = tuple(fixed + (ms - fixed) * n / full for n in (low, full))
    return replace(row, ms=(ends,), grid_in=row.grid_in[-1:], grid_out=(low, full), factor=1.0)
