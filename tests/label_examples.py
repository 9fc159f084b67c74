"""Random labels for hypothesis, masks drawn independently of the package, and what readers refuse."""

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
    """COCO RLE by pycocotools, `counts` as str."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def pixels(labels: ImageLabels, place: int) -> np.ndarray:
    """One object's mask (H, W) bool, decoded by pycocotools."""
    mask = labels.objects[place].segmentation
    assert mask is not None
    return np.asarray(coco.decode(mask.rle)).astype(bool)


def filled(polygons: list[Any], height: int, width: int) -> np.ndarray:
    """The union of polygons, each a flat list or (K, 2), filled by pycocotools."""
    flat = [np.asarray(polygon, np.float64).ravel().tolist() for polygon in polygons]
    return np.asarray(coco.decode(coco.frPyObjects(flat, height, width))).any(2)


def refused(kind: str, source: Path, message: str, error: type[Exception] = ValueError) -> None:
    """Reading `source` ends in an error whose text matches `message`."""
    with pytest.raises(error) as caught:
        list(read_labels(source, kind))
    assert re.search(message, str(caught.value)), str(caught.value)


# Pixels are mostly set or mostly unset along runs, or noise: blobs, holes, corners that touch.
def masks(height: int, width: int) -> st.SearchStrategy[np.ndarray]:
    noise = arrays(bool, (height, width))
    coarse = arrays(bool, (-(-height // 3), -(-width // 3))).map(
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
