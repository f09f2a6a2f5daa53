"""The final pass: original targets, pruned inputs, consumers solved one after the other in data-flow order.

All calibration chunks are carried forward in step through the original and the pruned network, so the whole pass
costs one forward of each. Where a consumer's output is added to a stream, its target is the original *sum* less what
the pruned stream brings: the branch then also makes up for what the stream has lost so far.

Weights that were fitted on some inputs give outputs there that are nearer to the original than on others. A judge of
the layers behind would see inputs that nobody else gets, and find little to hold back. So there is a twin, fitted
without the inputs that judge: the ridge of each layer is the one that serves the twin best on those.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprig.core.collect import Halves, consumer_rows, live_rows
from sprig.core.deal import judges
from sprig.core.norms import marked, normed
from sprig.core.path import with_cost
from sprig.core.plan import Plan
from sprig.core.replay import Live
from sprig.core.rows import targets_at
from sprig.core.stats import Moments
from sprig.core.types import Consumer, Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.evidence import (
    RIDGES,
    anchored,
    centred,
    judged_ridge,
    own_target,
    unit_columns,
    write,
)
from sprig.methods.greedy.metric import metric_of, norm_metric
from sprig.methods.greedy.plateau import Plateau, Sample, find_plateau, relaxed, wanted_rows
from sprig.methods.greedy.problem import ConsumerProblem, solve
from sprig.methods.greedy.seam import Scale, Seam, find_seam
from sprig.methods.greedy.shelf import Chooser

LARGE = (1.0, 3.0, 10.0)  # ridges that a judge may ask for if it sees what others will


class Seen(NamedTuple):
    """Pruned inputs of a consumer against its original outputs, and some rows of them for a plateau."""

    fit: Moments
    judge: Moments
    sample: Sample | None

    def own_target(self, weight: Tensor, bias: Tensor | None) -> "Seen":
        """The same rows with what the layer itself makes of them for a target."""
        sample = None if self.sample is None else self.sample.own_target(weight, bias)
        return Seen(
            own_target(self.fit, weight, bias), own_target(self.judge, weight, bias), sample
        )


def _remember(seen: dict[int, Tensor], at: int) -> Any:
    def watch(inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[at] = output

    return watch


class Sequential:
    """Original targets, pruned inputs: consumers in data-flow order, all chunks in step."""

    def __init__(
        self,
        bench: Workbench,
        plan: Plan,
        *,
        ridge: float | None,
        rows: int,
        reselect: bool,
        streams: bool,
        asymmetric: bool = True,
        chooser: Chooser | None = None,
        rounds: int = 0,
        metric: str = "norm",
        twin: bool = False,
        only: frozenset[int] | None = None,
    ) -> None:
        """asymmetric: original targets; else each consumer's own outputs on its pruned inputs. rounds: of letting
        errors go that an activation hides (plateau.py). twin: see the module. only: consumers that are solved, by
        number, on the part of the data that trial weights are fitted on."""
        self.bench, self.plan = bench, plan
        self.ridge, self.rows, self.with_reselect, self.with_streams = (
            ridge,
            rows,
            reselect,
            streams and asymmetric,
        )
        self.asymmetric = asymmetric
        self.chooser, self.rounds, self.metric = chooser or Chooser(), rounds, metric
        self.masks = plan.masks(bench.graph)
        marks = marked(bench.weights, self.masks, bench.graph)
        self.weights: dict[str, Tensor] = {**bench.weights, **marks}
        self.changed: dict[str, Tensor] = {}
        replay = bench.replay
        numbers = range(bench.pieces)
        fitted = [n for n in numbers if not judges(n)] if only is not None else []
        wanted = set(fitted or numbers)
        self.only, self.pieces = only, len(wanted)
        self.chunks = [c for c in bench.chunks if c.number in wanted]
        self.dense: list[Live] = [replay.start(c.args, c.kwargs, c.rows) for c in self.chunks]
        both = {judges(n) for n in wanted} == {True, False}
        # the network that is made, and its twin
        self.nets = (
            [self.weights, dict(self.weights)] if twin and both and not only else [self.weights]
        )
        self.pruned: list[list[Live]] = [[live.fork() for live in self.dense] for _ in self.nets]

    def run(self) -> Outcome:
        graph = self.bench.graph
        started = False
        shared = {
            c.weight
            for c in graph.consumers
            if sum(d.weight == c.weight for d in graph.consumers) > 1
        }
        for done, consumer in enumerate(graph.consumers):
            if self.only is not None and done not in self.only:
                continue
            if self.only is None:
                self.bench.progress("refit", done, len(graph.consumers))
            touched = not consumer.axis.keep(self.masks).all()
            started = started or touched
            if not started:
                continue
            if consumer.weight in shared:
                self.cut(consumer)
                continue
            self.visit(consumer)
        if self.only is None:
            self.bench.progress("refit", len(graph.consumers), len(graph.consumers))
        plan = self.plan
        keep = {
            g.name: tuple(int(i) for i in np.flatnonzero(self.masks[g.index]))
            for g in graph.groups
            if g.index in self.masks
        }
        plan = with_cost(replace(plan, keep=keep), graph)
        return Outcome(plan, self.changed)

    def cut(self, consumer: Consumer) -> None:
        """A weight with several uses is not solved again: its columns are zeroed."""
        keep = torch.from_numpy(consumer.axis.keep(self.masks))
        old = self.weights[consumer.weight]
        shape = [1] * old.dim()
        shape[int(not consumer.transposed)] = -1
        new = old * keep.to(old).reshape(shape)
        self.changed[consumer.weight] = new
        for net in self.nets:
            net[consumer.weight] = new

    def visit(self, consumer: Consumer) -> None:
        replay = self.bench.replay
        seam = find_seam(replay, consumer.node) if self.with_streams else None
        plateau = find_plateau(replay, consumer, seam) if self.rounds else None
        seen = self.moments(consumer, seam, plateau)
        found, masks = self.bench.ranks.lead(lambda: self.solved(consumer, plateau, seen))
        self.masks |= masks
        for net, new in zip(self.nets, found, strict=True):
            net.update({name: t.to(self.bench.weights[name].device) for name, t in new.items()})
        self.changed.update({name: self.weights[name] for name in found[0]})

    def solved(
        self, consumer: Consumer, plateau: Plateau | None, seen: list[Seen]
    ) -> tuple[list[dict[str, Tensor]], dict[int, np.ndarray]]:
        """New weights of a consumer in each network, and what was picked anew."""
        weight = consumer.matrix(self.bench.weights)
        keep = torch.from_numpy(np.repeat(consumer.axis.keep(self.masks), consumer.block))
        bias = None if consumer.bias is None else self.bench.weights[consumer.bias]
        if not self.asymmetric:
            seen = [part.own_target(weight, bias) for part in seen]
        ridge = self.ridge
        if ridge is None:
            ridge = judged_ridge(
                seen[-1].fit, seen[-1].judge, weight, keep, metric=norm_metric(self.bench, consumer),
                ridges=(*RIDGES, *LARGE) if len(self.nets) > 1 else RIDGES,
            )  # fmt: skip
        problem = ConsumerProblem(
            anchored(seen[0].fit + seen[0].judge, ridge, weight),
            torch.full((weight[0].numel(),), -1),
            centred=centred(self.bench, consumer),
        )
        problems = [problem]
        for other in seen[1:]:
            moments = anchored(other.fit, ridge, weight)
            problems.append(replace(problem, moments=moments))
        before = dict(self.masks)
        if self.with_reselect:
            metric = metric_of(self.bench, consumer, self.metric)
            self.reselect(consumer, problem.weighed(metric))
        keep = torch.from_numpy(np.repeat(consumer.axis.keep(self.masks), consumer.block))
        out = []
        for mine, (_, _, sample) in zip(problems, seen, strict=True):
            if plateau is None or sample is None:
                solution = solve(mine, keep, ridge=0.0)
            else:
                scale = Scale.of(plateau.norm, plateau.eps, self.bench.weights)
                solution = relaxed(
                    mine, keep, sample, plateau, scale, ridge=ridge,
                    start=weight, rounds=self.rounds,
                )  # fmt: skip
            found: dict[str, Tensor] = {}
            write(self.bench.weights, found, consumer, solution.weight, solution.bias, own=False)
            out.append(found)
        return out, {i: m for i, m in self.masks.items() if m is not before[i]}

    def reselect(self, consumer: Consumer, problem: ConsumerProblem) -> None:
        """Pick the same number of units again, on what the inputs have become."""
        for index in consumer.groups:
            group = self.bench.graph.groups[index]
            if index not in self.masks or len(group.consumers) > 1 or self.masks[index].all():
                continue
            if index in normed(self.bench.graph):
                continue  # these inputs were normalised over the search's picks
            count = int(self.masks[index].sum())
            here = replace(problem, columns=unit_columns(consumer, index))
            others = torch.from_numpy(
                np.repeat(
                    consumer.axis.keep({k: v for k, v in self.masks.items() if k != index}),
                    consumer.block,
                )
            )
            if not bool(others.all()):
                continue  # other groups of this consumer have lost columns: keep the search's picks
            picks = self.chooser.choose([here], count, size=group.size, salt=index)
            if len(picks) == count:
                mask = np.zeros(group.size, dtype=bool)
                mask[list(picks)] = True
                self.masks[index] = mask

    def moments(self, consumer: Consumer, seam: Seam | None, plateau: Plateau | None) -> list[Seen]:
        """What each network makes of the inputs, the chunks that judge apart; the twin learns nothing of those."""
        bench, replay = self.bench, self.bench.replay
        at = replay.index[consumer.node]
        end = at if seam is None else seam.add
        old = consumer.matrix(bench.weights)
        sums = [
            Halves(
                old[0].numel(), consumer.out, bench.ranks, pieces=self.pieces, name=consumer.node,
                device=old.device,
            )
            for _ in self.nets
        ]  # fmt: skip
        limit = -(-self.rows // self.pieces)
        few = 0
        if plateau is not None:
            wanted = wanted_rows(old[0].numel(), consumer.out, self.rounds)
            few = -(-wanted // self.pieces)
        samples: list[dict[int, Sample]] = [{} for _ in self.nets]
        for j, chunk in enumerate(self.chunks):
            self.dense[j] = replay.advance(self.dense[j], bench.weights, at)
            seen: dict[int, Tensor] = {}
            watch = {i: _remember(seen, i) for i in {at, end}}
            self.dense[j] = replay.advance(self.dense[j], bench.weights, end + 1, watch)
            for net, (weights, lives) in enumerate(zip(self.nets, self.pruned, strict=True)):
                lives[j] = replay.advance(lives[j], weights, at)
                x = lives[j].values[replay.nodes[at].args[consumer.argument]]
                keep = live_rows(bench, x, chunk.rows)
                live = bench.live_tokens(chunk, x, consumer.weight)
                generator = bench.generator(2, consumer.order, chunk.number)
                found = consumer_rows(consumer, old, x, keep, limit, generator, live)
                y = targets_at(seen[at][:keep], found.where, consumer.kind)
                other = None
                if seam is not None:
                    total = targets_at(seen[end][:keep], found.where, consumer.kind)
                    stream = lives[j].values[seam.other][:keep]
                    other = targets_at(stream, found.where, consumer.kind)
                    y = seam.before_norm(y, total - other, bench.weights)
                sums[net].add(found, y, number=chunk.number)
                if plateau is not None and not (net and judges(chunk.number)):
                    samples[net][chunk.number] = Sample(found.x, y, other).drawn(few, generator)
        return [
            Seen(*part.close(), None if plateau is None else self.joined(rows))
            for part, rows in zip(sums, samples, strict=True)
        ]

    def joined(self, own: dict[int, Sample]) -> Sample:
        """The rows of all processes, in the order of their chunks."""
        sent: dict[int, list[Any]] = {n: [s.x, s.y, s.added] for n, s in own.items()}
        parts = self.bench.ranks.gather(sent)
        rows = sorted((n, fields) for part in parts for n, fields in part.items())
        return Sample.joined([Sample(x, y, added) for _, (x, y, added) in rows])
