"""Stopwatches that do not depend on the machine: times worked out from shapes, for tests of what is done with times."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from sprig.core.example import Example
from sprig.core.opbench import Blank, Op, blank_op
from sprig.core.replay import Replay
from sprig.core.timerun import Observed
from sprig.core.timing import Timing


def made_up(op: Op, *, step: int = 16) -> float:
    """Milliseconds of a machine that computes `step` output channels at once, and moves a number in a nanosecond."""
    name = str(op.target)
    if name.startswith(("aten.conv", "aten.linear")):
        x, w = op.args[:2]
        groups = op.args[6] if len(op.args) > 6 else 1
        outs = math.ceil(w.shape[0] / step) * step
        places = math.prod(x.shape) / x.shape[-1 if len(w.shape) == 2 else 1]
        return float(places * math.prod(w.shape[1:]) * outs * 1e-6 / (1 if groups == 1 else 4))
    leaves = pytree.tree_leaves(op.args, is_leaf=lambda v: isinstance(v, Blank))
    blanks = [a for a in leaves if isinstance(a, Blank)]
    return 1e-6 * sum(math.prod(b.shape) for b in blanks)


class Gauge:
    """Stands for the bench that measures operations alone; counts what it was asked."""

    def __init__(self, *, step: int = 16) -> None:
        self.step = step
        self.asked: list[str] = []

    def __call__(self, ops: Sequence[Op], progress: Callable[[int, int], None]) -> list[float]:
        self.asked += [op.key for op in ops]
        progress(len(ops), len(ops))
        return [made_up(op, step=self.step) for op in ops]


class Watch:
    """Stands for the stopwatch on the dense network: every call takes `times` as long as alone."""

    def __init__(self, *, times: float = 2.0, beside: float = 0.0, inner: bool = True) -> None:
        self.times, self.beside, self.inner = times, beside, inner

    def __call__(
        self, model: nn.Module, replay: Replay, example: Example, timing: Timing
    ) -> Observed:
        calls: dict[str, Any] = {n.name: n for n in replay.nodes if n.op == "call_function"}
        found = {name: self.times * made_up(blank_op(n)) for name, n in calls.items()}
        return Observed(sum(found.values()) + self.beside, found if self.inner else {})
