"""Digits and Fashion-MNIST: the pixels are the files' pixels, the views are what they say."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sprig.core.errors import InputError
from sprig.data import ImageSpec, crop_and_flip, load
from sprig.data.arrays import shift

RAW = ImageSpec(mean=(0.0,), std=(1.0,))


def _all(batches: object) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(batches)  # type: ignore[call-overload]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_digits_are_those_of_scikit_learn_each_once() -> None:
    raw = load_digits()
    parts = [_all(load("digits", split=s, image=RAW)) for s in ("test", "calibration")]
    assert [len(x) for x, _ in parts] == [360, 1437]
    ours = np.concatenate([np.c_[x.flatten(1).numpy() * 16, y.numpy()] for x, y in parts])
    theirs = np.c_[raw.data, raw.target]
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_digits_are_normalised_by_the_training_part() -> None:
    x, _ = _all(load("digits", split="calibration"))
    assert x.shape[1:] == (1, 8, 8)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(correction=0)) - 1) < 1e-5


def test_digits_resized_and_in_colour() -> None:
    small, _ = _all(load("digits", split="test", image=RAW))
    large, _ = _all(load("digits:16", split="test", image=RAW))
    assert large.shape == (360, 1, 16, 16)
    wanted = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(large, wanted)
    near = ImageSpec((16, 16), (0.0,), (1.0,), interpolation="nearest", channels=3)
    colour, _ = _all(load("digits", split="test", image=near))
    assert colour.shape == (360, 3, 16, 16)
    assert torch.equal(colour[:, 2, ::2, ::2], small[:, 0])


def test_more_views_of_digits_are_moved_by_a_pixel() -> None:
    batches = load("digits", image=RAW, limit=20, views=3, batch_size=20)
    images = torch.cat([x for x, _ in batches])  # all views of a sample stand together
    plain, *moved = [images[view::3] for view in range(3)]
    assert batches.samples == 60
    for images in moved:
        for one, other in zip(plain, images):
            padded = torch.nn.functional.pad(one, (1,) * 4)
            spots = [padded[:, t : t + 8, s : s + 8] for t in range(3) for s in range(3)]
            assert any(torch.equal(other, spot) for spot in spots)
    assert not torch.equal(moved[0], moved[1])


def test_shift_against_loops(generator: torch.Generator) -> None:
    images = torch.rand(5, 2, 4, 6, generator=generator)
    top = torch.tensor([0, 1, -2, 5, -1])
    left = torch.tensor([0, -3, 2, 1, -6])
    flip = torch.tensor([False, True, True, False, True])
    fill = torch.tensor([7.0, 9.0])
    out = shift(images, top, left, flip, fill=fill)
    for n, c, i, j in np.ndindex(5, 2, 4, 6):
        col = 5 - j if flip[n] else j
        y, x = i - int(top[n]), col - int(left[n])
        inside = 0 <= y < 4 and 0 <= x < 6
        assert out[n, c, i, j] == (images[n, c, y, x] if inside else fill[c])


def test_crop_and_flip_follows_its_generator_alone() -> None:
    images = torch.rand(64, 1, 6, 6)
    runs = [crop_and_flip(images, torch.Generator().manual_seed(s), pad=2) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    still = crop_and_flip(images, torch.Generator(), pad=0, flip=False)
    assert torch.equal(still, images)


def _write_fashion(folder: Path, *, train: int = 12, test: int = 6) -> None:
    rng = np.random.RandomState(3)
    for stem, number in (("train", train), ("t10k", test)):
        pixels = rng.randint(0, 256, (number, 28, 28)).astype(np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        head = struct.pack(">BBBBIII", 0, 0, 8, 3, number, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + pixels.tobytes())
        )
        head = struct.pack(">BBBBI", 0, 0, 8, 1, number)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(head + labels.tobytes())
        )


def test_fashion_mnist_reads_its_files(tmp_path: Path) -> None:
    _write_fashion(tmp_path)
    x, y = _all(load(f"fashion-mnist:{tmp_path}", split="test", image=RAW))
    raw = gzip.decompress((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert (x * 255).round().to(torch.uint8).numpy().tobytes() == raw
    assert y.tolist() == [0, 1, 2, 3, 4, 5]
    train = load(f"fashion-mnist:{tmp_path}", split="train", batch_size=5)
    assert [len(x) for x, _ in train] == [5, 5]  # the last batch is not full
    assert "Fashion-MNIST (1x28x28, mean 0.286, std 0.353" in train.description


def test_fashion_mnist_says_what_is_wrong(tmp_path: Path) -> None:
    spec = f"fashion-mnist:{tmp_path}"
    with pytest.raises(
        InputError, match="is missing; install Debian's package dataset-fashion-mnist"
    ):
        load(spec)
    _write_fashion(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        load(spec)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-9]))
    with pytest.raises(InputError, match="not an idx file of 3 dimensions, or is cut short"):
        load(spec)
    images.write_bytes(whole)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels.read_bytes())
    with pytest.raises(InputError, match="12 images but 6 labels of train"):
        load(spec)


def test_what_a_model_asks_for_must_make_sense() -> None:
    with pytest.raises(InputError, match="mean has 2 numbers for 1 channels; give 1 or 1"):
        load("digits", image=ImageSpec(mean=(0.1, 0.2)))
    with pytest.raises(InputError, match="interpolation 'magic'"):
        load("digits", image=ImageSpec(interpolation="magic"))


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install torch-sprig\[demo\]"):
        load("digits")
