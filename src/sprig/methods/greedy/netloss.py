"""The whole network's loss as a function of one group's gates, with only the layers behind the group run again.

Letters: C units in the group, a_i the gate of unit i (on the simplex), so that unit i's channels enter the consumers
times C a_i; here `factors` are these C a_i. They scale the consumers' weight columns, hence lie behind the activation
and any batch norm of the group, and fold into the weights at the end. Factor 0 removes a unit, all ones is the network
as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sprig.core.chunks import Chunk, Kept, Pile, chunks
from sprig.core.errors import DivergenceError, InputError
from sprig.core.harm import harm, looks_like_scores
from sprig.core.norms import marked
from sprig.core.padding import blank
from sprig.core.replay import Live
from sprig.core.types import Group
from sprig.core.workbench import Workbench

OBJECTIVES = ("labels", "imitation")


class Score(NamedTuple):
    """Means over samples."""

    loss: float
    accuracy: float  # share of samples decided right (imitation: decided as the dense network does); nan: no classes


@dataclass(frozen=True, eq=False)
class _Gated:
    """One weight whose input channels the gates scale."""

    name: str
    weight: Tensor  # as it is now
    unit: Tensor  # (inputs,) unit of the group, C for channels of others
    along: int  # dimension of the inputs


class Gates:
    """The network's weights, and the columns of them that one group's gates scale."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.size, self.group = bench, 0, -1
        self.weights: dict[str, Tensor] = dict(bench.weights)  # with what was folded in so far
        self.changed: dict[str, Tensor] = {}
        self.gated: list[_Gated] = []

    def enter(self, group: Group) -> None:
        """Make the group's gates the arguments."""
        self.gated, self.size, self.group = [], group.size, group.index
        known: set[str] = set()
        for i in group.consumers:
            consumer = self.bench.graph.consumers[i]
            if consumer.weight in known:
                continue
            known.add(consumer.weight)
            mine = torch.from_numpy(consumer.axis.group == group.index)
            unit = torch.from_numpy(consumer.axis.unit).masked_fill(~mine, group.size)
            weight = self.weights[consumer.weight]
            self.gated.append(
                _Gated(
                    consumer.weight, weight, unit.to(weight.device), int(not consumer.transposed)
                )
            )

    def overrides(self, factors: Tensor) -> dict[str, Tensor]:
        """The consumers' weights with these factors (size,), in the original shapes."""
        padded = torch.cat([factors, factors.new_ones(1)])
        out = {}
        for g in self.gated:
            scale = padded.to(g.weight)[g.unit]
            shape = [-1 if d == g.along else 1 for d in range(g.weight.dim())]
            out[g.name] = g.weight * scale.reshape(shape)
        return out

    def marks(self, factors: Tensor) -> dict[str, Tensor]:
        """Gains of norms over the group, which are taken over the units with a factor (core/norms.py)."""
        return marked(self.weights, {self.group: (factors != 0).cpu().numpy()}, self.bench.graph)

    def fold(self, factors: Tensor) -> None:
        """Make the factors part of the network."""
        found = self.overrides(factors)
        self.weights.update(found | self.marks(factors))
        self.changed.update(found)


def first_reader(bench: Workbench, group: Group) -> int:
    """Number of the first node that reads one of the weights that the group's gates scale."""
    names = {bench.graph.consumers[i].weight for i in group.consumers}
    names |= {n.weight for n in bench.graph.norms if (n.axis.group == group.index).any()}
    tensor_of = bench.replay.tensor_of
    return next(
        i
        for i, node in enumerate(bench.replay.nodes)
        if any(tensor_of.get(used) in names for used in node.all_input_nodes)
    )


def in_order(bench: Workbench, groups: Sequence[Group]) -> list[Group]:
    """From input to output, by the first layer that reads the group."""
    return sorted(groups, key=lambda g: (first_reader(bench, g), g.index))


