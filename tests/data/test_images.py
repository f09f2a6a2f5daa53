"""Photographs: the plain view is torchvision's, random views keep to their bounds and seeds."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from sprig.core.errors import InputError
from sprig.data import ImageSpec, load
from sprig.data.images import plain_view, random_view

SMALL = ImageSpec(size=(24, 24), mean=(0.0,), std=(1.0,))


def _photo(path: Path, number: int, *, size: tuple[int, int] = (40, 32)) -> None:
    rng = np.random.RandomState(number)
    coarse = rng.randint(0, 256, (5, 5, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(9):
        _photo(tmp_path / ("cats", "dogs", "owls")[number % 3] / "deep" / f"{number}.png", number)
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("shape", [(40, 32), (31, 57), (224, 224), (500, 90)])
@pytest.mark.parametrize("size", [24, 64])
def test_plain_view_is_that_of_torchvision(shape: tuple[int, int], size: int) -> None:
    picture = Image.fromarray(np.random.RandomState(1).randint(0, 256, (*shape, 3), dtype=np.uint8))
    ours = plain_view(picture, (size, size), crop_pct=0.875, resample=Image.Resampling.BILINEAR)
    recipe = transforms.Compose([transforms.Resize(int(size / 0.875)), transforms.CenterCrop(size)])
    assert np.array_equal(np.array(ours), np.array(recipe(picture)))


def test_plain_view_covers_a_rectangle() -> None:
    for shape in ((100, 30), (30, 100)):
        picture = Image.new("RGB", shape, (255, 255, 255))
        out = plain_view(picture, (20, 40), crop_pct=1.0, resample=Image.Resampling.BILINEAR)
        assert out.size == (40, 20)
        assert np.array(out).min() == 255  # nothing black came in from outside


def test_random_views_show_a_part_in_bounds() -> None:
    """On an image whose colour is its place, a view's corners tell which rectangle it shows."""
    side = 200
    ramp = np.arange(side, dtype=np.uint8)
    place = np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.zeros((side,) * 2)], 2
    )
    picture = Image.fromarray(place.astype(np.uint8))
    draw = torch.Generator().manual_seed(5)
    areas, mirrored = [], 0
    for _ in range(300):
        out = np.array(random_view(picture, (50, 50), draw, resample=Image.Resampling.BILINEAR))
        width = (int(out[25, -1, 0]) - int(out[25, 0, 0])) * 50 / 49
        height = (int(out[-1, 25, 1]) - int(out[0, 25, 1])) * 50 / 49
        mirrored += width < 0
        areas.append(abs(width) * height / side**2)
        assert 0.7 < abs(width) / height < 1.45
    assert 0.22 < min(areas) < 0.35
    assert 0.8 < max(areas) < 1.05
    assert 110 < mirrored < 190


def test_a_very_long_image_gives_a_square_of_it() -> None:
    picture = Image.new("RGB", (600, 3), (9, 9, 9))
    out = random_view(picture, (8, 8), torch.Generator(), resample=Image.Resampling.BILINEAR)
    assert np.array_equal(np.array(out), np.full((8, 8, 3), 9))


def test_classes_are_the_folders(photos: Path) -> None:
    batches = load(f"imagefolder:{photos}", split="test", image=SMALL, batch_size=4)
    labels = torch.cat([y for _, y in batches]).tolist()
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "3 classes" in batches.description
    first = next(iter(batches))[0][0]
    file = sorted((photos / "cats").rglob("*.png"))[0]
    recipe = transforms.Compose(
        [transforms.Resize(27), transforms.CenterCrop(24), transforms.ToTensor()]
    )
    assert torch.equal(first, recipe(Image.open(file)))


def test_labels_can_be_left_out_or_insisted_on(photos: Path) -> None:
    for batches in (
        load(f"imagefolder:{photos}?unlabelled", image=SMALL),
        load(f"imagefolder:{photos}", image=SMALL, labels=False),
    ):
        assert not batches.labelled
        assert isinstance(next(iter(batches)), torch.Tensor)
    _photo(photos / "loose.png", 11)
    assert not load(f"imagefolder:{photos}", image=SMALL).labelled
    with pytest.raises(InputError, match="has images outside class folders"):
        load(f"imagefolder:{photos}", image=SMALL, labels=True)


