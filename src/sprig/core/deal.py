"""Calibration data dealt to processes: each holds its own chunks only, cut as one process alone would cut them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from sprig.core.batches import Triple, count, tensors
from sprig.core.errors import InputError
from sprig.core.ranks import Ranks
from sprig.core.replay import Chunk, chunks

MEMORY = 1.5e9  # bytes of calibration inputs and activations that one chunk may hold
EVERY = 4  # every so many chunks one judges what the others suggest


@dataclass(frozen=True, eq=False)
class Dealt:
    """The chunks of one process, and what all processes know of all chunks."""

    chunks: list[Chunk]
    first: Chunk  # number 0, which says how chunks look
    samples: int
    pieces: int


def chunk_size(total: int, first: Triple) -> int:
    """Samples per chunk: what fits, evened out over the data so that little is filled up.

    >>> import torch
    >>> chunk_size(100, ((torch.zeros(8, 3),), {}, None))
    15
    """
    tensor = next(t for t in tensors((first[0], first[1])) if t.dim())
    per_sample = 12 * tensor[:1].numel() * tensor.element_size()
    fit = int(max(1, min(16, MEMORY // max(per_sample * 8, 1))))
    pieces = max(-(-total // fit), min(EVERY, total))  # four at least: one judges the others
    return -(-total // pieces)


def judges(chunk: int) -> bool:
    """Whether a chunk belongs to the part that judges what the others suggest.

    >>> [judges(i) for i in range(5)]
    [False, False, False, True, False]
    """
    return chunk % EVERY == EVERY - 1


def owner(number: int, size: int) -> int:
    """The process that has a chunk: judges and others are dealt apart, so that everybody gets his part of both.

    >>> [owner(n, 2) for n in range(8)]
    [0, 1, 0, 1, 1, 0, 1, 0]
    """
    if judges(number):
        return (size - 1 - number // EVERY) % size
    return (number - number // EVERY) % size


def deal(
    triples: Iterable[Triple], ranks: Ranks, check: Callable[[Triple], Any] | None = None
) -> Dealt:
    """Read the data and keep this process's chunks. Every process must be given the same data.

    Twice it is read: once to count, once to keep. What comes only once has been read into memory before.
    """
    first: Triple | None = None
    total, kinds = 0, list[bool]()
    for triple in triples:
        if check is not None:
            check(triple)
        n, leaves = count(triple), pytree.tree_leaves(triple)
        here = [isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == n for t in leaves]
        first = triple if first is None else first
        kinds = here if not kinds else [a and b for a, b in zip(kinds, here, strict=True)]
        total += n
    if first is None:
        raise InputError("the data is empty; expected at least one batch")
    told = [int(n) for n in ranks.gather(total)]
    if len(set(told)) > 1:
        raise InputError(
            f"the processes were given {', '.join(map(str, told))} samples; give all the same data, they share it out "
            "themselves"
        )
    size = chunk_size(total, first)
    pieces = -(-total // size)
    own = [n for n in range(pieces) if owner(n, ranks.size) == ranks.rank]
    cut = _cut(triples, kinds, size, total, {0, *own})
    return Dealt([cut[n] for n in own], cut[0], total, pieces)


def _cut(
    triples: Iterable[Triple], kinds: list[bool], size: int, total: int, wanted: set[int]
) -> dict[int, Chunk]:
    """Some of the chunks; the last one is filled up with samples from the start."""
    found: dict[int, list[Triple]] = {number: [] for number in wanted}
    start = 0
    again: list[Triple] = []  # from the start, to fill the last one up
    missing = -total % size
    for triple in triples:
        n = count(triple)
        for number in range(start // size, (start + n - 1) // size + 1):
            if number in found:
                found[number].append(_part(triple, kinds, number * size - start, size, n))
        if start < missing:
            again.append(_part(triple, kinds, 0, missing - start, n))
        start += n
    out = {}
    for number, parts in found.items():
        rows = min(size, total - number * size)
        (whole,) = chunks(parts + (again if rows < size else []), size)
        target = None if whole.target is None else whole.target[:rows]
        out[number] = replace(whole, rows=rows, target=target, number=number)
    return out


def _part(triple: Triple, kinds: list[bool], begin: int, many: int, n: int) -> Triple:
    """Samples `begin` to `begin + many` of a batch, those of them that it has, in memory of their own."""
    a, b = max(begin, 0), min(begin + many, n)
    leaves, spec = pytree.tree_flatten(triple)
    marks: Iterator[bool] = iter(kinds)
    cut = [t[a:b].clone() if next(marks) else t for t in leaves]
    found: Triple = pytree.tree_unflatten(cut, spec)
    return found
