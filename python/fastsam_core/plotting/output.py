"""Output of drawn images: files, viewers, notebooks, PIL images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._files import atomic_path

# Formats that every build of OpenCV can write.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
NOTEBOOK_SIDE = 1024
# libjpeg's limit on the sides of an image, in pixels.
_MAX_JPEG_SIDE = 65500


def to_pil(bgr: np.ndarray) -> Any:
    """Convert a BGR array (H, W, 3) to an RGB PIL image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))


def to_bgr(image: Any) -> np.ndarray:
    """Convert a PIL image to a BGR array (H, W, 3). An array is returned unchanged."""
    if isinstance(image, np.ndarray):
        return image
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def write_image(target: str | os.PathLike[str], bgr: np.ndarray) -> None:
    """Write a BGR image (H, W, 3) atomically. The suffix selects the format.

    Raises ValueError for a suffix not in `SUFFIXES`, or if the format can't hold the image.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"can't write {str(target)!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    content = encode_image(bgr, suffix)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def default_suffix(bgr: np.ndarray) -> str:
    """Return the default suffix for an image file: ".jpg", or ".png" if the image is too large for JPEG."""
    return ".jpg" if max(bgr.shape[:2]) <= _MAX_JPEG_SIDE else ".png"


def encode_image(bgr: np.ndarray, suffix: str) -> bytes:
    """Encode an image in the format of `suffix`. Raises ValueError if the format can't hold it."""
    import cv2

    success, data = cv2.imencode(suffix, bgr)
    if not success:
        raise ValueError(f"an image of {bgr.shape[1]} x {bgr.shape[0]} pixels can't be written as {suffix}")
    return data.tobytes()


def encode_png(bgr: np.ndarray, long_side: int = NOTEBOOK_SIDE) -> bytes:
    """Encode an image as PNG, downscaled to at most `long_side` pixels in width and height."""
    import cv2

    scale = long_side / max(bgr.shape[:2])
    if scale < 1:
        size = max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return encode_image(bgr, ".png")


def show_image(bgr: np.ndarray, title: str = "") -> None:
    """Show an image in the notebook, or outside of notebooks in the system's image viewer."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        pass
    else:
        shell = get_ipython()
        if shell is not None and hasattr(shell, "kernel"):
            display(to_pil(bgr))
            return
    to_pil(bgr).show(title)
