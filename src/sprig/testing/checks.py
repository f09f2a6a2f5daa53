"""The contract of surgery, held on any model: `check_surgery` raises AssertionError where it is broken.

Equality of the masked and the shrunk network says nothing on a network whose channels do nothing. So a copy is
brought to life first (`enliven`), and every cut must change what comes out.
"""

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from sprig.core.capture import batch_size
from sprig.core.cost import cost
from sprig.core.norms import Norms
from sprig.core.plan import Plan
from sprig.core.surgery import mask, shrink
from sprig.core.tracing import distance, stirred, tensors_of, trace
from sprig.core.types import Graph

TOLERANCE = 1e-9  # relative, float64
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Checked:
    """What was seen: of use to a report, and to tests that want more than silence."""

    graph: Graph
    alone: int  # groups tried alone
    worst: float  # largest relative difference of masked and shrunk
    smallest_change: float  # smallest relative change of the output that a cut brought about


def check_surgery(
    model: nn.Module,
    example: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    together: int = 2,
    alone: int | None = None,
    tolerance: float = TOLERANCE,
    norms: Norms = "keep",
) -> Checked:
    """Cut every prunable group alone and all together at random sizes, and hold all that surgery promises.

    Masked and shrunk agree; predicted costs equal a recount on the shrunk model; the model given stays as it was;
    the shrunk model copies, trains, and loads its own state. `alone` bounds how many groups are tried alone.
    norms: as in `trace`.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> check_surgery(net, (torch.randn(3, 4),)).alone
    1
    """
    given = snapshot(model)
    generator = torch.Generator().manual_seed(seed)
    live, args, named = enliven(model, example, kwargs or {}, generator=generator)
    graph = trace(live, args, named, norms=norms)
    state = snapshot(live)
    draw = np.random.default_rng(seed)
    dense = output(live, args, named)
    every = [g.index for g in graph.prunable]
    _hold(bool(every), "nothing can be pruned, so nothing was checked")
    single = (
        every
        if alone is None
        else [every[i] for i in np.linspace(0, len(every) - 1, alone).round().astype(int)]
    )
    single = sorted(set(single))
    worst, change = 0.0, float("inf")
    small = live
    for cut in [*([i] for i in single), *([every] * together)]:
        plan = random_plan(graph, cut, draw)
        what = ", ".join(f"{n}: {len(k)} of {plan.sizes[n]}" for n, k in plan.keep.items())
        masked = output(mask(live, plan, graph), args, named)
        small = shrink(live, plan, graph)
        found, macs = counted(small, args, named)
        gap = distance(masked, found)
        _hold(gap <= tolerance, f"masked and shrunk differ by {gap:.2g} with {what}")
        moved = distance(dense, masked)
        _hold(moved > 1e-6, f"the output does not depend on what was cut ({moved:.1g}): {what}")
        worst, change = max(worst, gap), min(change, moved)
        predicted = cost(graph, plan.masks(graph))
        recounted = {"macs": macs, "params": parameters(small), "bytes": size(small)}
        _hold(predicted == recounted, f"costs {predicted}, recounted {recounted}, with {what}")
    _hold(type(small) is type(model), f"the class became {type(small).__name__}")
    _same(snapshot(live), state, "surgery changed the model it was given")
    _usable(live, small, args, named)
    _same(snapshot(model), given, "the checks changed the model they were given")
    return Checked(graph, len(single), worst, change)


def random_plan(graph: Graph, cut: Sequence[int], draw: np.random.Generator) -> Plan:
    """Random units at a random size in each of the groups `cut`."""
    keep = {}
    for index in cut:
        group = graph.groups[index]
        stays = draw.permutation(group.size)[: draw.integers(1, group.size)]
        keep[group.name] = tuple(int(i) for i in np.sort(stays))
    sizes = {name: graph.group(name).size for name in keep}
    return Plan(keep=keep, sizes=sizes, graph=graph.fingerprint, method="random")


