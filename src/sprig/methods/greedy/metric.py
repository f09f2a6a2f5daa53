"""How much an error of each output of a consumer counts when units are chosen, and with "kfac" of each two together.

 - "norm": (gamma / sigma)^2 of the batch norm behind, so that errors count as they leave it; alike without one;
 - "identity": all alike;
 - "fisher": E[g_o^2], g the gradient of -log p(label | x) in the output o, labels drawn from the network's own
   scores; for outputs that are no class scores, of a random direction of the outputs. Few samples do;
 - "kfac": E[g g^T], the same with what any two outputs have in common: the output factor of K-FAC (Martens and Grosse
   2015), whose other factor, of the inputs, is what the least squares work on anyway; a little of all alike is added.

The weights that a refit gives do not depend on the metric (each output is solved for itself): only the choice does.
"""

from typing import Any

import torch
from torch import Tensor

from sprig.core.chunks import Chunk
from sprig.core.collect import live_rows
from sprig.core.errors import InputError
from sprig.core.harm import looks_like_scores
from sprig.core.types import Consumer
from sprig.core.workbench import Workbench

METRICS = ("norm", "identity", "fisher", "kfac")
DRAWN = ("fisher", "kfac")  # of gradients
SAMPLES = 256  # at most, that gradients are taken of
LEAST = 1e-4  # of the mean: what an output counts at least
DAMPING = 1e-2  # of the mean: added to every output of a full matrix, which few gradients may leave singular


def metric_of(bench: Workbench, consumer: Consumer, kind: str) -> Tensor | None:
    """(O,) weights of the errors, or (O, O) of their products; None: all alike."""
    if kind not in METRICS:
        raise InputError(f"metric={kind!r}; known are {', '.join(METRICS)}")
    if kind == "norm":
        return norm_metric(bench, consumer)
    if kind == "identity":
        return None
    ready(bench, kind)
    found = bench.scratch[kind].get(consumer.node)
    assert found is None or isinstance(found, Tensor)
    return found


def ready(bench: Workbench, kind: str) -> None:
    """Take the gradients that a metric needs, if it needs any; all processes together, before one asks alone."""
    if kind in DRAWN and kind not in bench.scratch:
        bench.scratch[kind] = fisher(bench, full=kind == "kfac")


def norm_metric(bench: Workbench, consumer: Consumer) -> Tensor | None:
    """(gamma / sigma)^2 of the batch norm behind; None without one."""
    if consumer.norm is None:
        return None
    variance = bench.weights[f"{consumer.norm}.running_var"].double().clamp_min(1e-12)
    gamma = bench.weights.get(f"{consumer.norm}.weight")
    return (1.0 if gamma is None else gamma.double().square()) / variance


def fisher(bench: Workbench, *, full: bool = False) -> dict[str, Tensor]:
    """Mean squared gradient of every consumer's outputs, by node; consumers that nothing flows back to are left out.

    full: of their products too. Both are given as multiples of the mean square.
    """
    replay = bench.replay
    found: dict[int, dict[str, Tensor]] = {}  # by chunk
    trained = {name for name, p in bench.model.named_parameters() if p.is_floating_point()}
    weights = {
        name: t.clone().requires_grad_() if name in trained else t
        for name, t in bench.weights.items()
    }
    for chunk in bench.chunks:
        if chunk.number * replay.batch >= SAMPLES:
            break
        sums = found.setdefault(chunk.number, {})
        generator = bench.generator(7, chunk.number)
        watch = {
            replay.index[c.node]: _catch(bench, c, chunk, sums, full) for c in bench.graph.consumers
        }
        live = replay.start(chunk.args, chunk.kwargs, chunk.rows)
        live = replay.advance(live, weights, len(replay.nodes), watch, grad=True)
        outputs = replay.finish(live, weights, grad=True)
        _draw(outputs, named=replay.logits, inner=bench.inner, generator=generator).backward()  # type: ignore[no-untyped-call]
    total: dict[str, Tensor] = {}
    chunks = {n: part for parts in bench.ranks.gather(found) for n, part in parts.items()}
    for number in sorted(chunks):
        for node, here in chunks[number].items():
            total[node] = total[node] + here if node in total else here
    scaled = {node: _scaled(s) for node, s in total.items()}
    return {node: s for node, s in scaled.items() if s is not None}


def _scaled(s: Tensor) -> Tensor | None:
    """In multiples of the mean square, no output quite without weight; None where no gradient came."""
    mean = (s.diagonal() if s.dim() == 2 else s).mean()
    if not bool(mean > 0):
        return None
    if s.dim() == 1:
        return (s / mean).clamp_min(LEAST)
    scaled = s / mean
    scaled.diagonal().add_(DAMPING)
    return scaled


def _draw(outputs: list[Tensor], *, named: bool, inner: bool, generator: torch.Generator) -> Tensor:
    """A number whose squared gradients estimate the curvature of KL, or of the squared error."""
    if not inner and looks_like_scores(outputs, named=named):
        logs = outputs[0].double().log_softmax(-1).flatten(0, -2)
        label = torch.multinomial(logs.detach().exp(), 1, generator=generator)
        return -logs.gather(1, label).sum()
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        spread = output.detach().double().std().clamp_min(1e-12)
        total = total + (output.double() * noise.to(output.device) / spread).sum()
    return total


def _catch(
    bench: Workbench, consumer: Consumer, chunk: Chunk, sums: dict[str, Tensor], full: bool
) -> Any:
    axis = 1 if consumer.kind == "conv" else -1

    def add(gradient: Tensor) -> None:
        count = live_rows(bench, gradient, chunk.rows)
        rows = gradient[:count].movedim(axis, -1).reshape(-1, gradient.shape[axis]).double()
        old = sums.get(consumer.node)
        here = (rows.mT @ rows if full else rows.square().sum(0)).cpu()
        sums[consumer.node] = here if old is None else old + here

    def watch(inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(add)  # type: ignore[no-untyped-call]

    return watch


__all__ = ["METRICS", "fisher", "metric_of", "norm_metric", "ready"]
