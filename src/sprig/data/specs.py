"""The spec strings of the command line, as data."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sprig.core.batches import (
    HELD,
    ImageSpec,
    Views,
    count,
    map_tensors,
    tensors,
    unpack,
    views_of,
)
from sprig.core.errors import InputError
from sprig.core.lookup import accepted, find_function
from sprig.data.arrays import digits, fashion_mnist
from sprig.data.batches import HOLD_BYTES, Batches, Fold, Source, batches_of, check_fold
from sprig.data.images import image_folder, torchvision_set
from sprig.data.text import text_of

Split = Literal["train", "test", "calibration"]

KNOWN = {
    "digits[:SIZE]": "scikit-learn's digits, 8x8 or resized",
    "fashion-mnist[:FOLDER]": "Fashion-MNIST from its four .gz files",
    "imagefolder:FOLDER[?unlabelled]": "all images below a folder; its subfolders are the classes",
    "text:FILE[?length=N&tokenizer=FOLDER]": "a text, one sample a line; also text:package:NAME/path/inside",
    "torchvision:NAME:FOLDER": "a data set of torchvision that is in the folder already",
    "module:function": "your function: gives batches or a Dataset; also path/to/file.py:function",
}


def load(
    spec: str,
    *,
    split: Split = "calibration",
    batch_size: int = 64,
    image: ImageSpec | None = None,
    limit: int | None = None,
    views: int = 1,
    seed: int = 0,
    fold: Fold | str | None = None,
    labels: bool | None = None,
    hold: bool | None = None,
    tokenizer: str | None = None,
) -> Batches:
    """The batches that a data spec names.

    `calibration` is the training part without random order between passes: the plain view of each sample
    and `views - 1` random ones. `limit` counts samples, not views. `fold` keeps every n-th sample, so that
    "0/2" and "1/2" are complementary halves of one folder. `image` is what the model wants (see
    `sprig.models.specs.image_spec`); what it leaves open is the data's own.
    `tokenizer` is the folder of the model's own, for text.
    Raises InputError for unknown specs and for data that is missing, empty or damaged.

    >>> batches = load("digits", split="test", batch_size=100)
    >>> len(batches), batches.samples, [tuple(x.shape) for x, y in batches][-1]
    (4, 360, (60, 1, 8, 8))
    """
    if split not in ("train", "test", "calibration"):
        raise InputError(f"split {split!r}: expected train, test or calibration")
    for name, number in (("batch_size", batch_size), ("limit", limit), ("views", views)):
        if number is not None and number < 1:
            raise InputError(f"{name} is {number}, expected at least 1")
    part = check_fold(fold)
    head, _, rest = spec.partition(":")
    if head == "digits":
        source: Source = digits(split, size=_size(rest), image=image)
    elif head == "fashion-mnist":
        source = fashion_mnist(split, root=rest or None, image=image)
    elif head == "imagefolder" and rest:
        root, _, option = rest.partition("?")
        if option not in ("", "unlabelled"):
            raise InputError(f"{spec}: unknown option {option!r}, expected ?unlabelled")
        wanted = False if option == "unlabelled" else labels
        source = image_folder(root, split, image=image, labels=wanted)
    elif head == "torchvision" and ":" in rest:
        name, _, root = rest.partition(":")
        source = torchvision_set(name, root, split, image=image, labels=labels)
    elif head == "text" and rest:
        source = text_of(rest, tokenizer=tokenizer)
    elif ":" in spec and head not in ("imagefolder", "torchvision", "text"):
        return _of_function(
            spec,
            split,
            batch_size=batch_size,
            limit=limit,
            views=views,
            seed=seed,
            fold=part,
            hold=hold,
        )
    else:
        raise InputError(f"unknown data {spec!r}; known are {', '.join(KNOWN)}")
    return batches_of(
        source,
        split=split,
        batch_size=batch_size,
        limit=limit,
        views=views,
        seed=seed,
        fold=part,
        hold=hold,
    )


def _size(text: str) -> int | None:
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"digits:{text}: expected digits or digits:SIZE with a side in pixels")
    return int(text)


def _of_function(
    spec: str,
    split: str,
    *,
    batch_size: int,
    limit: int | None,
    views: int,
    seed: int,
    fold: Fold | None,
    hold: bool | None,
) -> Batches:
    """The user's function is given those of our options that it has a keyword for; we do the rest."""
    function = find_function(spec)
    options = {
        "split": split,
        "batch_size": batch_size,
        "limit": limit,
        "views": views,
        "seed": seed,
    }
    options["fold"] = fold
    passed = accepted(function, options)
    if views > 1 and "views" not in passed:
        raise InputError(f"{spec} takes no `views`, so more than one view per sample cannot be had")
    made = function(**passed)
    own = views_of(made)
    views = own if own > 1 else views
    if isinstance(made, Views):
        made = made.batches
    if isinstance(made, Dataset) and not isinstance(made, IterableDataset):
        made = DataLoader(made, batch_size=batch_size)
    if not isinstance(made, Iterable) or isinstance(made, torch.Tensor):
        raise InputError(f"{spec} gave a {type(made).__name__}, expected batches or a Dataset")
    rest_fold = None if "fold" in passed else fold
    rest_limit = None if "limit" in passed or limit is None else limit * views

    def read(_epoch: int = 0) -> Iterator[Any]:
        return _part(made, fold=rest_fold, limit=rest_limit, views=views)

    once = iter(made) is made
    keep = once or (hold is not False and split != "train")
    held: list[Any] = []
    length = samples = size = 0
    labelled = more = False
    for batch in read():
        triple = unpack(batch)
        length, samples = length + 1, samples + count(triple)
        size += sum(t.nbytes for t in tensors(triple))
        labelled = triple[2] is not None
        keep = keep and (once or hold is True or size <= HOLD_BYTES)
        if once and held and size > HELD:
            length, samples, more = length - 1, samples - count(triple), True
            break
        if keep:
            held.append(batch)
        else:
            held.clear()
    if not samples:
        raise InputError(f"{spec} gave no sample for the {split} split")
    words = [spec, f"{split} split", f"{samples} samples", f"seed {seed}"]
    if fold is not None:
        words.append(f"fold {fold[0]}/{fold[1]}")
    if more:
        words.append(f"as many as fit into {HELD:.3g} bytes")
    return Batches(
        (lambda epoch: held) if keep else read,
        length=length,
        samples=samples,
        description=", ".join(words),
        labelled=labelled,
        hold=keep,
        views=1 if split == "train" else views,
    )


def _part(
    batches: Iterable[Any], *, fold: Fold | None, limit: int | None, views: int = 1
) -> Iterator[Any]:
    """The samples of a fold, counted through all batches, until there are `limit` of them; `views` of one sample follow
    each other and share its number."""
    seen = given = 0
    for batch in batches:
        size = count(unpack(batch))
        index = torch.arange(size)
        if fold is not None:
            index = index[(index + seen) // views % fold[1] == fold[0]]
        if limit is not None:
            index = index[: limit - given]
        seen, given = seen + size, given + len(index)
        if len(index) == size:
            yield batch
        elif len(index):
            yield map_tensors(batch, partial(_rows, index=index))
        if limit is not None and given >= limit:
            return


def _rows(tensor: torch.Tensor, *, index: torch.Tensor) -> torch.Tensor:
    return tensor[index.to(tensor.device)]
