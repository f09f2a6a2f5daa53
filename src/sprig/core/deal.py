"""Calibration data dealt to processes: each holds its own chunks only, cut as one process alone would cut them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sprig.core.batches import Triple, Triples, count, tensors
from sprig.core.chunks import Chunk, Kept, chunks, kind_of
from sprig.core.errors import InputError
from sprig.core.ranks import Ranks

MEMORY = 1.5e9  # bytes of calibration inputs and activations that one chunk may hold
STRETCH = 4  # by how much the views of one thing may exceed that
COMFORT = 16  # samples of a chunk, but for views of one thing
EVERY = 4  # every so many chunks one judges what the others suggest


@dataclass(frozen=True, eq=False)
class Dealt:
    """The chunks of one process, and what all processes know of all chunks."""

    chunks: list[Chunk]
    first: Chunk  # number 0, which says how chunks look
    samples: int
    pieces: int


def chunk_size(total: int, first: Triple, views: int = 1) -> int:
    """Samples per chunk: what fits, evened out over the data so that little is filled up. The views of one thing are
    not torn apart, so that no chunk judges what was fitted on other views of the same.

    >>> first = ((torch.zeros(8, 3),), {}, None)
    >>> chunk_size(100, first), chunk_size(5, first), chunk_size(100, first, views=6), chunk_size(100, first, views=20)
    (15, 1, 12, 20)
    """
    fit, each = fitting(first, views)
    things = -(-total // each)
    pieces = max(-(-things // fit), min(EVERY, things))  # four at least: one judges the others
    many = -(-things // pieces)
    if -(-things // many) < min(EVERY, things):
        many = things // EVERY
    return min(many * each, total)


def fitting(first: Triple, views: int = 1) -> tuple[int, int]:
    """How many things a chunk may hold, and how many samples each is.

    Raises:
        InputError: not even the views of one thing fit, with `STRETCH` times the memory.
    """
    tensor = next(t for t in tensors((first[0], first[1])) if t.dim())
    per_sample = 12 * tensor[:1].numel() * tensor.element_size()
    most = int(max(1, MEMORY // max(per_sample * 8, 1)))
    if views > STRETCH * most:
        raise InputError(
            f"{views} views of each sample are to be worked on together, and inputs of {tuple(tensor.shape[1:])} are "
            f"too large for more than {STRETCH * most} at a time; give fewer views or smaller inputs"
        )
    return max(1, min(COMFORT, most) // views), views


def settled(first: Triple, views: int = 1) -> int:
    """With more samples than this, chunks are as large as they may be, however many samples there are.

    >>> first = ((torch.zeros(8, 3),), {}, None)
    >>> settled(first), chunk_size(225, first), {chunk_size(n, first) for n in range(226, 2000)}
    (225, 15, {16})
    >>> settled(first, 5), {chunk_size(n, first, 5) for n in range(46, 2000)}
    (45, {15})
    """
    fit, each = fitting(first, views)
    return each * max((fit - 1) ** 2, (EVERY - 1) * fit)


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
    """Read the data once and keep this process's chunks. Every process must be given the same data.

    What is in memory already is not copied: its chunks are cut when they are looked at.
    """
    held: list[Triple] | None = [] if isinstance(triples, Triples) and triples.held else None
    views = triples.views if isinstance(triples, Triples) else 1
    share: Share | None = None
    for triple in triples:
        if check is not None:
            check(triple)
        share = share or Share(triple, ranks, views)
        share.see(triple)
        if held is None:
            share.take(triple)
        else:
            held.append(triple)
    if share is None:
        raise InputError("the data is empty; expected at least one batch")
    told = [int(n) for n in ranks.gather(share.total)]
    if len(set(told)) > 1:
        raise InputError(
            f"the processes were given {', '.join(map(str, told))} samples; give all the same data, they share it out "
            "themselves"
        )
    if held is None:
        return share.dealt()
    cuts = chunks(held, chunk_size(share.total, share.first, views))
    own = [c for c in cuts if owner(c.number, ranks.size) == ranks.rank]
    return Dealt(own, cuts[0], share.total, len(cuts))


class Share:
    """One process's part of batches that come one after the other. Until the size of a chunk is settled all are kept,
    a few hundred samples at most; from then on what others need is let go."""

    def __init__(self, first: Triple, ranks: Ranks, views: int = 1) -> None:
        self.first, self.ranks, self.views = first, ranks, views
        self.leaves, self.spec = pytree.tree_flatten(first)
        self.kinds: list[torch.dtype | None] = self._kinds(first)
        self.total = 0
        self.waiting: list[Triple] = []
        self.cut = 0  # samples that no longer wait
        self.parts: dict[int, list[list[Any]]] = {}  # leaves, by chunk

    def see(self, triple: Triple) -> None:
        """Count a batch, and what of it has a row per sample."""
        self.total += count(triple)
        self.kinds = [
            None if old is None or new is None else torch.promote_types(old, new)
            for old, new in zip(self.kinds, self._kinds(triple), strict=True)
        ]

    def take(self, triple: Triple) -> None:
        self.waiting.append(triple)
        if self.total > settled(self.first, self.views):
            fit, each = fitting(self.first, self.views)
            self._cut(fit * each)

    def dealt(self) -> Dealt:
        """The chunks, once all batches were taken."""
        size = chunk_size(self.total, self.first, self.views)
        self._cut(size)
        pieces = -(-self.total // size)
        head = self._joined(self.parts.pop(0), size)
        begin = self._chunk(0, head, size)
        own = [
            self._chunk(n, self._joined(self.parts.pop(n), size, head), size) if n else begin
            for n in range(pieces)
            if self._mine(n)
        ]
        return Dealt(own, begin, self.total, pieces)

    def _mine(self, number: int) -> bool:
        return owner(number, self.ranks.size) == self.ranks.rank

    def _in_order(self, triple: Triple) -> list[Any]:
        """The leaves of a batch, inputs by name in the order of the first batch."""
        args, kwargs, target = triple
        names = self.first[1]
        if set(kwargs) != set(names):
            raise InputError(
                f"a batch names the inputs {sorted(kwargs)}, the first one {sorted(names)}"
            )
        return pytree.tree_leaves((args, {name: kwargs[name] for name in names}, target))

    def _kinds(self, triple: Triple) -> list[torch.dtype | None]:
        return [kind_of([leaf], [count(triple)]) for leaf in self._in_order(triple)]

    def _cut(self, size: int) -> None:
        """Of the batches that wait, take the samples of own chunks, and of the first, into memory of their own."""
        for triple in self.waiting:
            n, leaves = count(triple), self._in_order(triple)
            for number in range(self.cut // size, (self.cut + n - 1) // size + 1):
                if number and not self._mine(number):
                    continue
                begin = number * size - self.cut
                rows = slice(max(begin, 0), min(begin + size, n))
                self.parts.setdefault(number, []).append(
                    [
                        None if kind is None else leaf[rows].clone()
                        for leaf, kind in zip(leaves, self.kinds, strict=True)
                    ]
                )
            self.cut += n
        self.waiting = []

    def _joined(
        self, parts: list[list[Any]], size: int, head: list[Any] | None = None
    ) -> list[Any]:
        """The leaves of a chunk; `head`: those of the first one, to fill the last one up."""
        parts, order = parts if head is None else [*parts, head], torch.arange(size)
        return [
            self.leaves[i] if kind is None else torch.cat([p[i] for p in parts])[order].to(kind)
            for i, kind in enumerate(self.kinds)
        ]

    def _chunk(self, number: int, leaves: list[Any], size: int) -> Chunk:
        rows = min(size, self.total - number * size)
        args, kwargs, target = pytree.tree_unflatten(leaves, self.spec)
        labelled = isinstance(target, Tensor) and self.kinds[-1] is not None
        return Kept(args, kwargs, rows, target[:rows] if labelled else None, number)
