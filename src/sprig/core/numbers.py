"""The numbers that modules keep beside their tensors: heads and widths that a reshape takes from `self`."""

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from sprig.core.multihead import narrow, own
from sprig.core.sizes import settle
from sprig.core.types import Graph, Number

Masks = Mapping[int, np.ndarray]


def numbers(model: nn.Module, masks: Masks, graph: Graph) -> dict[str, dict[str, int]]:
    """What modules must be told beside their tensors, by module and attribute: numbers of heads, inner widths.

    A reshape names a length; an integer attribute of the module that did it, of that length and with a name that
    speaks of heads or of widths, is taken for its source. Tracing runs the result, so a wrong guess is refused.
    """
    out: dict[str, dict[str, int]] = {}
    for number in graph.numbers:
        new = int(number.axis.keep(masks).sum())
        if new == number.length:
            continue
        for path, name in sources(model, number):
            out.setdefault(path, {}).setdefault(name, new)
    for path, heads in _torch_heads(model, masks, graph):
        out[path] = {"num_heads": heads}
    return out


def _torch_heads(model: nn.Module, masks: Masks, graph: Graph) -> Iterator[tuple[str, int]]:
    """What torch's own attention keeps of its heads, read off the columns of its output projection."""
    columns = {s.tensor: s.axis for s in graph.slots if s.dim == 1}
    for path, module in model.named_modules():
        axis = columns.get(f"{path}.out_proj.weight".lstrip("."))
        if not own(module) or axis is None:
            continue
        heads: int = module.num_heads  # type: ignore[assignment]
        kept = axis.keep(masks).reshape(heads, -1)
        if not kept.any(axis=1).all():  # whole heads left; else every head may have lost the same
            yield path, int(kept.any(axis=1).sum())


def rewrite(model: nn.Module, found: Mapping[str, Mapping[str, int]]) -> None:
    """Set the attributes that `numbers` found; layers of torch's own follow their tensors."""
    for path, attributes in found.items():
        module = model.get_submodule(path)
        for name, value in attributes.items():
            attr, place = placed(name)
            if name.startswith(
                CONFIG
            ):  # a copy of its own: the other modules read the one they share
                module.config = copy.copy(module.config)
                setattr(module.config, name.removeprefix(CONFIG), value)
            elif place is None:
                setattr(module, name, value)
            else:
                old = getattr(module, attr)
                setattr(module, attr, type(old)([*old[:place], value, *old[place + 1 :]]))
    narrow(model)
    settle(model)


def placed(name: str) -> tuple[str, int | None]:
    """`shape[2]` is entry 2 of the tuple `shape`.

    >>> placed("bias_shape[2]"), placed("num_heads")
    (('bias_shape', 2), ('num_heads', None))
    """
    found = re.fullmatch(r"(\w+)\[(\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


def value_of(module: nn.Module, name: str) -> int | None:
    """The number that a module keeps under a name; None: it keeps no whole number there."""
    if name.startswith(CONFIG):
        value = vars(vars(module).get("config", object)).get(name.removeprefix(CONFIG))
        return value if type(value) is int else None
    attr, place = placed(name)
    value = vars(module).get(attr)
    if place is not None:
        value = value[place] if isinstance(value, tuple | list) and place < len(value) else None
    return value if type(value) is int else None


COUNTS = re.compile(r"(head|group)s?$")
WIDTHS = re.compile(
    r"dim|size|width|channel|feature|plane|inner|hidden|embed|nh|^dh?$|_dh$|^c$|chs?$"
)
OTHER = re.compile(
    r"window|kernel|stride|ratio|patch|pad|dilation|depth|index|stage|grid|block|layer|image|img|max|vocab"
    r"|(key_value|kv)_groups"  # queries per key: whole keys leave with all of theirs, if there are several
)
CONFIG = "config."
TIMES = re.compile(r"(key_value|kv)_groups$|_per_(key|kv)$|n_rep$|repeat")


def sources(model: nn.Module, number: Number) -> list[tuple[str, str]]:
    """Modules and names of their own integers that may be where a number comes from."""
    if number.kind not in ("part", "config"):
        return number_sources(model, number.module, number.length, number.kind)
    try:
        module = model.get_submodule(number.module)
    except AttributeError:
        return []
    if number.kind == "config":
        return [(number.module, n) for n in _configured(module, number.length)]
    lengths = {n: v for n, v in vars(module).items() if type(v) in (tuple, list)}
    return [
        (number.module, f"{n}[{number.place}]")
        for n, v in lengths.items()
        if all(type(e) is int for e in v) and tuple(v) == number.parts
    ]


def number_sources(model: nn.Module, path: str, length: int, kind: str) -> list[tuple[str, str]]:
    """Modules and names of their own integers that may be where a length comes from.

    Also in parts of a module whose methods it calls, e.g. the table of relative places of an attention.
    """
    try:
        module = model.get_submodule(path)
    except AttributeError:  # a function that runs as if it were a module
        return []
    if own(module):  # all its other sizes follow from its tensors
        return []
    found = [(path, n) for n in [*_integers(module, length, kind), *_in_shapes(module, length)]]
    for name, part in module.named_children():
        if not type(part).__module__.startswith("torch.nn"):
            below = f"{path}.{name}".lstrip(".")
            heads = [n for n in _integers(part, length, "count") if "head" in n]
            found += [(below, n) for n in [*heads, *_in_shapes(part, length)]]
    return found


def _integers(module: nn.Module, length: int, kind: str) -> list[str]:
    """Names that speak of what is counted."""
    return _named(vars(module), length, kind)


def _named(values: Mapping[str, Any], length: int, kind: str) -> list[str]:
    equal = [n for n, value in values.items() if type(value) is int and value == length]
    if kind == "times":
        return [n for n in equal if TIMES.search(n)]
    wanted = [n for n in equal if (COUNTS if kind == "count" else WIDTHS).search(n)]
    return [n for n in wanted if not OTHER.search(n) and (kind == "count" or not COUNTS.search(n))]


def _configured(module: nn.Module, length: int) -> list[str]:
    """The same of the configuration that a module shares with others, where a method of its own reads that number."""
    config = vars(module).get("config")
    if config is None or not hasattr(config, "__dict__"):
        return []
    if getattr(getattr(config, "__dataclass_params__", None), "frozen", False):
        return []
    kinds = ("count", "width", "times")
    named = sorted({n for kind in kinds for n in _named(vars(config), length, kind)})
    methods = [
        f for n, f in vars(type(module)).items() if n != "__init__" and inspect.isfunction(f)
    ]
    try:
        text = "".join(map(inspect.getsource, methods)) if named else ""
    except (OSError, TypeError):  # made at run time
        return []
    return [f"{CONFIG}{n}" for n in named if re.search(rf"\bconfig\.{n}\b", text)]


def _in_shapes(module: nn.Module, length: int) -> list[str]:
    """Shapes that a module keeps ready, e.g. for the table of what each head adds: the last entry of that length."""
    shapes = {n: v for n, v in vars(module).items() if n.endswith("shape") and type(v) is tuple}
    return [
        f"{name}[{max(i for i, n in enumerate(shape) if n == length)}]"
        for name, shape in shapes.items()
        if all(type(n) is int for n in shape) and length in shape
    ]
