"""The compiled module; `fastsam_core.ops` is the way to call it.

Arrays must be C-contiguous and of exactly the dtype that is named, but for the masks of `rle_encode` and the pictures.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PYBIND11_VERSION: str

def isa() -> str: ...
def available_isas() -> list[str]: ...
def force_isa(name: str) -> None: ...
def nms(
    boxes: NDArray[np.float32] | NDArray[np.float64],  # (N, 4)
    scores: NDArray[np.float64],  # (N,)
    classes: NDArray[np.int64] | None,  # (N,)
    threshold: float,
    threads: int,
) -> NDArray[np.int64]: ...
def resize_image(
    image: NDArray[np.uint8],  # (H, W, 3), any strides
    bgr: bool,
    out: NDArray[np.uint8],  # (height, width, 3)
    threads: int,
) -> None: ...
def preprocess_image(
    image: NDArray[np.uint8],  # (H, W, 3), any strides
    bgr: bool,
    height: int,
    width: int,
    mean: NDArray[np.float32],  # (3,)
    std: NDArray[np.float32],  # (3,)
    channels_last: bool,
    out: NDArray[np.float32],  # (3, size, size), or (size, size, 3) if channels_last
    threads: int,
) -> None: ...
def rle_encode(
    masks: NDArray[np.uint8] | NDArray[np.bool_],  # (N, H, W), any strides
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def rle_check(counts: NDArray[np.int64], offsets: NDArray[np.int64], pixels: int) -> None: ...
def rle_decode(
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    height: int,
    width: int,
    column_major: bool,
    out: NDArray[np.bool_],  # (N, H, W), or (N, W, H) if column_major; zeros
    threads: int,
) -> None: ...
def rle_area(counts: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]: ...
def rle_to_bbox(
    counts: NDArray[np.int64], offsets: NDArray[np.int64], heights: NDArray[np.int64]
) -> NDArray[np.int64]: ...
def rle_iou(
    dt_counts: NDArray[np.int64],
    dt_offsets: NDArray[np.int64],
    gt_counts: NDArray[np.int64],
    gt_offsets: NDArray[np.int64],
    iscrowd: NDArray[np.bool_],  # (G,)
    threads: int,
) -> NDArray[np.float64]: ...
def rle_merge(counts: NDArray[np.int64], offsets: NDArray[np.int64], intersect: bool) -> NDArray[np.int64]: ...
def rle_combine(
    a_counts: NDArray[np.int64],
    a_offsets: NDArray[np.int64],
    b_counts: NDArray[np.int64],
    b_offsets: NDArray[np.int64],
    truth: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def rle_crop(
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    heights: NDArray[np.int64],  # (N,)
    windows: NDArray[np.int64],  # (N, 4)
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def rle_from_polygon(
    points: NDArray[np.float64],  # (P, 2)
    offsets: NDArray[np.int64],
    height: int,
    width: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def rle_to_string(
    counts: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]: ...
def rle_from_string(
    text: NDArray[np.uint8], offsets: NDArray[np.int64], pixels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...

# COCO's dicts; None for what only the long way takes.
def coco_area(rles: object, threads: int) -> Any: ...
def coco_to_bbox(rles: object, threads: int) -> Any: ...
def coco_encode(
    masks: NDArray[np.uint8] | NDArray[np.bool_],  # (N, H, W), or with `last` (H, W, N) or (H, W); any strides
    last: bool,
    as_str: bool,
    threads: int,
) -> Any: ...
def coco_decode(rles: object, row_major: bool, threads: int) -> Any: ...
def coco_iou(dt: object, gt: object, iscrowd: object, threads: int) -> Any: ...
def coco_merge(rles: object, intersect: bool, threads: int) -> Any: ...
def coco_runs(rles: object) -> Any: ...
