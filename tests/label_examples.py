"""Random labels for hypothesis, masks drawn and decoded by pycocotools, and a check that readers refuse a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from fastsam_core.formats import ImageLabels, LabelledObject, Segmentation, read_labels


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask as COCO RLE with pycocotools, with `counts` as str."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def pixels(labels: ImageLabels, index: int) -> np.ndarray:
    """Decode the mask of object number `index` with pycocotools: (H, W) bool."""
    mask = labels.objects[index].segmentation
    assert mask is not None
    return np.asarray(coco.decode(mask.rle)).astype(bool)


def filled(polygons: list[Any], height: int, width: int) -> np.ndarray:
    """Fill polygons, each a flat list or (K, 2), with pycocotools, and return their union (height, width) bool."""
    flat = [np.asarray(polygon, np.float64).ravel().tolist() for polygon in polygons]
    return np.asarray(coco.decode(coco.frPyObjects(flat, height, width))).any(2)


def refused(kind: str, source: Path, message: str, error: type[Exception] = ValueError) -> None:
    """Check that reading `source` raises `error` with a text that matches the pattern `message`."""
    with pytest.raises(error) as caught:
        list(read_labels(source, kind))
    assert re.search(message, str(caught.value)), str(caught.value)


# Noise, or noise in cells of 3 x 3 pixels: blobs, holes, corners that touch. Without `fill`, hypothesis would set most
# pixels to one value.
def masks(height: int, width: int) -> st.SearchStrategy[np.ndarray]:
    noise = arrays(bool, (height, width), fill=st.nothing())
    coarse = arrays(bool, (-(-height // 3), -(-width // 3)), fill=st.nothing()).map(
        lambda cells: np.kron(cells, np.ones((3, 3), bool))[:height, :width]
    )
    return st.one_of(noise, coarse)


scores = st.one_of(st.none(), st.floats(0, 1).map(lambda value: float(f"{value:.4g}")))


@st.composite
def image_labels(draw: st.DrawFn, file_name: str = "a/b.png", largest_class: int = 5) -> ImageLabels:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    objects = [
        LabelledObject(draw(st.integers(0, largest_class)), Segmentation.from_rle(encoded(mask)), score=draw(scores))
        for mask in draw(st.lists(masks(height, width), max_size=4))
    ]
    return ImageLabels(file_name, width, height, objects)
