"""Segment a real photo with the bundled model: `python -m fastsam_core.demo [folder]`.

The photo comes from the public-domain pictures that scikit-image carries inside its wheel, so nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

PHOTO = "coffee.png"  # 600 x 400, CC0 by Rachel Michetti


def photo() -> np.ndarray:
    """The demo's photo, (H, W, 3) uint8 BGR; FileNotFoundError where scikit-image isn't installed."""
    import cv2

    try:
        from skimage import data
    except ImportError:
        raise FileNotFoundError(
            "the demo's photo is part of scikit-image: pip install 'fastsam_core[demo]', or use a photo of your own: "
            "fastsam predict source=photo.jpg"
        ) from None
    folder = Path(data.__file__).parent
    image = cv2.imread(str(folder / PHOTO))
    if image is None:
        raise FileNotFoundError(f"scikit-image carries no {PHOTO}; its pictures are in {folder}")
    return image


def run(folder: Path) -> tuple[Path, int, float]:
    """Segment everything in the photo. Returns the picture's path, the number of masks, and seconds without loading."""
    from . import SAM

    image = photo()
    model = SAM("sam_nano.pt")
    started = time.perf_counter()
    result = model(image, verbose=False)[0]
    seconds = time.perf_counter() - started
    target = folder / f"{Path(PHOTO).stem}_masks.png"
    result.save(target, labels=False, boxes=False)
    return target.resolve(), len(result), seconds


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")
    try:
        picture, masks, seconds = run(folder)
    except (FileNotFoundError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"picture: {picture}\nmasks:   {masks}\nseconds: {seconds:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
