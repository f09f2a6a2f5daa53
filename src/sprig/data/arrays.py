"""Small images that fit in memory: scikit-learn's digits and Fashion-MNIST.

Digits come from the test part of the UCI optical digits, 8x8 pixels of 0 to 16; our split is fixed: the
360 samples that a frozen generator picks are the test part, the other 1,437 train.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError
from sprig.data.batches import random_seed

FASHION_ROOT = "/usr/share/datasets/fashion-mnist"  # where Debian's package installs it
DIGITS_TEST = 360


def shift(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, *, fill: Tensor) -> Tensor:
    """Move each image by (top, left) pixels, mirror it where `flip`, fill what comes in with `fill`.

    `images` (N, C, H, W); `top`, `left`, `flip` (N,); `fill` (C,).

    >>> row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> one, no = torch.tensor([1]), torch.tensor([False])
    >>> shift(row, 0 * one, one, no, fill=torch.zeros(1))
    tensor([[[[0., 1., 2.]]]])
    """
    count, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) - top.to(device)[:, None]
    cols = torch.arange(width, device=device) - left.to(device)[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + cols.clamp(0, width - 1)[:, None]
    index = flat.reshape(count, 1, -1).expand(-1, channels, -1)
    moved = images.reshape(count, channels, -1).gather(2, index).reshape(images.shape)
    blank = fill.to(device, images.dtype)[None, :, None, None]
    moved = torch.where(inside[:, None], moved, blank)
    return torch.where(flip.to(device)[:, None, None, None], moved.flip(3), moved)


def crop_and_flip(
    images: Tensor, generator: torch.Generator, *, pad: int, flip: bool = True, fill: float = 0.0
) -> Tensor:
    """Random crop out of the image padded by `pad` with `fill`, and a mirror image half of the time."""
    count = len(images)
    top = torch.randint(-pad, pad + 1, (count,), generator=generator)
    left = torch.randint(-pad, pad + 1, (count,), generator=generator)
    mirror = (torch.rand(count, generator=generator) < 0.5) & flip
    return shift(images, top, left, mirror, fill=torch.full((images.shape[1],), fill))


class ArraySource:
    """Images of one channel held as bytes; normalised, resized and moved about when read."""

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        *,
        white: int,
        pad: int,
        flip: bool,
        spec: ImageSpec,
    ) -> None:
        assert spec.size is not None and spec.mean is not None and spec.std is not None
        self.labelled = True
        self._images, self._labels, self._white = images, labels, white
        self._pad, self._flip = pad, flip
        self._size, self._channels = spec.size, spec.channels or 1
        self._mean = _per_channel(spec.mean, self._channels, name="mean")
        self._std = _per_channel(spec.std, self._channels, name="std")
        self._mode = spec.interpolation or "bilinear"
        if self._mode not in ("bilinear", "bicubic", "nearest"):
            raise InputError(
                f"interpolation {self._mode!r}: {name} knows bilinear, bicubic and nearest"
            )
        moves = (
            f", random views move by up to {pad} pixels{' and mirror' if flip else ''}"
            if pad
            else ""
        )
        self.description = (
            f"{name} ({self._channels}x{spec.size[0]}x{spec.size[1]}, mean {_short(spec.mean)}, "
            f"std {_short(spec.std)}{moves})"
        )

    def __len__(self) -> int:
        return len(self._images)

    def targets(self, indices: Sequence[int]) -> Tensor:
        return self._labels[torch.as_tensor(indices)]

    def read(self, items: Sequence[tuple[int, int]], *, seed: int) -> Tensor:
        index = torch.tensor([i for i, _ in items])
        view = torch.tensor([v for _, v in items])
        images = self._images[index].to(torch.float32).div_(self._white).unsqueeze(1)
        if self._pad:
            for v in torch.unique(view).tolist():
                if v > 0:
                    here = view == v
                    images[here] = self._moved(images[here], index[here], random_seed(seed, 2, v))
        if tuple(images.shape[2:]) != self._size:
            smooth = {} if self._mode == "nearest" else {"antialias": True, "align_corners": False}
            images = F.interpolate(images, self._size, mode=self._mode, **smooth)
        images = images.expand(-1, self._channels, -1, -1)
        return (images - self._mean[:, None, None]) / self._std[:, None, None]

    def _moved(self, images: Tensor, index: Tensor, seed: int) -> Tensor:
        # Drawn for all samples at once, so that a sample's view does not depend on its batch.
        generator = torch.Generator().manual_seed(seed)
        draws = [
            torch.randint(-self._pad, self._pad + 1, (len(self),), generator=generator)
            for _ in range(2)
        ]
        mirror = (torch.rand(len(self), generator=generator) < 0.5) & self._flip
        return shift(images, draws[0][index], draws[1][index], mirror[index], fill=torch.zeros(1))


def digits(split: str, *, size: int | None = None, image: ImageSpec | None = None) -> ArraySource:
    """scikit-learn's digits, 8x8 or resized to `size`. Random views move by one pixel."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the digits come with scikit-learn, which is not installed: pip install torch-sprig[demo]"
        ) from error
    raw: Any = load_digits()
    pixels, labels = raw.images.astype(np.uint8), raw.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(pixels))
    test, train = np.sort(order[:DIGITS_TEST]), np.sort(order[DIGITS_TEST:])
    scaled = pixels[train] / 16.0
    natural = ImageSpec(
        size=(size or 8,) * 2, mean=(float(scaled.mean()),), std=(float(scaled.std()),), channels=1
    )
    part = test if split == "test" else train
    return ArraySource(
        "digits of scikit-learn",
        torch.from_numpy(pixels[part]),
        torch.from_numpy(labels[part]),
        white=16,
        pad=1 if split == "calibration" else 0,  # so few pixels: moved ones train worse
        flip=False,
        spec=(image or ImageSpec()).fill(natural),
    )


