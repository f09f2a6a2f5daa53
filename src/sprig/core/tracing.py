"""`trace`: build the graph, then run what surgery makes of it and refuse the groups that do not follow."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sprig.core.capture import batch_size, check_example, stopped
from sprig.core.errors import TraceError
from sprig.core.example import Example, inputs_of, per_sample
from sprig.core.graph import build
from sprig.core.join import join
from sprig.core.norms import Norms
from sprig.core.outputs import BESIDE
from sprig.core.parts import advised
from sprig.core.surgery import mask_, shrunk
from sprig.core.trials import FEW, half_masks, range_masks
from sprig.core.types import Graph, Group
from sprig.core.wide import held

TOLERANCE = (
    1e-3  # of a probe in the model's own precision; certificates hold the result to far less
)
FINE = 1e-8  # of a float64 probe
FIRST = 64
FOLLOW = "the module's own Python does not follow a smaller width"
AT = " (it stopped "


def trace(
    model: nn.Module,
    example_inputs: Example,
    kwargs: Mapping[str, Any] | None = None,
    *,
    norms: Norms = "keep",
    modules: Sequence[str] | str | None = None,
) -> Graph:
    """Find all groups of channels that can leave together, and say why the others cannot.

    `example_inputs`: a tuple of the model's arguments, or a dict of its keyword arguments.
    The model is exported, labels ride through its graph, and every group is tried: a shrunk copy must run and
    give what the masked copy gives. Your model is not touched. norms: "cut" lets channels leave that a LayerNorm or an
    RMSNorm is taken over; the norm is then taken over those that stay, which is another function (core/norms.py).

    `modules`: names of submodules, for a model that cannot be exported as a whole: each is traced alone, on what it
    gets while the whole model runs on the example; what goes in and out of it keeps its width. "auto": all that can be.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = trace(net, (torch.randn(2, 4),))
    >>> [(g.name, g.size, g.prunable) for g in graph.groups]
    [('0', 8, True), ('2', 2, False)]

    Raises:
        TraceError: the model cannot be copied or exported; the message names the line, and the submodules that can.
            Or a named submodule cannot be, or is not called just once.
        InputError: the example inputs are neither a tuple nor a dict, or hold no tensor; or a name is of no submodule;
            `norms` is another word.
    """
    args, named = inputs_of(example_inputs, kwargs)
    check_example(args, named)
    each = partial(_alone, norms=norms)
    if modules is not None:
        return join(model, args, named, modules, each=each, probe=probe)
    try:
        return each(model, args, named)
    except TraceError as error:
        raise advised(error, model, args, named) from error


def _alone(
    model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], *, norms: Norms
) -> Graph:
    """The graph of one module that can be exported."""
    check_example(args, named)
    graph = build(model, args, named, norms=norms)
    graph = probe(model, graph, args, named)
    inner = _stuck_heads(graph)
    if not inner:
        return graph
    again = build(model, args, named, inner=inner, program=graph.program, norms=norms)
    again = probe(model, again, args, named)
    return again if len(again.prunable) > len(graph.prunable) else graph


def _stuck_heads(graph: Graph) -> frozenset[str]:
    """Modules whose heads may not leave for their own Python's sake: inner dimensions may do."""
    stuck = {g.index for g in graph.groups if g.reason is not None and FOLLOW in g.reason}
    return frozenset(
        n.module
        for n in graph.numbers
        if n.kind == "count" and stuck & set(np.unique(n.axis.group).tolist())
    )


