"""Photographs in files: what is in a folder, and how one becomes a tensor.

The plain view resizes the image to cover the wanted size divided by `crop_pct` and cuts out the centre; a
random view cuts a rectangle of random area, shape and place, resizes it, and mirrors it half of the time.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError
from sprig.data.batches import random_seed

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
NATURAL = ImageSpec(
    size=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    crop_pct=0.875,
    channels=3,
)
MODES = {1: "L", 3: "RGB"}
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("val", "valid", "validation", "test", "testing")
AREA = (0.25, 1.0)  # share of the image that a random view shows in training
CALM = (0.5, 1.0)  # ... and in calibration, which wants inputs like those that will come
SHAPE = (3 / 4, 4 / 3)  # its width by its height

Opener = Callable[[int], Any]  # sample number → PIL image


class ImageSource:
    """Images opened one by one when they are read."""

    def __init__(
        self,
        name: str,
        opener: Opener,
        count: int,
        *,
        labels: Sequence[int] | None,
        image: ImageSpec | None,
        area: tuple[float, float] = AREA,
    ) -> None:
        spec = (image or ImageSpec()).fill(NATURAL)
        assert (
            spec.size is not None and spec.crop_pct is not None and spec.interpolation is not None
        )
        assert spec.mean is not None and spec.std is not None and spec.channels is not None
        if spec.channels not in MODES:
            raise InputError(f"images have 1 or 3 channels, the model wants {spec.channels}")
        if not 0 < spec.crop_pct <= 1:
            raise InputError(f"crop_pct is {spec.crop_pct}, expected a share in (0, 1]")
        self._open, self._count, self._labels = opener, count, labels
        self._size, self._crop, self._channels = spec.size, spec.crop_pct, spec.channels
        self._resample = _resample(spec.interpolation)
        self._mean = _statistic(spec.mean, spec.channels, name="mean")
        self._std = _statistic(spec.std, spec.channels, name="std")
        self.labelled = labels is not None
        self.classes = len(set(labels)) if labels is not None else None
        self._area = area
        numbers = ", ".join(
            f"{k} {'/'.join(f'{v:.4g}' for v in vs)}"
            for k, vs in (("mean", spec.mean), ("std", spec.std))
        )
        self.description = (
            f"{name} ({spec.channels}x{spec.size[0]}x{spec.size[1]} {spec.interpolation}, "
            f"centre crop {spec.crop_pct:.4g}, {numbers}, random views show {area[0]:g} to {area[1]:g} "
            "of the area and mirror)"
        )

    def __len__(self) -> int:
        return self._count

    def targets(self, indices: Sequence[int]) -> Tensor:
        assert self._labels is not None
        return torch.tensor([self._labels[i] for i in indices])

    def read(self, items: Sequence[tuple[int, int]], *, seed: int) -> Tensor:
        stack = torch.stack([self._view(index, view, seed) for index, view in items])
        return (stack - self._mean) / self._std

    def _view(self, index: int, view: int, seed: int) -> Tensor:
        picture = self._open(index).convert(MODES[self._channels])
        if view == 0:
            small = plain_view(picture, self._size, crop_pct=self._crop, resample=self._resample)
        else:
            draw = torch.Generator().manual_seed(random_seed(seed, 3, view, index))
            small = random_view(picture, self._size, draw, resample=self._resample, area=self._area)
        pixels = np.array(small, dtype=np.uint8).reshape(*self._size, self._channels)
        return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div_(255)


def plain_view(picture: Any, size: tuple[int, int], *, crop_pct: float, resample: Any) -> Any:
    """Resize to cover `size / crop_pct`, cut out the centre."""
    height, width = size
    cover_h, cover_w = math.floor(height / crop_pct), math.floor(width / crop_pct)
    old_w, old_h = picture.size
    if cover_w * old_h >= cover_h * old_w:
        new_w, new_h = cover_w, max(cover_h, int(cover_w * old_h / old_w))
    else:
        new_w, new_h = max(cover_w, int(cover_h * old_w / old_h)), cover_h
    picture = picture.resize((new_w, new_h), resample)
    top, left = round((new_h - height) / 2), round((new_w - width) / 2)
    return picture.crop((left, top, left + width, top + height))


def random_view(
    picture: Any,
    size: tuple[int, int],
    draw: torch.Generator,
    *,
    resample: Any,
    area: tuple[float, float] = AREA,
) -> Any:
    """A rectangle of random area, shape and place, resized to `size` and perhaps mirrored."""
    old_w, old_h = picture.size
    for _ in range(10):
        shown = old_w * old_h * (area[0] + (area[1] - area[0]) * _uniform(draw))
        log_low, log_high = math.log(SHAPE[0]), math.log(SHAPE[1])
        shape = math.exp(log_low + (log_high - log_low) * _uniform(draw))
        width, height = round(math.sqrt(shown * shape)), round(math.sqrt(shown / shape))
        if 0 < width <= old_w and 0 < height <= old_h:
            break
    else:  # a very long image: its middle
        width = height = min(old_w, old_h)
    left = int(_uniform(draw) * (old_w - width + 1))
    top = int(_uniform(draw) * (old_h - height + 1))
    box = (left, top, left + width, top + height)
    out = picture.resize((size[1], size[0]), resample, box=box)
    return out.transpose(_pillow().Transpose.FLIP_LEFT_RIGHT) if _uniform(draw) < 0.5 else out


def image_folder(
    root: str, split: str, *, image: ImageSpec | None = None, labels: bool | None = None
) -> ImageSource:
    """All images below `root`. Folders called train and val (or test) are taken as the splits.

    The folders right below are the classes unless images lie beside them; `labels=False` ignores them,
    `labels=True` insists on them.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise InputError(
            f"{root} is not a folder; expected imagefolder:FOLDER with images below it"
        )
    base = _split_folder(top, split)
    files = sorted(
        path.relative_to(base)
        for folder, _, names in os.walk(base)
        for path in (Path(folder) / name for name in names)
        if path.suffix.lower() in SUFFIXES
    )
    if not files:
        raise InputError(
            f"{base} holds no image; expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    nested = all(len(file.parts) > 1 for file in files)
    if labels and not nested:
        raise InputError(
            f"{base} has images outside class folders; expected {base}/CLASS/image.jpg"
        )
    numbers = None
    if nested and labels is not False:
        classes = {name: n for n, name in enumerate(sorted({file.parts[0] for file in files}))}
        numbers = [classes[file.parts[0]] for file in files]
    pillow = _pillow()

    def opener(index: int) -> Any:
        path = base / files[index]
        try:
            with pillow.open(path) as picture:
                picture.load()
                return picture
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
            raise InputError(
                f"{path} cannot be read as an image ({error}); mend or remove it"
            ) from error

    what = f"{len(set(numbers))} classes" if numbers is not None else "no labels"
    return ImageSource(
        f"images of {base.name or base}, {what}",
        opener,
        len(files),
        labels=numbers,
        image=image,
        area=CALM if split == "calibration" else AREA,
    )


def torchvision_set(
    name: str, root: str, split: str, *, image: ImageSpec | None = None, labels: bool | None = None
) -> ImageSource:
    """A data set of torchvision that lies under `root` already; nothing is downloaded."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise InputError("torchvision is not installed: pip install torch-sprig[vision]") from error
    from sprig.core.lookup import accepted

    if not hasattr(datasets, name):
        known = ", ".join(sorted(n for n in datasets.__all__ if n[0].isupper())[:12])
        raise InputError(f"torchvision has no data set {name!r}; it has {known}, ...")
    kind = getattr(datasets, name)
    part = "test" if split == "test" else "train"
    options = accepted(kind, {"train": part == "train", "split": part, "download": False})
    try:
        items = kind(root, **options)
        first = items[0]
    except Exception as error:  # each set has its own way to say that files are missing
        raise InputError(
            f"torchvision's {name} is not under {root}: {error}".split("\n")[0]
        ) from error
    if not (isinstance(first, tuple) and len(first) == 2 and hasattr(first[0], "convert")):
        raise InputError(f"torchvision's {name} does not give (image, label) pairs")
    numbers = None if labels is False else [int(items[i][1]) for i in range(len(items))]
    return ImageSource(
        f"{name} of torchvision", lambda i: items[i][0], len(items), labels=numbers, image=image
    )


def _split_folder(top: Path, split: str) -> Path:
    train = next((top / n for n in TRAIN_NAMES if (top / n).is_dir()), None)
    test = next((top / n for n in TEST_NAMES if (top / n).is_dir()), None)
    if train is None or test is None:
        return top
    return test if split == "test" else train


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("Pillow is not installed: pip install torch-sprig[vision]") from error
    return Image


def _resample(name: str) -> Any:
    modes = _pillow().Resampling.__members__
    if name.upper() not in modes:
        raise InputError(f"interpolation {name!r}: expected one of {', '.join(modes).lower()}")
    return modes[name.upper()]


def _statistic(values: tuple[float, ...], channels: int, *, name: str) -> Tensor:
    if len(values) not in (1, channels):
        raise InputError(
            f"{name} has {len(values)} numbers for {channels} channels; give 1 or {channels}"
        )
    return torch.tensor(values, dtype=torch.float32).expand(channels)[:, None, None]


def _uniform(draw: torch.Generator) -> float:
    return float(torch.rand((), generator=draw, dtype=torch.float64))