def fashion_mnist(
    split: str, *, root: str | None = None, image: ImageSpec | None = None
) -> ArraySource:
    """Fashion-MNIST from its four files; random views are crops padded by two pixels, and mirrored."""
    folder = Path(root or FASHION_ROOT)
    stem = "t10k" if split == "test" else "train"
    pixels = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz", dims=3)
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", dims=1)
    if len(pixels) != len(labels):
        raise InputError(
            f"{folder}: {len(pixels)} images but {len(labels)} labels of {stem}; get them again"
        )
    # mean and std of the training images, which are the same for every copy of the data
    natural = ImageSpec(size=(28, 28), mean=(0.2860,), std=(0.3530,), channels=1)
    return ArraySource(
        "Fashion-MNIST",
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        white=255,
        pad=2,
        flip=True,
        spec=(image or ImageSpec()).fill(natural),
    )


def _read_idx(path: Path, *, dims: int) -> np.ndarray[Any, Any]:
    """The idx format: two zero bytes, 8 for bytes, the number of dimensions, their sizes, the bytes."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing; install Debian's package dataset-fashion-mnist, or give the folder "
            "that holds the four .gz files: fashion-mnist:FOLDER"
        )
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); get it again") from error
    shape = tuple(np.frombuffer(raw[4 : 4 + 4 * dims], dtype=">u4").tolist())
    wanted = 4 + 4 * dims + math.prod(shape)
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) != wanted:
        raise InputError(
            f"{path} is not an idx file of {dims} dimensions, or is cut short; get it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def _per_channel(values: tuple[float, ...], channels: int, *, name: str) -> Tensor:
    if len(values) not in (1, channels):
        raise InputError(
            f"{name} has {len(values)} numbers for {channels} channels; give 1 or {channels}"
        )
    return torch.tensor(values, dtype=torch.float32).expand(channels)


def _short(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:.4g}" for v in values)
