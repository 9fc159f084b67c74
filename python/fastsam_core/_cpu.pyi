"""The compiled module; `fastsam_core.ops` is the way to call it.

Arrays must be C-contiguous and of exactly the dtype that is named, but for the masks of `rle_encode` and the pictures.
Arrays must be C-contiguous and of exactly the dtype that is named, but where a comment names strides or rows.
"""

import numpy as np
from numpy.typing import NDArray

PYBIND11_VERSION: str

def isa() -> str: ...
def available_isas() -> list[str]: ...
def force_isa(name: str) -> None: ...
def linear(
    x: NDArray[np.float32],  # (M, K), rows contiguous
    weight: NDArray[np.float32],  # (N, K), rows contiguous
    bias: NDArray[np.float32] | None,  # (N,)
    activation: int,  # 0 none, 1 GELU, 2 ReLU
    norm_weight: NDArray[np.float32] | None,  # (K,)
    norm_bias: NDArray[np.float32] | None,  # (K,)
    eps: float,
    residual: NDArray[np.float32] | None,  # (M, N), rows contiguous; may be out
    out: NDArray[np.float32],  # (M, N), rows contiguous
    threads: int,
) -> None: ...
def mlp(
    x: NDArray[np.float32],  # (M, K), rows contiguous
    norm_weight: NDArray[np.float32],  # (K,)
    norm_bias: NDArray[np.float32],  # (K,)
    eps: float,
    weight1: NDArray[np.float32],  # (H, K)
    bias1: NDArray[np.float32],  # (H,)
    weight2: NDArray[np.float32],  # (K, H)
    bias2: NDArray[np.float32],  # (K,)
    out: NDArray[np.float32],  # (M, K), rows contiguous; may be x
    threads: int,
) -> None: ...
def mask_runs(
    logits: NDArray[np.float32],  # (N, h, w)
    y_cells: NDArray[np.int64],  # (H,)
    y_weights: NDArray[np.float32],  # (H, 3)
    x_cells: NDArray[np.int64],  # (W,)
    x_weights: NDArray[np.float32],  # (W, 3)
    threshold: float,
    offset: float,
    height: int,
    width: int,
    left: int,
    top: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
def mask_remove_small_regions(
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    height: int,
    width: int,
    min_area: float,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]: ...
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
    out: NDArray[np.bool_],  # (N, H, W), or (N, W, H) if column_major
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
