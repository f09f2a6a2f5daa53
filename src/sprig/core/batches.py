"""What the user's `data=` may be, and how it becomes calls of the model.

A batch is a tensor, an `(input, target)` pair, or a dict of keyword arguments. An input may itself
be a tuple (several positional arguments) or a dict. The first dimension of a tensor counts samples.

Reading twice must give the same batches, since a layer's target comes from one pass and its input
from another. Hence one rule: **what can be read only once, comes in another order each time, or does
not know its length (an iterator, a generator, an IterableDataset, a DataLoader that shuffles), is read
once and held in memory; all else can be read anew.** What a search goes through again and again is held
either way. No more than `HELD` bytes are, and a stream may have no end: reading stops with the batch that
would go beyond, and the description says so. A list is the caller's memory: it is taken whole, not copied.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from sprig.core.errors import InputError
from sprig.core.example import leading

HELD = 2e9  # bytes of inputs and targets that a process holds
TARGETS = ("target", "targets", "label", "labels")  # keys of a dict that the model is not given

T = TypeVar("T")
Triple = tuple[tuple[Any, ...], dict[str, Any], Any]  # args, kwargs, target or None


@dataclass(frozen=True)
class ImageSpec:
    """How a model wants its images; None: the model does not say, and the data's own way is used.

    `mean` and `std` are on the scale on which white is 1. `crop_pct` is the share of the resized
    image's side that the centre crop keeps.
    """

    size: tuple[int, int] | None = None  # height, width
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    channels: int | None = None

    def fill(self, other: "ImageSpec") -> "ImageSpec":
        """This spec, with what it leaves open taken from `other`.

        >>> ImageSpec(size=(32, 32)).fill(ImageSpec(size=(28, 28), channels=1)).channels
        1
        """
        names = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(other, name) for name in names})


def unpack(batch: Any) -> Triple:
    """Split one batch into positional arguments, keyword arguments and target.

    >>> x, y = torch.zeros(2, 3), torch.ones(2)
    >>> args, kwargs, target = unpack((x, y))
    >>> len(args), kwargs, target is y
    (1, {}, True)
    >>> args, kwargs, target = unpack({"input_ids": x, "labels": y})
    >>> args, list(kwargs), target is y
    ((), ['input_ids'], True)
    """
    if isinstance(batch, Tensor):
        return (batch,), {}, None
    if isinstance(batch, Mapping):
        return (), *_named(batch)
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        inputs, target = batch[0], batch[1] if len(batch) == 2 else None
        if isinstance(inputs, Tensor):
            return (inputs,), {}, target
        if isinstance(inputs, Mapping):
            kwargs, inner = _named(inputs)
            return (), kwargs, inner if target is None else target
        if isinstance(inputs, (tuple, list)) and all(isinstance(i, Tensor) for i in inputs):
            return tuple(inputs), {}, target
    what = f"{type(batch).__name__}"
    if isinstance(batch, (tuple, list)):
        what += f" of {len(batch)} ({', '.join(type(b).__name__ for b in batch[:4])})"
    raise InputError(
        f"a batch is a {what}; expected a tensor, an (input, target) pair or a dict "
        "(several inputs: ((first, second), target))"
    )


def _named(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    target = next((batch[key] for key in TARGETS if key in batch), None)
    return {str(k): v for k, v in batch.items() if k not in TARGETS}, target


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors(inner)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples, lists and dicts with `change` applied to every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(inner, change) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(inner, change) for inner in value)
    return value


def count(triple: Triple) -> int:
    """How many samples the batch holds, see `example.leading`."""
    found = list(tensors((triple[0], triple[1])))
    if not found:
        raise InputError("a batch holds no tensor; expected at least one input tensor")
    return leading(found)


def check_finite(triple: Triple, *, where: str = "the data") -> None:
    """Refuse inputs with NaN or infinity."""
    for tensor in tensors((triple[0], triple[1])):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{where} holds {bad} values that are NaN or infinite (of {tensor.numel()}); "
                "expected finite inputs: check how they are read and normalised"
            )


@dataclass(eq=False)
class Triples:
    """The user's data as `(args, kwargs, target)`, read as often as needed; see `as_batches`."""

    source: Iterable[Any]
    description: str
    memory: float = HELD  # bytes of it that a process may hold
    once: bool = False  # can be read only once, and is not held
    part: bool = False  # there was more than may be held
    views: int = 1  # so many samples in a row are one thing seen in different ways

    @property
    def held(self) -> bool:
        """Whether the batches are in memory already."""
        return isinstance(self.source, (list, tuple))

    def within(self, memory: float, read: Callable[["Triples"], T]) -> tuple[T, "Triples"]:
        """What one pass makes of the batches that fit into so many bytes, and these batches, which say so if that is
        not all. What is in memory already is given whole."""
        if self.held:
            return read(self), self
        part = Fitting(self.source, memory)
        found = read(replace(self, source=part))
        return found, self if part.many is None else part.named(self)

    def __iter__(self) -> Iterator[Triple]:
        empty = True
        for number, batch in enumerate(self.source):
            triple = unpack(batch)
            count(triple)
            check_finite(triple, where=f"batch {number} of the data")
            empty = False
            yield triple
        if empty:
            raise InputError("the data is empty; expected at least one batch")

    def __len__(self) -> int:
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return sum(1 for _ in self.source)

    def digest(self) -> str:
        """sha256 of every input and target, in order."""
        return digest(self)


