"""A finite run of batches that says what it is, can be read again, and gives the same bits each time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sprig.core.batches import digest, map_tensors, tensors, unpack
from sprig.core.errors import InputError

HOLD_BYTES = 2**30  # calibration data up to this size is read once and kept

Fold = tuple[int, int]


class Source(Protocol):
    """Numbered samples, each of which can be seen in several views."""

    description: str
    labelled: bool

    def __len__(self) -> int: ...

    def read(self, items: Sequence[tuple[int, int]], *, seed: int) -> Tensor | dict[str, Tensor]:
        """The samples `(index, view)` stacked, one tensor or several by name. View 0 is plain; any other is
        random, but always the same for the same (seed, view, index), whatever else is in the batch."""

    def targets(self, indices: Sequence[int]) -> Tensor:
        """The class numbers of these samples."""


@dataclass(eq=False)
class Batches:
    """Batches of one epoch; iterate as often as needed.

    >>> ones = Batches(lambda epoch: [torch.full((2, 1), float(epoch))], 1, 2, "a constant")
    >>> [float(b.sum()) for b in ones], [float(b.sum()) for b in ones.epoch(3)]
    ([0.0], [6.0])
    """

    make: Callable[[int], Iterable[Any]]  # epoch → batches
    length: int
    samples: int
    description: str
    labelled: bool = False
    hold: bool = False
    number: int = 0  # of the epoch
    classes: int | None = None  # how many the labels tell apart, where the data says
    views: int = 1  # so many samples in a row are one sample seen in different ways
    _held: list[Any] = field(default_factory=list, repr=False)

    def __iter__(self) -> Iterator[Any]:
        if not self.hold:
            yield from self.make(self.number)
            return
        if not self._held:
            self._held = list(self.make(self.number))
        for batch in self._held:  # copies: a model that works in place must not spoil the next pass
            yield map_tensors(batch, torch.clone)

    def __len__(self) -> int:
        return self.length

    def epoch(self, number: int) -> "Batches":
        """The same samples as epoch `number` sees them: in another order and in other random views."""
        return replace(self, number=number, _held=[])

    def digest(self) -> str:
        """sha256 over the bytes of everything that one pass gives."""
        return digest(unpack(batch) for batch in self)


def random_seed(*parts: int) -> int:
    """One well-mixed seed from several numbers: the same on every machine and in every version."""
    text = "/".join(str(int(p)) for p in parts)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def check_fold(fold: Fold | str | None) -> Fold | None:
    """A fold `(i, n)` or "i/n": the samples whose number is i modulo n.

    >>> check_fold("0/2")
    (0, 2)
    """
    if fold is None:
        return None
    try:
        part, parts = (int(p) for p in (fold.split("/") if isinstance(fold, str) else fold))
    except (TypeError, ValueError):
        part, parts = -1, 0
    if not 0 <= part < parts:
        raise InputError(f"fold {fold!r}: expected i/n with 0 <= i < n, for example 0/2 and 1/2")
    return part, parts


def choose(
    total: int, *, fold: Fold | None, limit: int | None, shuffle: int | None
) -> np.ndarray[Any, Any]:
    """Which samples, in which order. `shuffle` is a seed, or None to keep the order.

    Kept in order, `limit` takes evenly spaced samples, since files are usually sorted by class.

    >>> choose(10, fold=(1, 2), limit=None, shuffle=None)
    array([1, 3, 5, 7, 9])
    >>> choose(10, fold=None, limit=3, shuffle=None)
    array([0, 3, 6])
    """
    chosen = np.arange(total)
    if fold is not None:
        chosen = chosen[fold[0] :: fold[1]]
    if shuffle is not None:
        chosen = np.random.RandomState(random_seed(shuffle, 0) % 2**32).permutation(chosen)
    if limit is not None and limit < len(chosen):
        spaced = np.arange(limit) * len(chosen) // limit
        chosen = chosen[:limit] if shuffle is not None else chosen[spaced]
    return chosen


def batches_of(
    source: Source,
    *,
    split: str,
    batch_size: int,
    limit: int | None = None,
    views: int = 1,
    seed: int = 0,
    fold: Fold | None = None,
    hold: bool | None = None,
) -> Batches:
    """Batches of a source. Training sees random views in a new order every epoch and drops a last batch
    that is not full; calibration sees view 0 and `views - 1` random ones; testing sees view 0, in order.
    """
    training = split == "train"
    chosen = choose(len(source), fold=fold, limit=limit, shuffle=None if split == "test" else seed)
    if not len(chosen):
        raise InputError(
            f"{source.description}: nothing is left of {len(source)} samples in this fold"
        )
    samples = len(chosen) * (1 if training else views)
    if training and samples > batch_size:
        samples -= samples % batch_size

    def make(epoch: int) -> Iterator[Any]:
        if training:
            order = np.random.RandomState(random_seed(seed, 1, epoch) % 2**32).permutation(chosen)
            items = [(int(i), 1 + epoch) for i in order]
        else:
            items = [(int(i), view) for i in chosen for view in range(views)]
        for start in range(0, samples, batch_size):
            part = items[start : min(start + batch_size, samples)]
            inputs = source.read(part, seed=seed)
            yield (inputs, source.targets([i for i, _ in part])) if source.labelled else inputs

    if hold is None:
        probe = source.read([(int(chosen[0]), 0)], seed=seed)
        size = sum(t.nbytes for t in tensors(probe))
        hold = split == "calibration" and size * samples <= HOLD_BYTES
    words = [source.description, f"{split} split", f"{len(chosen)} of {len(source)} samples"]
    if fold is not None:
        words.append(f"fold {fold[0]}/{fold[1]}")
    if views > 1:
        words.append(f"{views} views each")
    words += [f"batches of {batch_size}", f"seed {seed}"]
    return Batches(
        make,
        length=-(-samples // batch_size),
        samples=samples,
        description=", ".join(words),
        labelled=source.labelled,
        hold=hold,
        classes=getattr(source, "classes", None),
        views=1 if training else views,
    )
