"""Batches recut to one size: what a replay runs. A chunk is cut when it is asked for, so nothing is held twice."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sprig.core.batches import Triple, count
from sprig.core.errors import InputError


class Chunk(Protocol):
    """One batch of exactly the replay's size; only the first `rows` samples count."""

    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...
    @property
    def target(self) -> Tensor | None: ...
    @property
    def rows(self) -> int: ...
    @property
    def number(self) -> int:
        """Among the chunks of all data."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A chunk in memory of its own."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rows: int
    target: Tensor | None = None
    number: int = 0


def chunks(triples: Iterable[Triple], size: int) -> list[Chunk]:
    """Recut batches to one size. The last one is filled up with samples from the start, which do not count.

    The batches are kept as they are; every look at a chunk's inputs makes them anew, with the same bits.

    >>> [c.args[0].flatten().tolist() for c in chunks([((torch.arange(5.0)[:, None],), {}, None)], 2)]
    [[0.0, 1.0], [2.0, 3.0], [4.0, 0.0]]
    """
    pile = Pile(triples)
    size = min(size, pile.total)
    return [Cut(pile, number, size) for number in range(-(-pile.total // size))]


class Pile:
    """Batches end to end, as one long row of samples."""

    def __init__(self, triples: Iterable[Triple]) -> None:
        found = list(triples)
        names = list(found[0][1])
        for _, kwargs, _ in found:
            if set(kwargs) != set(names):
                raise InputError(
                    f"a batch names the inputs {sorted(kwargs)}, the first one {sorted(names)}"
                )
        counts = [count(triple) for triple in found]
        *self.starts, self.total = accumulate(counts, initial=0)
        targets = [target for _, _, target in found]
        self.args = Columns([args for args, _, _ in found], counts)
        self.kwargs = Columns([{n: kwargs[n] for n in names} for _, kwargs, _ in found], counts)
        self.target = Columns(targets, counts)
        self.labelled = all(isinstance(t, Tensor) for t in targets) and self.target.kinds != [None]

    def cut(self, columns: "Columns", start: int, many: int) -> Any:
        """So many samples from number `start` on, past the end those from the beginning again."""
        leaves = [
            batches[0] if kind is None else self._cut(batches, start, many).to(kind)
            for batches, kind in zip(columns.leaves, columns.kinds, strict=True)
        ]
        return pytree.tree_unflatten(leaves, columns.spec)

    def picked(self, columns: "Columns", order: Sequence[int]) -> Any:
        """The samples of these numbers."""
        leaves = [
            batches[0]
            if kind is None
            else torch.cat([self._one(batches, n) for n in order]).to(kind)
            for batches, kind in zip(columns.leaves, columns.kinds, strict=True)
        ]
        return pytree.tree_unflatten(leaves, columns.spec)

    def _one(self, batches: Sequence[Tensor], number: int) -> Tensor:
        batch = bisect_right(self.starts, number) - 1
        return batches[batch][number - self.starts[batch] :][:1]

    def _cut(self, batches: Sequence[Tensor], start: int, many: int) -> Tensor:
        parts: list[Tensor] = []
        left = many
        while left > 0:
            batch = bisect_right(self.starts, start) - 1
            begin = start - self.starts[batch]
            parts.append(batches[batch][begin : begin + left])
            left -= len(parts[-1])
            start = (start + len(parts[-1])) % self.total
        return torch.cat(parts)[torch.arange(many)]


class Columns:
    """The leaves of all batches by their place."""

    def __init__(self, values: Sequence[Any], counts: Sequence[int]) -> None:
        flat = [pytree.tree_flatten(value) for value in values]
        self.spec = flat[0][1]
        self.leaves = [[leaves[i] for leaves, _ in flat] for i in range(len(flat[0][0]))]
        self.kinds = [kind_of(batches, counts) for batches in self.leaves]


def kind_of(batches: Sequence[Any], counts: Sequence[int]) -> torch.dtype | None:
    """The common type of one leaf of all batches; None where it has no row per sample."""
    rows = all(
        isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == n
        for t, n in zip(batches, counts, strict=True)
    )
    return reduce(torch.promote_types, (t.dtype for t in batches)) if rows else None


@dataclass(frozen=True, eq=False)
class Cut:
    """A chunk that is cut from the pile whenever it is looked at; it holds nothing itself."""

    pile: Pile
    number: int
    size: int

    @property
    def rows(self) -> int:
        return min(self.size, self.pile.total - self.number * self.size)

    @property
    def args(self) -> tuple[Any, ...]:
        return tuple(self.pile.cut(self.pile.args, self.number * self.size, self.size))

    @property
    def kwargs(self) -> Mapping[str, Any]:
        return dict(self.pile.cut(self.pile.kwargs, self.number * self.size, self.size))

    @property
    def target(self) -> Tensor | None:
        if not self.pile.labelled:
            return None
        found: Tensor = self.pile.cut(self.pile.target, self.number * self.size, self.rows)
        return found
