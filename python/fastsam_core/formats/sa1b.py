"""The SA-1B dataset's file: one JSON object per picture. Datumaro reads it as `segment_anything`."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .sam_dicts import records

if TYPE_CHECKING:
    from ..results import Results


def image_record(results: Results, *, image_id: int = 1, first_id: int = 1) -> dict[str, Any]:
    """JSON-ready: `{"image": {image_id, width, height, file_name}, "annotations": [...]}`.

    Each annotation is SAM's dict with RLE segmentation plus an `id`, counted from `first_id`.
    """
    height, width = results.orig_shape
    return {
        "image": {
            "image_id": image_id,
            "width": width,
            "height": height,
            "file_name": PurePath(results.path).name,
        },
        "annotations": [{**record, "id": first_id + i} for i, record in enumerate(records(results))],
    }