class NetLoss:
    """Loss on calibration samples, group after group from input to output.

    `enter` a group, evaluate `score` and `gradient` at factors, perhaps `fold` them in, enter the next.
    objective: "labels" is cross-entropy, "imitation" the distance from the dense network's output (core/harm.py).
    samples: at most so many are used, drawn once and in random order. cache: keep what lies before the group.
    """

    def __init__(
        self,
        bench: Workbench,
        *,
        objective: str = "labels",
        samples: int = 1024,
        cache: bool = True,
    ) -> None:
        if objective not in OBJECTIVES:
            raise InputError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
        self.bench, self.replay, self.objective, self.cache = bench, bench.replay, objective, cache
        self.gates = Gates(bench)
        self.chunks = _shuffled(bench, samples)
        self.lives = [self._begin(c) for c in self.chunks]
        self.evaluations = self.backwards = 0
        before = self.replay.count.layers
        self.masks = [bench.masks(c) for c in self.chunks]
        ends = (self.replay.finish(live.fork(), bench.weights) for live in self.lives)
        self.dense = [blank(m, end) for m, end in zip(self.masks, ends, strict=True)]
        self.layers = (
            self.replay.count.layers - before
        )  # run so far, a backward pass as two forward ones
        self.depth = self.layers // len(self.chunks)  # layers of one full run
        self.whole = self.layers  # what `score` would have run by starting at the input every time
        self.scores = not bench.inner and looks_like_scores(self.dense[0], named=self.replay.logits)
        self.targets = self._targets()

    @property
    def size(self) -> int:
        """Units of the group."""
        return self.gates.size

    def enter(self, group: Group) -> None:
        """Make the group's gates the arguments. Groups must be entered in order (see `in_order`)."""
        self.gates.enter(group)
        if self.cache:
            first = first_reader(self.bench, group)
            if first < self.lives[0].at:
                raise InputError(f"{group.name}: groups must be entered from input to output")
            before = self.replay.count.layers
            weights = self.gates.weights
            self.lives = [self.replay.advance(live, weights, first) for live in self.lives]
            self.layers += self.replay.count.layers - before

    def fold(self, factors: Tensor) -> None:
        """Make the factors part of the network."""
        self.gates.fold(factors)

    # ---- values ------------------------------------------------------------------------------
    def score(self, factors: Tensor, batch: Sequence[int]) -> Score:
        """Mean over the chunks of these numbers."""
        gates = self.gates
        weights = {**gates.weights, **gates.overrides(factors), **gates.marks(factors)}
        loss = right = 0.0
        rows = 0
        for j in batch:
            before = self.replay.count.layers
            found = self.replay.finish(self.lives[j].fork(), weights)
            self.layers += self.replay.count.layers - before
            loss += float(self._loss(found, j).sum())
            right += self._right(found, j)
            rows += self.chunks[j].rows
        self.evaluations += 1
        self.whole += self.depth * len(batch)
        return Score(_finite(loss / rows), right / rows)

    def gradient(self, factors: Tensor, batch: Sequence[int]) -> Tensor:
        """(size,) dL/d factor of every unit, by one backward pass; norms over the group stay over all of it."""
        at = factors.clone().requires_grad_()
        total = torch.zeros_like(factors)
        rows = sum(self.chunks[j].rows for j in batch)
        for j in batch:
            before = self.replay.count.layers
            with torch.enable_grad():
                weights = {**self.gates.weights, **self.gates.overrides(at)}
                found = self.replay.finish(self.lives[j].fork(), weights, grad=True)
                loss = self._loss(found, j).sum() / rows
            (slope,) = torch.autograd.grad(loss, at)
            self.layers += 3 * (self.replay.count.layers - before)
            total += slope
        self.backwards += 1
        _finite(float(total.sum()))
        return total

    def _loss(self, found: Sequence[Tensor], j: int) -> Tensor:
        """(rows,) in float64."""
        if self.objective == "imitation":
            return harm(self.dense[j], blank(self.masks[j], found), scores=self.scores)
        return functional.cross_entropy(found[0].double(), self.targets[j], reduction="none")

    def _right(self, found: Sequence[Tensor], j: int) -> float:
        if not self.scores:
            return float("nan")
        wanted = self.dense[j][0].argmax(-1) if self.objective == "imitation" else self.targets[j]
        return float((found[0].argmax(-1) == wanted).sum())

    # ---- setting up --------------------------------------------------------------------------
    def _begin(self, chunk: Chunk) -> Live:
        return self.replay.start(chunk.args, chunk.kwargs, chunk.rows)

    def _targets(self) -> list[Tensor]:
        if self.objective == "imitation":
            return []
        classes = self.dense[0][0].shape[-1] if self.scores else 0
        if not classes:
            raise InputError(
                "the output is not one row of class scores per sample, so there is no cross-entropy; "
                "use objective='imitation'"
            )
        out = []
        for chunk in self.chunks:
            target = chunk.target
            if target is None:
                raise InputError(
                    "method 'loss' needs labels; give batches as (input, target) pairs, or use "
                    "objective='imitation'"
                )
            plain = target.dim() == 1 and not target.is_floating_point()
            if not plain or int(target.min()) < 0 or int(target.max()) >= classes:
                raise InputError(
                    f"labels must be class numbers in 0..{classes - 1}, one per sample; found "
                    f"{target.dtype} of shape {tuple(target.shape)}"
                )
            out.append(target.long().to(self.dense[0][0].device))
        return out


def _shuffled(bench: Workbench, samples: int) -> list[Chunk]:
    """At most `samples` of the calibration samples, in random order, cut to the replay's batch size."""
    pile = Pile(bench.triples)
    order = torch.randperm(pile.total, generator=bench.generator(3))[:samples].tolist()
    target = pile.picked(pile.target, order) if pile.labelled else None
    size = bench.replay.batch
    short = size - len(order)
    if short > 0:  # too few samples for one run of the program: fill up; the rest does not count
        order += [order[i % len(order)] for i in range(short)]
    args, kwargs = pile.picked(pile.args, order), pile.picked(pile.kwargs, order)
    if short > 0:
        return [Kept(tuple(args), kwargs, size - short, target)]
    return chunks([(tuple(args), kwargs, target)], size)


def _finite(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise DivergenceError(
            f"the network's loss, or its slope, is {value} on the calibration data"
        )
    return value
