"""A second set of pictures for photographs.py, from Debian packages; no default of sprig was chosen on it.

    apt-get install tuxpaint-stamps-default mate-backgrounds
    python benchmarks/stamps.py FOLDER && python benchmarks/photographs.py --photos FOLDER

99 cut-out pictures (photographs, some drawings) on white, 11 photographs of nature: by folder, size and seed 0.
"""

import random
import sys
from pathlib import Path

from PIL import Image

STAMPS, NATURE = Path("/usr/share/tuxpaint/stamps"), Path("/usr/share/backgrounds/mate/nature")
FOLDERS = (
    "animals food plants vehicles household clothes sports hobbies town/monuments town/houses naturalforces "
    "people medical space"
).split()
COUNT, LEAST, MOST = 110, 150, 800  # pictures; pixels of the shorter and longer side


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    found = [
        file
        for top in FOLDERS
        for file in sorted((STAMPS / top).rglob("*.png"))
        if not any(word in str(file) for word in ("cartoon", "symbols", "_mirror", "_flip"))
        and min(Image.open(file).size) >= LEAST
    ]
    random.Random(0).shuffle(found)
    nature = sorted(NATURE.glob("*.jpg"))
    for number, file in enumerate([*found[: COUNT - len(nature)], *nature]):
        picture = Image.open(file).convert("RGBA")
        page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        page.alpha_composite(picture)
        plain = page.convert("RGB")
        plain.thumbnail((MOST, MOST))
        plain.save(folder / f"{number:03d}.jpg", quality=92)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
