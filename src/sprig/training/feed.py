"""From a data object to batches on the model's device: one small door used by everything that trains or measures.

A data object is any re-iterable of batches (see `sprig.core.batches`). It may offer `epoch(n)`: the shuffled,
augmented batches of epoch n, the same each time it is asked; or a sampler with `set_epoch(n)`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sprig.core.batches import unpack
from sprig.core.errors import InputError

Fed = tuple[tuple[Any, ...], dict[str, Any], Any]  # args, kwargs, target


def feed(batches: Iterable[Any], device: torch.device) -> Iterator[Fed]:
    """Each batch as (args, kwargs, target), its tensors on `device`."""
    for batch in batches:
        yield move(unpack(batch), device)


def move(value: Any, device: torch.device) -> Any:
    """The same nested structure with every tensor on `device`."""
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), value)


def epoch_batches(data: Any, epoch: int) -> Iterable[Any]:
    """The batches of one epoch; a data object that can be walked only once is refused."""
    if hasattr(data, "epoch"):
        return data.epoch(epoch)
    sampler = getattr(data, "sampler", None)
    if sampler is not None and hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    if isinstance(data, Iterator):
        raise InputError(
            "the data is an iterator that can be walked only once; give a list or a loader that starts "
            "afresh each time"
        )
    return data


def count_batches(data: Any) -> int:
    """Batches per epoch: `len(data)`, or by walking epoch 0 once."""
    try:
        count = len(data)
    except TypeError:
        count = sum(1 for _ in epoch_batches(data, 0))
    if count == 0:
        raise InputError("the data is empty: training needs at least one batch")
    return count


def generator_of(data: Any) -> torch.Generator | None:
    """The random generator that a loader draws its order from, if it has one of its own."""
    for owner in (data, getattr(data, "sampler", None)):
        found = getattr(owner, "generator", None)
        if isinstance(found, torch.Generator):
            return found
    return None