# ---- a network in which every channel counts ------------------------------------------------------
def enliven(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    generator: torch.Generator,
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A float64 copy whose layers have outputs of order one, and its inputs in float64.

    Norms get random scales and shifts, each convolution and linear map is scaled to unit spread on random inputs,
    and batch norms then see two batches in training mode.
    """
    live = stirred(model).double()
    with torch.no_grad():
        for module in live.modules():
            if isinstance(module, NORMS):
                for name, parameter in module.named_parameters(recurse=False):
                    noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_(noise - 0.5 if name == "bias" else noise + 0.5)

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64)

    inputs = [pytree.tree_map(fresh, (args, dict(kwargs))) for _ in range(3)]
    with _batch_norms_average(live), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        live.train()
        layers = (nn.Linear, nn.modules.conv._ConvNd)
        hooks = [m.register_forward_hook(_to_unit) for m in live.modules() if isinstance(m, layers)]
        live(*inputs[0][0], **inputs[0][1])
        for hook in hooks:
            hook.remove()
        for module in live.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
        for positional, named in inputs[:2]:
            live(*positional, **named)
    live.train(False)
    for ours, theirs in zip(live.modules(), model.modules(), strict=True):
        ours.training = theirs.training
    for out in tensors_of(output(live, *inputs[2])):
        spread = float(out.std(0).mean()) if len(out) > 1 else float(out.std())
        _hold(
            1e-3 < spread < 1e3,
            f"the outputs do not vary enough by sample to show anything (spread {spread:.1g})",
        )
    return live, inputs[2][0], inputs[2][1]


def _to_unit(module: Any, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
    scale = float(out.std()) or 1.0
    module.weight.data.div_(scale)
    if module.bias is not None:
        module.bias.data.div_(scale)
    return out / scale


@contextmanager
def _batch_norms_average(model: nn.Module) -> Iterator[None]:
    """Running statistics become the plain mean over the batches seen inside."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = None  # type: ignore[assignment]
    yield
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


# ---- reading a model ------------------------------------------------------------------------------
def output(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Outputs in eval mode; the flags of the modules are as before afterwards."""
    flags = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return model(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs)))
    finally:
        for module, flag in flags:
            module.training = flag


def counted(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, int]:
    """Outputs, and multiply-adds of one sample counted by torch while they are made."""
    model = copy.deepcopy(model).requires_grad_(False)  # the counter trips over parts of parameters
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention is not counted
    try:
        counter = FlopCounterMode(display=False, custom_mapping=_experts())
        with sdpa_kernel(SDPBackend.MATH), counter:
            found = output(model, args, kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return found, round(counter.get_total_flops() / 2 / batch_size(args, kwargs))


def _experts() -> dict[Any, Any]:
    """What torch's counter passes over: products of rows with the matrix of their expert."""

    def flops(rows: Any, matrices: Any, *rest: Any, **options: Any) -> int:
        return 2 * math.prod(rows) * int(matrices[-1])

    spaces = ((torch.ops.aten, "_grouped_mm"), (torch.ops.transformers, "grouped_mm_fallback"))
    return {getattr(space, name): flops for space, name in spaces if hasattr(space, name)}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def size(model: nn.Module) -> int:
    """Bytes of parameters and buffers, tied ones once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Hashes of all tensors, and the flags of every module and parameter."""
    kept: dict[str, Any] = {
        f"{n} of {i}": m.training for i, (n, m) in enumerate(model.named_modules())
    }
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        kept[name] = (tuple(tensor.shape), hashlib.sha256(flat.numpy().data).hexdigest())
        kept[f"{name} grad"] = (tensor.requires_grad, tensor.grad is None)
    return kept


def _same(now: Mapping[str, Any], before: Mapping[str, Any], complaint: str) -> None:
    _hold(list(now) == list(before), f"{complaint}: its tensors or modules are others")
    for name, value in before.items():
        _hold(now[name] == value, f"{complaint}: {name}")


def _usable(
    live: nn.Module, small: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Copies, loads its own state, trains one step."""
    expected = output(small, args, kwargs)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(small.state_dict())
    _hold(
        distance(expected, output(twin, args, kwargs)) == 0,
        "its own state dict gives another function",
    )
    twin.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = tensors_of(twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs))))
    trained = [p for p in twin.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    torch.stack([o.square().mean() for o in outputs]).sum().backward()
    _hold(
        all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in trained),
        "gradients are not finite",
    )
    torch.optim.SGD(trained, lr=1e-3).step()
    stayed = sum(torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    _hold(stayed < len(trained), "a training step changes nothing")


def _hold(true: bool, complaint: str) -> None:
    if not true:
        raise AssertionError(complaint)
