"""A second set of pictures for photographs.py, from Debian packages, without those of the first set.

    apt-get install tuxpaint-stamps-default mate-backgrounds
    python benchmarks/stamps.py FOLDER --without PHOTOS
    python benchmarks/photographs.py --photos FOLDER --unseen

Cut-out pictures (photographs, some drawings) on white and photographs of nature: by folder, size and seed 0. What
looks like a picture of PHOTOS, whatever its name and size, is left out, and what looks like one taken already.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS, NATURE = Path("/usr/share/tuxpaint/stamps"), Path("/usr/share/backgrounds/mate/nature")
FOLDERS = (
    "animals food plants vehicles household clothes sports hobbies town/monuments town/houses naturalforces "
    "people medical space"
).split()
COUNT, LEAST, MOST = 110, 150, 800  # pictures; pixels of the shorter and longer side
SIDE, WHITE, ALIKE = 24, 245, 0.9  # pixels compared; from where on it is background; correlation


def page(file: Path) -> Image.Image:
    """A picture on white."""
    picture = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return white.convert("RGB")


def look(picture: Image.Image) -> np.ndarray | None:
    """What a picture shows, whatever its size and border: its inside in few pixels, of mean 0 and length 1.

    None: nothing but white.
    """
    rows, columns = np.nonzero((np.asarray(picture) < WHITE).any(2))
    if not len(rows):
        return None
    picture = picture.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    small = np.asarray(picture.resize((SIDE, SIDE)), dtype=float).ravel()
    centred = small - small.mean()
    return centred / np.linalg.norm(centred)


def main(folder: Path, without: Path) -> None:
    folder.mkdir(parents=True)
    looks = (look(page(file)) for file in sorted(without.rglob("*.jpg")))
    known = [seen for seen in looks if seen is not None]
    if not known:
        raise SystemExit(f"no .jpg below {without}")
    files = [
        file
        for top in FOLDERS
        for file in sorted((STAMPS / top).rglob("*.png"))
        if not any(word in str(file) for word in ("cartoon", "symbols", "_mirror", "_flip"))
        and min(Image.open(file).size) >= LEAST
    ]
    random.Random(0).shuffle(files)
    taken = 0
    for file in [*sorted(NATURE.glob("*.jpg")), *files]:
        picture = page(file)
        seen = look(picture)
        if taken == COUNT or seen is None or max(float(seen @ k) for k in known) > ALIKE:
            continue
        known.append(seen)
        picture.thumbnail((MOST, MOST))
        picture.save(folder / f"{taken:03d}.jpg", quality=92)
        taken += 1
    print(taken, "pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", type=Path, required=True)
    options = parser.parse_args()
    main(options.folder, options.without)
