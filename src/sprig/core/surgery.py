"""Mask, shrink, apply: the only place where shapes change. The module given is never touched."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprig.core.errors import PlanError, SurgeryError
from sprig.core.graph import canonical_names
from sprig.core.norms import mark_, unmark_
from sprig.core.numbers import numbers, rewrite
from sprig.core.plan import Plan
from sprig.core.types import Graph, Outcome, Slot

Masks = Mapping[int, np.ndarray]


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under its first name: the tensors themselves."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def apply(model: nn.Module, outcome: Outcome) -> nn.Module:
    """A copy of the model with the outcome's weights, all shapes as before."""
    twin = copy.deepcopy(model)
    put(twin, outcome.weights)
    return twin


def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write tensors of unchanged shape into a module that is ours."""
    tensors = state(model)
    with torch.no_grad():
        for name, value in weights.items():
            if name not in tensors or tensors[name].shape != value.shape:
                found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
                raise SurgeryError(
                    f"{name}: the model has {found}, the weights have {tuple(value.shape)}"
                )
            tensors[name].copy_(value)


def mask(model: nn.Module, plan: Plan | Outcome, graph: Graph) -> nn.Module:
    """A copy in which the channels that leave are zeros: not smaller, the same function as the shrunk model.

    Norms over channels that leave (`trace(..., norms="cut")`) are taken over those that stay, see core/norms.py.
    """
    plan, twin = _start(model, plan, graph)
    return mask_(twin, plan.masks(graph), graph)


def mask_(model: nn.Module, masks: Masks, graph: Graph) -> nn.Module:
    """Zero in place, in a module that is ours: columns of the consumers, rows of the producers."""
    tensors = state(model)
    with torch.no_grad():
        for slot in graph.slots:
            if slot.role == "follower":
                continue  # e.g. a norm: what it makes of a removed channel meets zero columns
            keep = slot.axis.keep(masks)
            if not keep.all():
                shape = [-1 if d == slot.dim else 1 for d in range(tensors[slot.tensor].dim())]
                factor = torch.from_numpy(keep).to(tensors[slot.tensor].device).reshape(shape)
                tensors[slot.tensor].masked_fill_(~factor, 0.0)
    mark_(model, masks, graph)
    return model


def shrink(model: nn.Module, plan: Plan | Outcome, graph: Graph) -> nn.Module:
    """A copy of the same class with the channels cut out: parameters, buffers and the modules' own numbers."""
    if isinstance(plan, Outcome):
        plan, twin = _start(model, plan, graph)
        return shrink_(twin, plan.masks(graph), graph)
    _check(model, plan, graph)
    return shrunk(model, plan.masks(graph), graph)


def shrunk(model: nn.Module, masks: Masks, graph: Graph) -> nn.Module:
    """A cut copy. Parameters that are cut are made anew from the model's own: the whole of them is never copied."""
    cut = {slot.tensor for slot in graph.slots if not slot.axis.keep(masks).all()}
    memo = {id(p): p for name, p in model.named_parameters() if name in cut}
    return shrink_(copy.deepcopy(model, memo), masks, graph)


def shrink_(model: nn.Module, masks: Masks, graph: Graph) -> nn.Module:
    """Cut in place, in a module that is ours."""
    unmark_(model)
    canonical = canonical_names(model)
    owners: dict[str, list[str]] = {}
    for name, first in canonical.items():
        owners.setdefault(first, []).append(name)
    by_tensor: dict[str, list[Slot]] = {}
    for slot in graph.slots:
        by_tensor.setdefault(slot.tensor, []).append(slot)
    for tensor_name, slots in by_tensor.items():
        keeps = {s.dim: s.axis.keep(masks) for s in slots}
        if all(k.all() for k in keeps.values()):
            continue
        _cut(model, owners.get(tensor_name, [tensor_name]), keeps)
    rewrite(model, numbers(model, masks, graph))
    return model


