"""Submodules of a model that cannot be exported as a whole: which can be traced alone, and the inputs they get.

A part is traced and cut as a model of its own, on the inputs that it gets while the whole model runs. Its inputs and
outputs are the seams: what the rest of the model sees keeps its width.
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from sprig.core.batches import as_batches, map_tensors, tensors
from sprig.core.capture import capture
from sprig.core.errors import InputError, TraceError
from sprig.core.example import Inputs


def part_batches(model: nn.Module, name: str, data: Iterable[Any]) -> list[Any]:
    """What the submodule `name` gets while the whole model runs on `data`: batches for `sprig.prune` on it.

    A part that takes some inputs by position and some by name gets all of them by name. The model is not touched.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [b[0][0].shape for b in part_batches(net, "2", [torch.zeros(5, 2)])]
    [torch.Size([5, 3])]
    """
    twin = copy.deepcopy(model).eval()
    try:
        part = twin.get_submodule(name)
    except AttributeError as error:
        near = ", ".join(n for n, _ in direct_parts(model))
        raise InputError(f"the model has no submodule {name!r}; it has {near}") from error
    found: list[Any] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(_batch(module, args, kwargs))

    with part.register_forward_pre_hook(keep, with_kwargs=True), torch.no_grad():
        for args, kwargs, _ in as_batches(data):
            twin(*args, **kwargs)
    if not found:
        raise InputError(f"submodule {name!r} is never called on this data")
    return found


def traceable(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> dict[str, str | None]:
    """Each direct submodule with weights that one run calls: None if it can be exported alone, else why not."""
    twin = copy.deepcopy(model).eval()
    parts = dict(direct_parts(twin))
    got: dict[str, Inputs] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        got.setdefault(name, map_tensors((args, kwargs), torch.clone))

    hooks = [
        part.register_forward_pre_hook(partial(keep, name=name), with_kwargs=True)
        for name, part in parts.items()
    ]
    with torch.no_grad():
        twin(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs or {})))
    for hook in hooks:
        hook.remove()
    out: dict[str, str | None] = {}
    for name, inputs in got.items():
        if not any(True for _ in tensors(inputs)):
            continue
        try:
            capture(parts[name], *inputs)
            out[name] = None
        except TraceError as error:
            out[name] = str(error)
    return out


def advised(
    error: TraceError, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TraceError:
    """The same error with the direct submodules that can be traced alone."""
    try:
        found = traceable(model, args, kwargs)
    except Exception:  # it does not even run: what was said before says it
        return error
    good = [name for name, reason in found.items() if reason is None]
    if not good:
        return error
    return TraceError(
        f"{error}. Submodules that can be traced alone: {', '.join(good)}; prune them on the inputs that "
        "sprig.core.parts.part_batches gives, and put them back"
    )


def direct_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Direct submodules with weights; lists and dicts of modules, which are never called, give theirs."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", part) for inner, part in direct_parts(child))
        elif next(child.parameters(), None) is not None:
            yield name, child


def _batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = map_tensors((args, kwargs), torch.clone)
    if not kwargs:
        return (args, None)
    if args:
        bound = inspect.signature(module.forward).bind_partial(*args)
        kwargs = {**bound.arguments, **kwargs}
    return {name: value for name, value in kwargs.items() if value is not None}
