"""Rebuild a small network from a fresh model of its class and the shapes that a run folder states."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sprig.core.errors import StoreError
from sprig.core.graph import canonical_names
from sprig.core.numbers import rewrite, value_of
from sprig.core.surgery import renumber


def reshape(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, Mapping[str, int]] | None = None,
) -> nn.Module:
    """A copy whose parameters and buffers have these shapes (values undefined) and whose modules say so.

    numbers: what modules are told beside their tensors, see `core.numbers`.
    """
    twin = copy.deepcopy(model)
    canonical = canonical_names(twin)
    made: dict[str, Tensor] = {}
    for first in canonical.values():
        if first not in shapes:
            raise StoreError(
                f"the run has no tensor {first!r}, the model has; give a model of the class that was pruned"
            )
    for name in shapes:
        if name not in canonical:
            raise StoreError(
                f"the run has the tensor {name!r}, the model has not; give a model of the class that was pruned"
            )
    for name, first in canonical.items():
        path, _, attr = name.rpartition(".")
        module = twin.get_submodule(path)
        old: Tensor = getattr(module, attr)
        shape = shapes[first]
        if tuple(old.shape) == shape:
            continue
        larger = any(n > o for n, o in zip(shape, old.shape, strict=False))
        if len(shape) != old.dim() or (larger and isinstance(old, nn.Parameter)):
            raise StoreError(
                f"{name}: the run has shape {shape}, the model {tuple(old.shape)}; it was made from another model"
            )
        if first not in made:
            fresh = torch.zeros(shape, dtype=old.dtype, device=old.device)
            made[first] = (
                nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh
            )
        store = module._parameters if isinstance(old, nn.Parameter) else module._buffers
        store[attr] = made[first]  # type: ignore[assignment]
        renumber(module, attr, tuple(old.shape))
    for path, attributes in (numbers or {}).items():
        module = twin.get_submodule(path)
        for attr, value in attributes.items():
            old_value = value_of(module, attr)
            if old_value is None or not 0 < value <= old_value:
                raise StoreError(
                    f"the run sets {path}.{attr} to {value}, which does not fit the model; it was made from another"
                )
    rewrite(twin, numbers or {})
    return twin
