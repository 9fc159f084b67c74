"""Segment real photos with the bundled model: `python -m fastsam_core.demo [folder]`.

The photos are free images that scikit-image ships in its wheel, so nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

# 600 x 400, CC0 by Rachel Michetti; 512 x 512, public domain by NASA; 451 x 300, CC0 by Stefan van der Walt.
PHOTOS = ("coffee.png", "astronaut.png", "chelsea.png")
_HEIGHT = 400  # of each photo in the output image, in pixels


def photo(name: str = PHOTOS[0]) -> np.ndarray:
    """Load a photo of the demo, (H, W, 3) uint8 BGR; FileNotFoundError if scikit-image or the photo is missing."""
    import cv2

    try:
        from skimage import data
    except ImportError:
        raise FileNotFoundError(
            "the demo's photos are part of scikit-image: pip install 'fastsam_core[demo]', or use a photo of your own: "
            "fastsam predict source=photo.jpg"
        ) from None
    folder = Path(data.__file__).parent
    image = cv2.imread(str(folder / name))
    if image is None:
        raise FileNotFoundError(f"scikit-image has no {name}; its images are in {folder}")
    return image


def run(folder: Path) -> tuple[Path, list[int], float]:
    """Segment everything in the photos and write them side by side to `masks.png` in `folder`.

    Returns the path of that image, the number of masks per photo, and the seconds for all photos, without loading.
    """
    import cv2

    from . import SAM
    from ._files import atomic_path

    photos = [photo(name) for name in PHOTOS]
    model = SAM("sam_nano.pt")
    tiles, masks, seconds = [], [], 0.0
    for image in photos:
        started = time.perf_counter()
        result = model(image, verbose=False)[0]
        seconds += time.perf_counter() - started
        masks.append(len(result))
        drawn = result.plot(labels=False, boxes=False)
        width = round(drawn.shape[1] * _HEIGHT / drawn.shape[0])
        tiles.append(cv2.resize(drawn, (width, _HEIGHT), interpolation=cv2.INTER_AREA))
    target = folder / "masks.png"
    with atomic_path(target) as temporary:
        if not cv2.imwrite(str(temporary), np.concatenate(tiles, 1)):
            raise OSError(f"{target} could not be written")
    return target.resolve(), masks, seconds


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")
    try:
        target, masks, seconds = run(folder)
    except (FileNotFoundError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{count} in {name}" for count, name in zip(masks, PHOTOS, strict=True))
    print(f"image:   {target}\nmasks:   {counts}\nseconds: {seconds:.1f} for {len(masks)} photos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
