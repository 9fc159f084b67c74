"""A small image as BGR and RGB, encoded and in files, and what `load_sources` yields, for the tests of sources."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fastsam_core.sources import Item, load_sources

RGB = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
BGR = RGB[:, :, ::-1].copy()


def encode(image: Any, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, image: Any = RGB, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, kind))
    return path


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float = 8) -> Path:
    """Write a Motion JPEG video, in which every frame can be decoded by itself."""
    first, *others = frames
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, first.shape[1::-1])
    assert writer.isOpened()
    for frame in (first, *others):
        writer.write(frame)
    writer.release()
    return path


def image_folder(folder: Path) -> Path:
    """Fill a folder with three images, a hidden one, one in a subfolder and a text file."""
    for name in ("img10.png", "img2.png", "IMG1.JPG", ".hidden.png", "sub/deep.png"):
        write(folder / name)
    (folder / "notes.md").write_text("not an image")
    return folder


def only(source: Any) -> Item:
    [item] = load_sources(source)
    assert item.error is None and item.image is not None
    assert item.image.dtype == np.uint8 and item.image.flags.c_contiguous
    return item


def names(source: Any) -> list[str]:
    return [os.path.basename(item.path) for item in load_sources(source)]
