"""YOLO text lines: `class x1 y1 x2 y2 ...` for polygons, `class xc yc w h` for boxes; all in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# Polygons with fewer points enclose nothing, and readers of the format reject them.
MIN_POINTS = 3


def lines(
    polygons: Iterable[np.ndarray],
    class_ids: Iterable[float],
    *,
    conf: Sequence[float] | None = None,
    ids: Sequence[float] | None = None,
) -> list[str]:
    """Return one line per polygon, (K, 2) normalised x, y; polygons of fewer than three points are left out.

    Numbers are written with six significant digits. `conf` and `ids`, one per polygon, go to the line's end.
    Raises ValueError if there are more or fewer class ids than polygons, or for another shape.
    """
    texts = []
    for i, (polygon, class_id) in enumerate(zip(polygons, class_ids, strict=True)):
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"a polygon is (K, 2) normalised x, y; not {points.shape}")
        if len(points) >= MIN_POINTS:
            texts.append(_line(class_id, points.ravel(), _extras(i, conf, ids)))
    return texts


def box_lines(
    boxes: Iterable[np.ndarray],
    class_ids: Iterable[float],
    *,
    conf: Sequence[float] | None = None,
    ids: Sequence[float] | None = None,
) -> list[str]:
    """Return one line per box, (4,) normalised centre x, centre y, width, height. See `lines` for `conf` and `ids`."""
    return [
        _line(class_id, np.asarray(box, dtype=np.float64), _extras(i, conf, ids))
        for i, (box, class_id) in enumerate(zip(boxes, class_ids, strict=True))
    ]


def _extras(row: int, *columns: Sequence[float] | None) -> list[float]:
    return [float(column[row]) for column in columns if column is not None]


def _line(class_id: float, numbers: Iterable[float], extras: Iterable[float]) -> str:
    return " ".join([str(int(class_id)), *(f"{number:g}" for number in (*numbers, *extras))])
