"""Norms over channels once some of the channels have left: a norm is then taken over those that are kept.

A LayerNorm or an RMSNorm mixes all channels, so what it gives for one that stays changes when another leaves, and no
zeros can say so. The masked network is therefore *defined* with norms over the kept channels, zeros elsewhere; that is
what the shrunk network computes. NaN in a norm's gain marks the channels that leave: `marked` writes the marks into
weights that a replay runs with, `mark_` into a module, whose norms then follow them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sprig.core.types import Graph

Norms = Literal["keep", "cut"]  # what happens to channels that a norm is taken over
NORMS: tuple[Norms, ...] = ("keep", "cut")

ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
}
CALLS: dict[Callable[..., Any], str] = {
    F.layer_norm: "layer_norm",
    torch.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
    torch.rms_norm: "rms_norm",
}
FUSED = (nn.TransformerEncoderLayer, nn.TransformerEncoder)  # read the weights of their norms


def over_kept(name: str, norm: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A norm's result where NaN in its gain marks channels that leave: over the others, and zeros at those.

    `name`: "layer_norm" or "rms_norm"; `norm`: the function itself, in any of its forms.

    >>> x, gain = torch.tensor([[1.0, 100.0, 3.0]]), torch.tensor([2.0, torch.nan, 2.0])
    >>> [round(v, 3) for v in over_kept("layer_norm", F.layer_norm, x, (3,), gain)[0].tolist()]
    [-2.0, 0.0, 2.0]
    """
    given = dict(zip(ARGUMENTS[name], args, strict=False)) | kwargs
    gain = given.get("weight")
    if gain is None or gain.dim() != 1 or not bool(torch.isnan(gain).any()):
        return norm(*args, **kwargs)
    at = torch.isnan(gain).logical_not().nonzero().flatten()
    x, bias = given["input"], given.get("bias")
    if not len(at):
        return torch.zeros_like(x)
    given |= {
        "input": x.index_select(-1, at),
        "normalized_shape": [len(at)],
        "weight": gain[at],
        **({} if bias is None else {"bias": bias[at]}),
    }
    out = norm(**given)
    return out.new_zeros(x.shape).index_copy(-1, at, out)


def norm_of(node: fx.Node) -> str | None:
    """The name under which `over_kept` knows what a node of an exported program calls; None: no norm."""
    found = str(node.target).split(".")
    return found[1] if found[0] == "aten" and len(found) > 1 and found[1] in ARGUMENTS else None


def marked(
    weights: Mapping[str, Tensor], masks: Mapping[int, np.ndarray], graph: Graph
) -> dict[str, Tensor]:
    """The gains of the norms that lose channels, with NaN there; marks that are in `weights` already stay."""
    out: dict[str, Tensor] = {}
    for norm in graph.norms:
        keep = norm.axis.keep(masks)
        if norm.weight not in out and not keep.all():
            gain = weights[norm.weight].detach()
            out[norm.weight] = gain.masked_fill(torch.from_numpy(~keep).to(gain.device), torch.nan)
    return out


def normed(graph: Graph) -> frozenset[int]:
    """Groups that a norm is taken over."""
    return frozenset(int(g) for norm in graph.norms for g in np.unique(norm.axis.group) if g >= 0)


def readers(graph: Graph, group: int) -> list[str]:
    """Nodes that compute something else once units of a group leave: its consumers, and norms over it."""
    behind = [graph.consumers[i].node for i in graph.groups[group].consumers]
    return behind + [n.node for n in graph.norms if n.node and (n.axis.group == group).any()]


def mark_(model: nn.Module, masks: Mapping[int, np.ndarray], graph: Graph) -> None:
    """Mark the gains in a module that is ours, and give their owners the class that follows marks."""
    named = dict(model.named_parameters(remove_duplicate=False))
    found = marked(named, masks, graph)
    held = {id(named[name]) for name in found}
    with torch.no_grad():
        for name, gain in found.items():
            named[name].copy_(gain)
    owners = {
        id(model.get_submodule(name.rpartition(".")[0]))
        for name, tensor in named.items()
        if id(tensor) in held
    }
    for module in model.modules():
        inside = isinstance(module, FUSED) and any(id(m) in owners for m in module.modules())
        if (id(module) in owners or inside) and not isinstance(module, OverKept):
            kind = type(module)
            module.__class__ = type(
                kind.__name__, (OverKept, kind), {"__module__": kind.__module__}
            )


def unmark_(model: nn.Module) -> None:
    """Give modules back the classes they had before `mark_`, in a module that is ours; gains stay."""
    for module in model.modules():
        if isinstance(module, OverKept):
            module.__class__ = type(module).__mro__[2]


class OverKept(nn.Module):
    """Put before the class of a module by `mark_`: its norms are taken over the channels without a mark."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own, whose norms follow the marks in their gains."""
        with _FollowMarks():
            return super().forward(*args, **kwargs)  # type: ignore[misc]


class _FollowMarks(TorchFunctionMode):
    """Norms called inside follow the marks in their gains; torch's fused layers are not taken."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = CALLS.get(func)
        return func(*args, **kwargs) if name is None else over_kept(name, func, *args, **kwargs)
