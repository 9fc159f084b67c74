"""Plots out: files, viewers, notebooks, PIL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._files import atomic_path

# What OpenCV writes in every build.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
NOTEBOOK_SIDE = 1024
# Of a JPEG's side, in pixels, by libjpeg.
_LONGEST_JPEG = 65500


def to_pil(bgr: np.ndarray) -> Any:
    """An RGB PIL image of a BGR array (H, W, 3)."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))


def to_bgr(picture: Any) -> np.ndarray:
    """A BGR array of a PIL image; an array is given back."""
    if isinstance(picture, np.ndarray):
        return picture
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def write_image(target: str | os.PathLike[str], bgr: np.ndarray) -> None:
    """Write a BGR picture; the suffix chooses the format. The file is whole or not there at all."""
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"can't write {str(target)!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    content = encoded(bgr, suffix)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def usual_suffix(bgr: np.ndarray) -> str:
    """That of a picture's file where nobody has chosen one: JPEG's, PNG's for a picture that is too long for it."""
    return ".jpg" if max(bgr.shape[:2]) <= _LONGEST_JPEG else ".png"


def encoded(bgr: np.ndarray, suffix: str) -> bytes:
    """What a file of this suffix holds; ValueError for a picture that it can't."""
    import cv2

    done, data = cv2.imencode(suffix, bgr)
    if not done:
        raise ValueError(f"an image of {bgr.shape[1]} x {bgr.shape[0]} pixels can't be written as {suffix}")
    return data.tobytes()


def png(bgr: np.ndarray, long_side: int = NOTEBOOK_SIDE) -> bytes:
    """PNG bytes, shrunk to at most `long_side` pixels wide and high."""
    import cv2

    scale = long_side / max(bgr.shape[:2])
    if scale < 1:
        size = max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return encoded(bgr, ".png")


def show_image(bgr: np.ndarray, title: str = "") -> None:
    """Open the picture in the notebook, or else in the system's viewer."""
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