def fits(model: nn.Module, graph: Graph) -> None:
    """Refuse a model whose tensors are not those that the graph was traced on.

    Buffers that nothing cuts are left out: a model may make them anew while it runs.
    """
    tensors = state(model)
    buffers = dict(model.named_buffers())
    cut = {slot.tensor for slot in graph.slots}
    for name, shape in graph.shapes.items():
        if name in buffers and name not in cut:
            continue
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != tuple(shape):
            raise PlanError(
                f"{name}: the graph was traced on shape {tuple(shape)}, the model has "
                f"{found if found is not None else 'no such tensor'}; use the model that was traced, not a shrunk one"
            )


def _start(model: nn.Module, plan: Plan | Outcome, graph: Graph) -> tuple[Plan, nn.Module]:
    outcome, plan = (plan, plan.plan) if isinstance(plan, Outcome) else (None, plan)
    _check(model, plan, graph)
    twin = copy.deepcopy(model)
    if outcome is not None:
        put(twin, outcome.weights)
    return plan, twin


def _check(model: nn.Module, plan: Any, graph: Graph) -> None:
    fits(model, graph)
    if not isinstance(plan, Plan):
        raise PlanError(f"expected a Plan or an Outcome, found a {type(plan).__name__}")


def _cut(model: nn.Module, names: list[str], keeps: Mapping[int, np.ndarray]) -> None:
    first = names[0]
    owner = model.get_submodule(first.rpartition(".")[0])
    old: Tensor = getattr(owner, first.rpartition(".")[2])
    new = old.detach()
    for dim, keep in keeps.items():
        index = torch.from_numpy(np.flatnonzero(keep)).to(old.device)
        new = new.index_select(dim, index)
    new = new.contiguous()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    done: set[tuple[int, str]] = set()
    for name in names:
        path, _, attr = name.rpartition(".")
        module = model.get_submodule(path)
        if (id(module), attr) in done:  # one module under two names is cut once
            continue
        done.add((id(module), attr))
        if isinstance(new, nn.Parameter):
            module._parameters[attr] = new
        else:
            module._buffers[attr] = new
        renumber(module, attr, tuple(old.shape))


def renumber(module: nn.Module, attr: str, old: tuple[int, ...]) -> None:
    """Rewrite the numbers that a module keeps beside its tensors, from one table."""
    if attr == "weight" and vars(module).get("normalized_shape") in (old, list(old)):
        module.normalized_shape = type(module.normalized_shape)(module.weight.shape)
        return  # LayerNorm, RMSNorm and their kin, by whoever wrote them
    for kind, follow in NUMBERS:
        if isinstance(module, kind):
            follow(module, attr, old)
            return
    if attr == "weight" and getattr(module, "nf", None) == old[-1] and len(old) == 2:
        _transposed(
            module
        )  # transformers' Conv1D, known by its number: x @ weight of shape (in, out)


def _transposed(module: Any) -> None:
    module.nf = module.weight.shape[1]
    if hasattr(module, "nx"):
        module.nx = module.weight.shape[0]


def _conv(module: Any, attr: str, old: tuple[int, ...]) -> None:
    if attr != "weight":
        return
    rows, columns = module.weight.shape[:2]
    per_group = old[0] // module.groups
    if module.groups > 1:  # conv groups leave whole, so the rows of each stay as many as they were
        module.groups = rows // per_group
    module.out_channels, module.in_channels = rows, columns * module.groups


def _linear(module: Any, attr: str, old: tuple[int, ...]) -> None:
    if attr == "weight":
        module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any, attr: str, old: tuple[int, ...]) -> None:
    module.num_features = getattr(module, attr).shape[0]


def _group_norm(module: Any, attr: str, old: tuple[int, ...]) -> None:
    new = getattr(module, attr).shape[0]
    if attr == "weight":
        module.num_groups = module.num_groups * new // old[0]
        module.num_channels = new


def _embedding(module: Any, attr: str, old: tuple[int, ...]) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: Any, attr: str, old: tuple[int, ...]) -> None:
    module.num_parameters = module.weight.shape[0]


NUMBERS: tuple[tuple[Any, Any], ...] = (
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
)
