"""Operations on run lengths in plain PyTorch: the definition, and the fallback for every device."""

from __future__ import annotations

from .reference_algebra import rle_combine, rle_crop
from .reference_codec import rle_from_polygon, rle_from_string, rle_to_string
from .reference_masks import rle_area, rle_decode, rle_encode, rle_iou, rle_merge, rle_to_bbox

__all__ = [
    "rle_area",
    "rle_combine",
    "rle_crop",
    "rle_decode",
    "rle_encode",
    "rle_from_polygon",
    "rle_from_string",
    "rle_iou",
    "rle_merge",
    "rle_to_bbox",
    "rle_to_string",
]
