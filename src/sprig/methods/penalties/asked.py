"""What is asked of a method that it cannot do: refused in one line, before anything is trained."""

import math
from dataclasses import replace

import torch
from torch import nn

from sprig.core.errors import InputError
from sprig.methods.penalties.ends import Cut, Ending
from sprig.methods.penalties.scope import Scope, penalised, wide
from sprig.methods.penalties.shelf import Shrinkage
from sprig.methods.penalties.units import units_of


def refuse_idle(
    entry: Shrinkage,
    *,
    scope: Scope | None,
    cut: Cut,
    begin: float = 0.0,
    ramp: float = 0.0,
    epochs: int | None = None,
) -> None:
    """Refuse options that would change nothing.

    >>> from sprig.methods.penalties.shelf import PENALTIES
    >>> refuse_idle(PENALTIES["halo"], scope=None, cut=Cut(keep=0.1, per_layer=True), begin=2, epochs=5)
    """
    for name, value in (("begin", begin), ("ramp", ramp)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name} is {value}, expected at least 0 epochs")
    if entry.kind == "optimiser" and (begin or ramp):
        raise InputError(
            f"{entry.name} is the optimiser itself, whose threshold grows from the first step on: it knows "
            "no begin and no ramp; leave them out"
        )
    if epochs is not None and begin >= epochs:
        raise InputError(
            f"begin is {begin:g} epochs and the training has {epochs}: the penalty would never act; begin earlier"
        )
    if entry.groups and scope is not None and (scope.biases or scope.norms):
        raise InputError(
            f"{entry.name} acts on whole units of channels, whose biases and norms leave with them whatever is said; "
            "leave out biases and norms"
        )
    if entry.kind == "gates" and (cut.asked or cut.per_layer):
        raise InputError(
            f"{entry.name} decides itself what stays; leave out the cut, change its strength"
        )
    if cut.per_layer and not cut.asked:
        raise InputError(
            "the same share of every layer was asked for, but no share: without a cut what is not zero stays; give "
            "keep, macs or params, or leave per-layer out"
        )


def rehearse(ending: Ending, model: nn.Module, scope: Scope | None) -> None:
    """Refuse a cut that cannot be made, by making it on the network as it is."""
    if not ending.cut.asked:
        return
    silent = replace(ending, notes=[])
    if ending.entry.groups:
        assert ending.graph is not None
        allowed = set(penalised(model, wide(scope)))
        members = getattr(ending.settings, "members", units_of)
        units = members(ending.graph, model, allowed)
        silent.plan(units, torch.ones(units.total))
    else:
        weights = {name: p.detach() for name, p in penalised(model, scope).items()}
        silent.masks(model, weights)