def test_train_and_val_folders_are_the_splits(tmp_path: Path) -> None:
    for number in range(5):
        _photo(tmp_path / ("train" if number < 3 else "val") / "a" / f"{number}.png", number)
    counts = {
        s: load(f"imagefolder:{tmp_path}", split=s, image=SMALL).samples  # type: ignore[arg-type]
        for s in ("train", "calibration", "test")
    }
    assert counts == {"train": 3, "calibration": 3, "test": 2}


def test_a_view_depends_on_seed_and_image_alone(photos: Path) -> None:
    def read(batch_size: int, seed: int = 0, **more: object) -> torch.Tensor:
        options = {"image": SMALL, "views": 3, "batch_size": batch_size, "seed": seed, **more}
        return torch.cat(list(load(f"imagefolder:{photos}?unlabelled", **options)))  # type: ignore[arg-type]

    assert torch.equal(read(2), read(7))
    assert torch.equal(read(2), read(2, hold=False))
    assert not torch.equal(read(2), read(2, seed=1))
    assert len(read(2).flatten(1).unique(dim=0)) == 27


def test_grey_images_and_colour(tmp_path: Path) -> None:
    Image.new("LA", (30, 30), (51, 255)).save(tmp_path / "grey.png")
    for channels in (1, 3):
        spec = ImageSpec(size=(8, 8), mean=(0.1,), std=(0.5,), channels=channels)
        (batch,) = load(f"imagefolder:{tmp_path}", image=spec)
        torch.testing.assert_close(batch, torch.full((1, channels, 8, 8), 0.2))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (ImageSpec(channels=4), "images have 1 or 3 channels, the model wants 4"),
        (ImageSpec(crop_pct=1.5), "crop_pct is 1.5"),
        (ImageSpec(std=(1.0, 2.0)), "std has 2 numbers for 3 channels"),
        (ImageSpec(interpolation="magic"), "interpolation 'magic': expected one of nearest"),
    ],
)
def test_specs_that_make_no_sense(photos: Path, image: ImageSpec, text: str) -> None:
    with pytest.raises(InputError, match=text):
        load(f"imagefolder:{photos}", image=image)


def test_folders_that_hold_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder; expected imagefolder:FOLDER"):
        load(f"imagefolder:{tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match=r"holds no image; expected files ending in \.bmp"):
        load(f"imagefolder:{tmp_path}")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"bad\.jpg cannot be read as an image"):
        load(f"imagefolder:{tmp_path}")
    with pytest.raises(InputError, match="unknown option 'upside-down'"):
        load(f"imagefolder:{tmp_path}?upside-down")


def test_without_pillow(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        InputError, match=r"Pillow is not installed: pip install torch-sprig\[vision\]"
    ):
        load(f"imagefolder:{photos}")


def test_a_set_of_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 256, (4, 28, 28)).astype(np.uint8)
    for stem in ("train", "t10k"):
        head = struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 28, 28)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">BBBBI", 0, 0, 8, 1, 4)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(head + bytes([3, 1, 2, 0]))
    spec = ImageSpec(size=(28, 28), mean=(0.0,), std=(1.0,), crop_pct=1.0, channels=1)
    ((x, y),) = load(f"torchvision:MNIST:{tmp_path}", split="test", image=spec)
    assert y.tolist() == [3, 1, 2, 0]
    assert np.array_equal((x[:, 0] * 255).round().numpy(), pixels)


def test_sets_of_torchvision_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="torchvision has no data set 'NoSuch'"):
        load(f"torchvision:NoSuch:{tmp_path}")
    with pytest.raises(InputError, match="torchvision's MNIST is not under"):
        load(f"torchvision:MNIST:{tmp_path}")
    pairs = [(3, 4)]
    monkeypatch.setattr("torchvision.datasets.FakeData", lambda root: pairs)
    with pytest.raises(InputError, match=r"FakeData does not give \(image, label\) pairs"):
        load(f"torchvision:FakeData:{tmp_path}")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match="torchvision is not installed"):
        load(f"torchvision:MNIST:{tmp_path}")


def test_damaged_archives_do_not_pass_for_images(photos: Path) -> None:
    file = sorted((photos / "cats").rglob("*.png"))[0]
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(InputError, match="mend or remove it"):
        list(load(f"imagefolder:{photos}", image=SMALL, hold=True))
