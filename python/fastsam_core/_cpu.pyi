"""The compiled module; `fastsam_core.ops` is the way to call it.

Arrays must be C-contiguous and of exactly the dtype that is named, but for the masks of `rle_encode`.
"""

import numpy as np
from numpy.typing import NDArray

PYBIND11_VERSION: str

def isa() -> str: ...
def available_isas() -> list[str]: ...
def force_isa(name: str) -> None: ...
def decoder_first_look(
    q: NDArray[np.float32],  # (heads, rows, head_dim)
    keys: NDArray[np.float32],  # (panels, heads * head_dim, 16)
    values: NDArray[np.float32],  # (heads, panels * 16, head_dim rounded up to 16)
    length: int,
    out: NDArray[np.float32],  # (heads, rows, head_dim)
    threads: int,
) -> None: ...
def decoder_pass(
    source: NDArray[np.float32] | None,  # (panels, channels, 16), or None for each prompt's own, in `out`
    position: NDArray[np.float32],  # (panels, channels, 16)
    queries: NDArray[np.float32] | None,  # (panels, heads * head_dim, 16)
    keys: NDArray[np.float32],  # (heads, prompts, tokens, channels), or head_dim with queries
    key_bias: NDArray[np.float32] | None,  # (heads, prompts, tokens)
    values: NDArray[np.float32],  # (heads, prompts, tokens, channels)
    norm_weight: NDArray[np.float32],  # (channels,)
    norm_bias: NDArray[np.float32],  # (channels,)
    norm_eps: float,
    look: NDArray[np.float32],  # (heads, prompts, tokens, channels)
    length: int,
    out: NDArray[np.float32],  # (prompts, panels, channels, 16)
    gathered: NDArray[np.float32],  # (heads, prompts, tokens, channels)
    threads: int,
) -> None: ...
def decoder_upscale(
    tokens: NDArray[np.float32],  # (prompts, panels, channels, 16)
    index: NDArray[np.int64],  # (count,)
    weights: NDArray[np.float32],  # (count, narrow)
    enlarge: NDArray[np.float32],  # (4 * middle, channels)
    enlarge_bias: NDArray[np.float32],  # (4 * middle,)
    norm_weight: NDArray[np.float32],  # (middle,)
    norm_bias: NDArray[np.float32],  # (middle,)
    norm_eps: float,
    enlarge_more: NDArray[np.float32],  # (4 * narrow, middle)
    enlarge_more_bias: NDArray[np.float32],  # (4 * narrow,)
    height: int,
    width: int,
    out: NDArray[np.float32],  # (count, 4 * height, 4 * width)
    threads: int,
) -> None: ...
def nms(
    boxes: NDArray[np.float32] | NDArray[np.float64],  # (N, 4)
    scores: NDArray[np.float64],  # (N,)
    classes: NDArray[np.int64] | None,  # (N,)
    threshold: float,
    threads: int,
) -> NDArray[np.int64]: ...
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