@dataclass(eq=False)
class Fitting:
    """The batches that fit into so many bytes; the first one always does."""

    source: Iterable[Any]
    memory: float
    many: int | None = None  # batches, where a pass has seen that they are not all

    @property
    def classes(self) -> int | None:
        """How many the labels tell apart, where the data says."""
        return getattr(self.source, "classes", None)

    def __iter__(self) -> Iterator[Any]:
        size = 0
        for number, batch in enumerate(self.source):
            size += sum(t.nbytes for t in tensors(batch))
            if number and size > self.memory:
                self.many = number
                return
            yield batch

    def __len__(self) -> int:
        return len(self.source) if self.many is None else self.many  # type: ignore[arg-type]

    def named(self, whole: Triples) -> Triples:
        """These batches as a part of what they are the first ones of."""
        what = f"{whole.description}, its first {self.many} batches (no more than {self.memory:.3g} bytes are held)"
        return Triples(self, what, part=True, views=whole.views)


@dataclass(frozen=True, eq=False)
class Views:
    """Batches in which each `each` samples in a row are views of one thing: crops of one picture, frames of one
    film, sentences of one text. What judges a fit is then never a view of what it was fitted on.

    >>> triples = as_batches(Views([torch.ones(6, 2)], 3))
    >>> triples.views, len(triples)
    (3, 1)
    """

    batches: Any
    each: int

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def as_batches(
    data: Any, *, hold: bool | None = None, description: str | None = None, memory: float = HELD
) -> Triples:
    """Take the user's `data=`: any iterable of batches.

    `hold` True reads it once into memory, False never does, None follows this file's rule. `memory`: bytes that a
    process holds at most; the first batch always is.

    >>> ones = (torch.ones(2, 3) for _ in range(2))
    >>> triples = as_batches(ones)
    >>> len(triples), [count(t) for t in triples], [count(t) for t in triples]
    (2, [2, 2], [2, 2])
    """
    if isinstance(data, Triples):
        return data
    if isinstance(data, Views):
        found = as_batches(data.batches, hold=hold, description=description, memory=memory)
        return replace(found, views=views_of(data))
    if isinstance(data, (Tensor, Mapping)):  # one batch, not an iterable of rows or of keys
        data = [data]
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InputError(
            f"data is a {type(data).__name__}, which gives single samples; "
            "wrap it: torch.utils.data.DataLoader(dataset, batch_size=64)"
        )
    if _looks_like_one_pair(data):
        raise InputError(
            "data is one (input, target) pair; expected batches: wrap it as [(input, target)]"
        )
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}; expected an iterable of batches, "
            "for example a list of tensors or a DataLoader"
        )
    name = description or getattr(data, "description", None) or f"user's {type(data).__name__}"
    fleeting, views = _fleeting(data), views_of(data)
    if hold or (hold is None and fleeting):
        part = Fitting(data, memory)
        held = list(part)
        whole = Triples(held, str(name), views=views)
        return whole if part.many is None else replace(part.named(whole), source=held)
    return Triples(data, str(name), memory, once=fleeting, views=views)


def views_of(data: Any) -> int:
    """How many samples in a row are one thing, as data says itself; an attribute that is no number says nothing."""
    said = data.each if isinstance(data, Views) else getattr(data, "views", 1)
    if not isinstance(data, Views) and (isinstance(said, bool) or not isinstance(said, Integral)):
        return 1
    return _views(said, data.batches if isinstance(data, Views) else data)


def _views(number: Any, data: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < 1:
        raise InputError(f"{number!r} views of each sample; expected a whole number, 1 or more")
    if int(number) > 1 and isinstance(data, DataLoader):
        for order in (data.sampler, getattr(data.batch_sampler, "sampler", None)):
            if isinstance(order, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)):
                raise InputError(
                    "the DataLoader shuffles, so views of one thing do not follow each other; set shuffle=False"
                )
    return int(number)


def digest(batches: Iterable[Triple]) -> str:
    """sha256 over kind, shape and bytes of every tensor of one pass."""
    total = hashlib.sha256()
    for triple in batches:
        for tensor in tensors(triple):
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _fleeting(data: Iterable[Any]) -> bool:
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return True
        return not (isinstance(data.sampler, SequentialSampler) or data.batch_sampler is None)
    return isinstance(data, IterableDataset) or not hasattr(data, "__len__") or iter(data) is data


def _looks_like_one_pair(data: Any) -> bool:
    if not (isinstance(data, tuple) and len(data) == 2):
        return False
    first, second = data
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return False
    return first.ndim > 1 and second.ndim <= 1 and not second.is_floating_point()
