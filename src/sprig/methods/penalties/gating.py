"""Gates on the units of a graph, put into the forward pass: every reader's columns times the gate of their unit.

A gate multiplies what a unit gives to all that read it, so a gate of zero is a removed unit, exactly. Gates live in a
parametrization of the first weight that reads their group, so they are parameters of the model, trained by its one
optimiser; `fold` multiplies them into the weights and leaves a plain module.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sprig.core.errors import InputError
from sprig.core.path import with_cost
from sprig.core.plan import Plan
from sprig.core.surgery import fits
from sprig.core.types import Graph

NORMED = "a norm runs over its channels"


class Scaled(nn.Module):
    """A weight with its columns multiplied by gates, some of which are its own, the others another's."""

    def __init__(
        self,
        dim: int,
        parts: list[tuple[nn.Module, Tensor, Tensor]],
        own: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        self.dim = dim
        self.own = nn.ModuleDict(own)  # by the index of their group
        self.hidden = (parts,)  # in a tuple, so that they are no children of this module

    def forward(self, weight: Tensor) -> Tensor:
        factor = weight.new_ones(weight.shape[self.dim])
        for gate, here, unit in self.hidden[0]:
            values = gate()[unit.to(weight.device)].to(weight.dtype)
            factor = factor.index_put((here.to(weight.device),), values)
        return weight * factor.reshape([-1 if d == self.dim else 1 for d in range(weight.ndim)])


def install(model: nn.Module, graph: Graph, make: Callable[[int], nn.Module]) -> nn.Module:
    """A copy with a gate `make(units)` on every prunable group; a gate's `forward()` gives a number per unit."""
    if not graph.prunable:
        raise InputError("no group of this model may lose channels: there is nothing to gate")
    if any(parametrize.is_parametrized(m) for m in model.modules()):
        raise InputError("the model has parametrizations already; fold them into the weights first")
    fits(model, graph)
    twin = copy.deepcopy(model)
    left = ungated(model, graph)
    device = next(twin.parameters()).device
    gates = {g.index: make(g.size).to(device) for g in graph.prunable if g.index not in left}
    if not gates:
        raise InputError(f"there is nothing to gate: {'; '.join(sorted(set(left.values())))}")
    owned: set[int] = set()
    parameters = dict(twin.named_parameters())
    for slot in graph.slots:
        groups = [g for g in np.unique(slot.axis.group).tolist() if g in gates]
        if slot.role != "consumer" or slot.tensor not in parameters or not groups:
            continue
        parts = []
        for g in groups:
            here = np.flatnonzero(slot.axis.group == g)
            unit = torch.from_numpy(slot.axis.unit[here])
            parts.append((gates[g], torch.from_numpy(here), unit))
        own = {str(g): gates[g] for g in groups if g not in owned}
        owned |= set(groups)
        path, _, attr = slot.tensor.rpartition(".")
        module = twin.get_submodule(path)
        parametrize.register_parametrization(module, attr, Scaled(slot.dim, parts, own))
    twin.register_forward_pre_hook(_draw)
    return twin


def ungated(model: nn.Module, graph: Graph) -> dict[int, str]:
    """Groups that have no gate, and why.

    A norm over the channels themselves would see gated channels; and a tensor that several modules share has one place
    in the graph, but is read where no gate would be.
    """
    found = {int(g): NORMED for n in graph.norms for g in n.axis.group}
    names: dict[int, list[str]] = {}
    for (
        path,
        module,
    ) in model.named_modules():  # each once: what one module does twice is gated twice
        for attr, parameter in module.named_parameters(recurse=False):
            names.setdefault(id(parameter), []).append(f"{path}.{attr}" if path else attr)
    shared = {n: mine for mine in names.values() if len(mine) > 1 for n in mine}
    for slot in graph.slots:
        if slot.tensor in shared:
            why = f"{' and '.join(shared[slot.tensor][:2])} are one tensor"
            for group in np.unique(slot.axis.group).tolist():
                found.setdefault(int(group), why)
    return found


def _draw(model: nn.Module, _: Any) -> None:
    """New noise for gates that have some, once per forward pass."""
    for gate in gates_of(model).values():
        draw = getattr(gate, "draw", None)
        if draw is not None:
            draw()


def gates_of(model: nn.Module) -> dict[str, nn.Module]:
    """The gates by the index of their group."""
    found = {}
    for module in model.modules():
        if isinstance(module, Scaled):
            found.update(dict(module.own.items()))
    if not found:
        raise InputError(
            "the model has no gates; put them in with the penalty's `gated(model, graph)`"
        )
    return found


@torch.no_grad()
def live_share(model: nn.Module) -> float:
    """Share of the gates that are open, as an evaluation sees them."""
    training = model.training
    model.eval()
    values = [gate() for gate in gates_of(model).values()]
    model.train(training)
    return float(torch.cat([v != 0 for v in values]).double().mean())


@torch.no_grad()
def fold(model: nn.Module, graph: Graph) -> tuple[nn.Module, Plan]:
    """A plain module with the gates multiplied into its weights, and the plan of the units that are not zero."""
    twin = copy.deepcopy(model).eval()
    keep, sizes = {}, {}
    for index, gate in gates_of(twin).items():
        values = gate()
        alive = torch.nonzero(values != 0)[:, 0].tolist()
        group = graph.groups[int(index)]
        keep[group.name] = tuple(alive or [int(values.abs().argmax())])
        sizes[group.name] = group.size
    for module in list(twin.modules()):
        if parametrize.is_parametrized(module):
            _plain(module)
    for key, hook in list(twin._forward_pre_hooks.items()):
        if hook is _draw:
            del twin._forward_pre_hooks[key]
    twin.train(model.training)
    plan = Plan(keep=keep, sizes=sizes, graph=graph.fingerprint)
    return twin, with_cost(plan, graph)


def _plain(module: nn.Module) -> None:
    """Undo the parametrizations of a module of our own.

    torch's own removal changes the class that it made for the module, which copies of the module share.
    """
    made = module._modules.pop("parametrizations")
    assert isinstance(made, nn.ModuleDict)
    values = {name: part().detach().clone() for name, part in made.items()}
    trained = {name: bool(part.original.requires_grad) for name, part in made.items()}
    rest = dict(module._parameters)
    module.__class__ = type(module).__bases__[0]
    module._parameters.clear()
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=trained[name]))
    module._parameters.update(rest)