def probe(
    model: nn.Module, graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Graph:
    """Try all prunable groups at once; where that fails, halve, and refuse what does not go with those before it."""
    refused: dict[int, str] = {}
    accepted: list[int] = []
    trial = _Trial(model, graph, args, kwargs)

    def add(indices: Sequence[int], alike: bool) -> None:
        failure = trial.failure([*accepted, *indices])
        if failure is not None and alike and trial.guess([*accepted, *indices], indices):
            failure = None
        if failure is None:
            accepted.extend(indices)
        elif len(indices) == 1:
            refused[indices[0]] = failure
        elif alike and _kind(trial.failure([indices[0]])) == _kind(failure):
            last = trial.failure(
                [indices[-1]]
            )  # first, last and all fail in the same way: so do the others
            if _kind(last) == _kind(failure):
                like = failure.replace(AT, f"{AT}for another like it ")
                refused.update(dict.fromkeys(indices, like))
                refused[indices[0]], refused[indices[-1]] = failure, str(last)
            else:
                halve(indices, alike)
        else:
            halve(indices, alike)

    def halve(indices: Sequence[int], alike: bool) -> None:
        middle = len(indices) // 2
        add(indices[:middle], alike)
        add(indices[middle:], alike)

    candidates = [g.index for g in graph.prunable]
    if candidates and trial.failure(candidates) is not None:
        for block, alike in _blocks(model, graph, candidates):
            add(block, alike)
    groups = tuple(_with_reason(g, refused.get(g.index)) for g in graph.groups)
    return replace(graph, groups=groups, numbers=trial.graph.numbers)


def _blocks(
    model: nn.Module, graph: Graph, candidates: Sequence[int]
) -> list[tuple[list[int], bool]]:
    """Groups that no module's own number depends on; then the others, by the class of the module that has it."""
    by_class: dict[str, list[int]] = {"": []}
    named = {
        int(g): type(model.get_submodule(n.module)).__name__
        for n in graph.numbers
        for g in np.unique(n.axis.group)
        if g >= 0
    }
    for index in candidates:
        by_class.setdefault(named.get(index, ""), []).append(index)
    return [(block, name != "") for name, block in by_class.items() if block]


def _kind(failure: str | None) -> str:
    """A failure without its numbers and its place."""
    return re.sub(r"[0-9]+", "#", (failure or "").partition(AT)[0])[:120]


def _with_reason(group: Group, reason: str | None) -> Group:
    return group if reason is None else replace(group, reason=reason)


class _Trial:
    """Runs masked and shrunk copies of one model, in double precision where the model's own Python allows it."""

    def __init__(
        self, model: nn.Module, graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.graph = graph
        given, samples = (args, dict(kwargs)), batch_size(args, kwargs)
        single = pytree.tree_map(partial(_first_sample, samples), given)
        if any(
            per_sample(t, samples) and not t.is_floating_point() for t in pytree.tree_leaves(given)
        ):
            single = (
                given  # one sample may take another way than all: without padding there is no mask
            )
        self.original, self.proven = model, False
        self.ways = [(single, True), (given, True), (single, False), (given, False)]
        self.model, self.wide = stirred(model).double(), True
        self.enter()

    def enter(self) -> None:
        """Take the next way to run: on which inputs, and whether in double precision."""
        inputs, wide = self.ways.pop(0)
        self.inputs, self.tolerance = inputs, TOLERANCE
        if wide:
            self.inputs, self.tolerance = pytree.tree_map(_double, inputs), FINE
        elif self.wide:
            self.model, self.wide = stirred(self.original), False

    def astray(self) -> bool:
        """Whether the uncut model fails, too: it insists on its own precision, or on this batch. Then the next way is
        taken, as long as there is one; what has run once is not asked again."""
        if self.proven:
            return False
        try:
            self.run(copy.deepcopy)
        except Exception:
            if self.ways:
                self.enter()
                return True
        self.proven = True
        return False

    def run(self, changed: Callable[[nn.Module], nn.Module]) -> Any:
        """Outputs of a changed copy, in double precision throughout if it is in double precision."""
        with held(self.wide):
            return run(changed(self.model), *self.inputs)

    def guess(self, indices: Sequence[int], fresh: Sequence[int]) -> bool:
        """Whether the modules follow when fewer of their own numbers are rewritten; keeps what works."""
        numbers = self.graph.numbers
        mine = [n for n in numbers if set(fresh) & set(np.unique(n.axis.group).tolist())]
        counts = {(n.module, n.length) for n in mine if n.kind == "count"}
        twofold = {n for n in mine if n.kind == "width" and (n.module, n.length) in counts}
        kinds = ("config", "times", "part", "width", "count")
        alike = ({n for n in mine if n.kind == kind} for kind in kinds)
        for wrong in (twofold, *alike, set(mine)):  # twofold: as many heads as each is wide
            kept = tuple(n for n in numbers if n not in wrong)
            if len(kept) == len(numbers):
                continue
            self.graph = replace(self.graph, numbers=kept)
            if self.failure(indices) is None:
                return True
        self.graph = replace(self.graph, numbers=numbers)
        return False

    def failure(self, indices: Sequence[int]) -> str | None:
        """Why the groups cannot be cut together; None: they can.

        Groups of few units are tried again, beside whole ones: one unit fits whatever it meets, by broadcasting. Where
        channels are taken by their places, units leave from within the range alone, then from beside it alone.
        """
        few = any(1 < self.graph.groups[i].size <= FEW for i in indices)
        tries = (
            self._failure(half_masks(self.graph, indices, few=t))
            for t in (None, 0, 1)[: 1 + 2 * few]
        )
        found = next((found for found in tries if found is not None), None)
        if found is not None:
            return found
        tries = (self._failure(masks) for masks in range_masks(self.graph, indices))
        return next((found for found in tries if found is not None), None)

    def _failure(self, masks: Mapping[int, np.ndarray]) -> str | None:
        try:
            small = self.run(lambda model: shrunk(model, masks, self.graph))
        except Exception as error:
            return self._failure(masks) if self.astray() else f"{FOLLOW}: {_first_line(error)}"
        try:
            masked = self.run(lambda model: mask_(copy.deepcopy(model), masks, self.graph))
        except Exception as error:
            if self.astray():
                return self._failure(masks)
            return f"the masked copy does not run: {_first_line(error)}"
        self.proven = True
        gap = distance(masked, small)
        if not gap <= self.tolerance:
            return f"the shrunk module computes something else than the masked one (relative difference {gap:.2g})"
        return None


def stirred(model: nn.Module) -> nn.Module:
    """A copy in which no tensor is constant: a branch that starts at zero would hide what is wrong inside it."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    named = [*twin.named_parameters(), *twin.named_buffers()]
    with torch.no_grad():
        for name, tensor in named:
            counts = name.endswith(("running_mean", "running_var")) or isinstance(
                tensor, nn.Parameter
            )
            if counts and tensor.is_floating_point() and tensor.numel() and _constant(tensor):
                noise = torch.rand(tensor.shape, generator=generator) - 0.5
                tensor.add_(noise.to(tensor))
    return twin


def _constant(tensor: Tensor) -> bool:
    flat = tensor.flatten()  # the first few tell nearly all apart
    return bool((flat[:FIRST] == flat[0]).all()) and bool((flat == flat[0]).all())


def _first_sample(batch: int, leaf: Any) -> Any:
    """A trial needs one sample, however many were given."""
    several = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch > 1
    return leaf[:1] if several else leaf


def _double(leaf: Any) -> Any:
    return leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def run(twin: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Outputs of a module that is ours in eval mode; random numbers that it draws are the same in every run."""
    twin.eval()
    used = sorted({p.device.index for p in twin.parameters() if p.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=used):
        torch.manual_seed(0)
        return twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))


def tensors_of(output: Any) -> list[Tensor]:
    """The floating tensors of any output, in a fixed order, but caches; sees through dataclass-like containers."""
    if isinstance(output, Mapping):
        output = {k: v for k, v in output.items() if k not in BESIDE or k == "loss"}
    elif hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [
        t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()
    ]


def distance(a: Any, b: Any) -> float:
    """Largest difference over outputs relative to their largest value; infinite if shapes differ."""
    left, right = tensors_of(a), tensors_of(b)
    if len(left) != len(right) or any(x.shape != y.shape for x, y in zip(left, right, strict=True)):
        return float("inf")
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if not x.numel():
            continue
        x, y = x.detach().double(), y.detach().double()
        finite = x[torch.isfinite(x)]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
        gap = float(torch.where(x == y, 0.0, x - y).abs().max())  # masks of -inf may be in both
        worst = max(worst, gap / scale if scale > 0 else (0.0 if gap == 0 else float("inf")))
        if gap != gap:
            return float("inf")
    return worst


def _first_line(error: BaseException) -> str:
    text, place = str(error).strip().split("\n")[0], stopped(error)
    return f"{type(error).__name__}: {text[:160]}{f'{AT}{place})' if place else ''}"
