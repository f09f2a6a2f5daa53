"""Submodules of a model that cannot be exported as a whole: what they get while it runs, and which can be traced alone.

A part is traced and cut as a model of its own, on the inputs that it gets while the whole model runs. Its inputs and
outputs are the seams: what the rest of the model sees keeps its width.
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sprig.core.batches import Triple, as_batches, tensors
from sprig.core.capture import batch_size, capture
from sprig.core.errors import InputError, TraceError
from sprig.core.example import Inputs
from sprig.core.types import Part


@dataclass
class Heard:
    """What submodules got and gave, call by call, in the order of their first calls."""

    inputs: dict[str, list[Inputs]] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()


@contextmanager
def listening(model: nn.Module, names: Iterable[str]) -> Iterator[Heard]:
    """Copies of all that the named submodules get and give, as long as it lasts."""
    heard = Heard()

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str
    ) -> None:
        heard.inputs.setdefault(name, []).append(apart((args, kwargs)))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any, *, name: str) -> None:
        heard.outputs.setdefault(name, []).append(apart(output))

    hooks = []
    for name in names:
        module = submodule(model, name)
        hooks.append(module.register_forward_pre_hook(partial(before, name=name), with_kwargs=True))
        hooks.append(module.register_forward_hook(partial(after, name=name)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def apart(value: Any) -> Any:
    """The same with tensors of its own, whatever container that is."""
    return pytree.tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, value)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """No gradients, and random numbers that are the same every time."""
    used = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=used):
        torch.manual_seed(0)
        yield


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that name; the error says which there are."""
    try:
        if not name:
            raise AttributeError(name)
        return model.get_submodule(name)
    except AttributeError as error:
        near = ", ".join(n for n, _ in direct_parts(model))
        raise InputError(f"the model has no submodule {name!r}; it has {near}") from error


def recorded(part: Part, model: nn.Module, triples: Iterable[Triple]) -> list[Triple]:
    """What a part gets while `model` runs: batches to search it on. Batches that do not reach it give none.

    Raises:
        TraceError: one run calls the part more than once.
        InputError: its inputs differ in more than the number of samples.
    """
    twin, found = copy.deepcopy(model).eval(), list[Triple]()
    with listening(twin, [part.name]) as heard, still(twin):
        for args, kwargs, _ in triples:
            heard.clear()
            twin(*apart(args), **apart(dict(kwargs)))
            calls = heard.inputs.get(part.name, [])
            if len(calls) > 1:
                raise TraceError(repeated(part.name, len(calls)))
            for inputs in calls:
                if batch_size(*inputs):  # e.g. an expert that no sample of this batch goes to
                    check_like(part, inputs)
                    found.append((*inputs, None))
    return found


def repeated(name: str, calls: int) -> str:
    """Why a part that is called again and again is none."""
    return (
        f"submodule {name!r} is called {calls} times in one run of the model, so it has no one set of inputs to be "
        "judged on; leave it out of modules, or name submodules of it that are called once"
    )


def check_like(part: Part, inputs: Inputs) -> None:
    """Refuse inputs that are not those of the example but for their number of samples."""
    seen, form = pytree.tree_flatten((part.args, dict(part.kwargs)))
    found, here = pytree.tree_flatten(inputs)
    if form != here:
        raise InputError(
            f"submodule {part.name!r} is called with differing arguments: {here} instead of {form}; leave it out of "
            "modules"
        )
    samples, mine = batch_size(part.args, part.kwargs), batch_size(*inputs)
    for old, new in zip(seen, found, strict=True):
        if not isinstance(old, Tensor):
            same = bool(old == new)
        elif old.dim() and len(old) == samples and new.dim() and len(new) == mine:
            if old.shape[1:] != new.shape[1:]:
                raise InputError(
                    f"submodule {part.name!r} is called with differing shapes: {tuple(old.shape)} on the example, "
                    f"{tuple(new.shape)} on the data; resize the data, or leave it out of modules"
                )
            same = True
        else:
            same = old.shape == new.shape and bool(torch.equal(old, new))
        if not same:
            raise InputError(
                f"submodule {part.name!r} is called with an input that has no entry per sample and differs from call "
                "to call; leave it out of modules"
            )


def part_batches(model: nn.Module, name: str, data: Iterable[Any]) -> list[Any]:
    """What the submodule `name` gets while the whole model runs on `data`: batches for `sprig.prune` on it alone.

    A part that takes some inputs by position and some by name gets all of them by name. The model is not touched.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [b[0][0].shape for b in part_batches(net, "2", [torch.zeros(5, 2)])]
    [torch.Size([5, 3])]
    """
    twin = copy.deepcopy(model).eval()
    with listening(twin, [name]) as heard, still(twin):
        for args, kwargs, _ in as_batches(data):
            twin(*args, **kwargs)
    if name not in heard.inputs:
        raise InputError(f"submodule {name!r} is never called on this data")
    module = submodule(twin, name)
    return [_batch(module, args, kwargs) for args, kwargs in heard.inputs[name]]


def traceable(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> dict[str, str | None]:
    """Each direct submodule with weights that one run calls: None if it can be exported alone, else why not."""
    twin = copy.deepcopy(model).eval()
    heard = one_run(twin, [name for name, _ in direct_parts(twin)], args, kwargs or {})
    out: dict[str, str | None] = {}
    for name, calls in heard.inputs.items():
        if not any(True for _ in tensors(calls[0])):
            continue
        try:
            if len(calls) > 1:
                raise TraceError(repeated(name, len(calls)))
            capture(submodule(twin, name), *calls[0])
            out[name] = None
        except TraceError as error:
            out[name] = str(error)
    return out


def one_run(
    model: nn.Module, names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Heard:
    """What submodules of a module that is ours get and give in one run."""
    with listening(model, names) as heard, still(model):
        model(*apart(args), **apart(dict(kwargs)))
    return heard


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
    named = ", ".join(f'"{name}"' for name in good)
    flags = " ".join(f"--modules {name}" for name in good)
    return TraceError(
        f"{error}. Submodules that can be traced alone: {', '.join(good)}; give modules=[{named}] ({flags}) to prune "
        'inside these, or modules="auto" for all that can be'
    )


def direct_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Direct submodules with weights; lists and dicts of modules, which are never called, give theirs."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", part) for inner, part in direct_parts(child))
        elif next(child.parameters(), None) is not None:
            yield name, child


def _batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not kwargs:
        return (args, None)
    if args:
        bound = inspect.signature(module.forward).bind_partial(*args)
        kwargs = {**bound.arguments, **kwargs}
    return {name: value for name, value in kwargs.items() if value is not None}
