"""The numbers that modules keep beside their tensors: heads and widths that a reshape takes from `self`."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from sprig.core.multihead import narrow, own
from sprig.core.sizes import settle
from sprig.core.types import Graph

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
        for name in number_sources(model, number.module, number.length, number.kind):
            out.setdefault(number.module, {}).setdefault(name, new)
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
            setattr(module, name, value)
    narrow(model)
    settle(model)


COUNTS = re.compile(r"(head|group)s?$")
WIDTHS = re.compile(
    r"dim|size|width|channel|feature|plane|inner|hidden|embed|nh|^dh?$|_dh$|^c$|chs?$"
)
OTHER = re.compile(
    r"window|kernel|stride|ratio|patch|pad|dilation|depth|index|stage|grid|block|layer|image|img|max|vocab"
)


def number_sources(model: nn.Module, path: str, length: int, kind: str) -> list[str]:
    """Names of a module's own integers that may be where a length comes from."""
    try:
        module = model.get_submodule(path)
    except AttributeError:  # a function that runs as if it were a module
        return []
    if own(module):  # all its other sizes follow from its tensors
        return []
    equal = [
        name
        for name, value in vars(module).items()
        if type(value) is int and value == length and not OTHER.search(name)
    ]
    wanted = [n for n in equal if (COUNTS if kind == "count" else WIDTHS).search(n)]
    return [n for n in wanted if kind == "count" or not COUNTS.search(n)]
