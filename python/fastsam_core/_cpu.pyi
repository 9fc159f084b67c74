"""Stub of the compiled C++ module, which is called through `fastsam_core.ops`.

Arrays must have exactly the dtype named here and be C-contiguous, unless a comment says "any strides" or "rows
contiguous". Arrays named `out` and `state` are overwritten.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", np.float32, np.int16)

PYBIND11_VERSION: str

def isa() -> str: ...
def has_native_bfloat16() -> bool: ...  # by dedicated instructions, twice as fast as float32
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

# _Number in attention, windowed_attention and decoder_upscale: float32, or the bits of bfloat16 as int16.
def attention(
    qkv: NDArray[_Number],  # (B, H, W, 3 * heads * d)
    rel_pos_h: NDArray[np.float32],  # (2 * n - 1, d)
    rel_pos_w: NDArray[np.float32],  # (2 * n - 1, d)
    num_heads: int,
    window: int,
    padding: NDArray[_Number] | None,  # (3 * heads * d,)
    out: NDArray[_Number],  # (B, H, W, heads * d)
    threads: int,
) -> None: ...
def windowed_attention(
    qkv: NDArray[_Number],  # (B, H, W, heads * 3 * d)
    bias: NDArray[np.float32],  # (heads, window**2, window**2)
    window: int,
    padding: NDArray[_Number] | None,  # (heads * 3 * d,)
    out: NDArray[_Number],  # (B, H, W, heads * d)
    threads: int,
) -> None: ...
def conv3x3(
    x: NDArray[np.float32],  # (B, H, W, C)
    weight: NDArray[np.float32],  # (O, C, 3, 3)
    bias: NDArray[np.float32],  # (O,)
    stride: int,
    gelu: bool,
    out: NDArray[np.float32],  # (B, H / stride, W / stride, O)
    threads: int,
) -> None: ...
def conv_stem(
    images: NDArray[np.float32],  # (B, C, H, W)
    first_weight: NDArray[np.float32],  # (hidden, C, 3, 3)
    first_bias: NDArray[np.float32],
    second_weight: NDArray[np.float32],  # (O, hidden, 3, 3)
    second_bias: NDArray[np.float32],
    out: NDArray[np.float32],  # (B, H / 4, W / 4, O)
    threads: int,
) -> None: ...
def depthwise3x3(
    x: NDArray[np.float32],  # (B, H, W, C)
    weight: NDArray[np.float32],  # (C, 3, 3)
    bias: NDArray[np.float32],  # (C,)
    stride: int,
    gelu: bool,
    out: NDArray[np.float32],  # (B, H / stride, W / stride, C)
    threads: int,
) -> None: ...
def mbconv(
    x: NDArray[np.float32],  # (B, H, W, C)
    expand_weight: NDArray[np.float32],  # (hidden, C)
    expand_bias: NDArray[np.float32],
    depthwise_weight: NDArray[np.float32],  # (hidden, 3, 3)
    depthwise_bias: NDArray[np.float32],
    project_weight: NDArray[np.float32],  # (O, hidden)
    project_bias: NDArray[np.float32],
    stride: int,
    residual: bool,
    out: NDArray[np.float32],  # (B, H / stride, W / stride, O)
    threads: int,
) -> None: ...
def decoder_prompts(
    tokens: NDArray[np.float32],  # (prompts, tokens, width)
    weights: NDArray[np.float32],  # ops._decoder.weights.TokenWeights, packed
    sizes: list[int],  # ops._decoder.weights.TokenSizes
    image: list[NDArray[np.float32]],  # ops._decoder.weights.ImageParts
    constant: float,
    eps: float,
    heads: int,
    length: int,
    chosen: list[int],  # K
    state: NDArray[np.float32],  # (prompts, panels, 2 * heads * tokens + 2, 16)
    final_tokens: NDArray[np.float32],  # (prompts, K, width)
    iou: NDArray[np.float32],  # (prompts, masks)
    first_token_values: NDArray[np.float32],  # (prompts, heads, tokens, head_dim)
    second_token_values: NDArray[np.float32],  # like first_token_values
    threads: int,
) -> None: ...
def decoder_mask_factors(
    final_tokens: NDArray[np.float32],  # (prompts, K, width)
    first_token_values: NDArray[np.float32],  # (prompts, heads, tokens, head_dim)
    second_token_values: NDArray[np.float32],  # like first_token_values
    selected: NDArray[np.int64],  # (U,)
    index: NDArray[np.int64],  # (count,)
    column: NDArray[np.int64],  # (count,)
    masks: list[int],  # K - 1
    layers: NDArray[np.float32],  # (masks, weights)
    sizes: list[int],  # 3
    first_mix: NDArray[np.float32],  # (4 * middle, heads * head_dim)
    second_mix: NDArray[np.float32],  # like first_mix
    constant_mix: NDArray[np.float32],  # (4 * middle,)
    factors: NDArray[np.float32],  # (U, 4 * middle, 2 * heads * tokens + 2)
    weights: NDArray[np.float32],  # (count, narrow)
    threads: int,
) -> None: ...
def decoder_first_token_to_image(
    q: NDArray[np.float32],  # (heads, rows, head_dim)
    keys: NDArray[np.float32],  # (panels, heads * head_dim, 16)
    values: NDArray[np.float32],  # (heads, panels * 16, head_dim rounded up to 16)
    length: int,
    out: NDArray[np.float32],  # (heads, rows, head_dim)
    threads: int,
) -> None: ...
def decoder_first_pass(
    image: NDArray[np.float32],  # (panels, 4 * heads * head_dim, 16)
    values: NDArray[np.float32],  # (heads, panels * 16, head_dim rounded up to 16)
    norms: NDArray[np.float32],  # (panels, 16)
    eps: float,
    keys: NDArray[np.float32],  # (prompts, heads, tokens, head_dim)
    cross: NDArray[np.float32],  # like keys
    gram: NDArray[np.float32],  # (prompts, rows, rows)
    queries: NDArray[np.float32],  # like keys
    queries_mix: NDArray[np.float32],  # (prompts, rows, rows)
    length: int,
    state: NDArray[np.float32],  # (prompts, panels, 2 * rows + 2, 16)
    value_sum: NDArray[np.float32],  # like queries
    coefficient_sum: NDArray[np.float32],  # (prompts, rows, rows)
    threads: int,
) -> None: ...
def decoder_second_pass(
    image: NDArray[np.float32],  # (panels, 6 * heads * head_dim, 16)
    values: NDArray[np.float32],  # (heads, panels * 16, head_dim rounded up to 16)
    norms: NDArray[np.float32],  # (panels, 2, 16)
    constant: float,
    eps: float,
    keys: NDArray[np.float32],  # (prompts, heads, tokens, head_dim)
    keys_mix: NDArray[np.float32],  # (prompts, rows, rows)
    keys_bias: NDArray[np.float32],  # (prompts, rows)
    first_cross: NDArray[np.float32],  # like keys
    first_gram: NDArray[np.float32],  # (prompts, rows, rows)
    first_bias: NDArray[np.float32],  # (prompts, rows)
    cross: NDArray[np.float32],  # like keys
    cross_mix: NDArray[np.float32],  # (prompts, rows, rows)
    cross_bias: NDArray[np.float32],  # (prompts, rows)
    gram: NDArray[np.float32],  # (prompts, rows, rows)
    queries: NDArray[np.float32],  # (prompts, heads, query tokens, head_dim)
    queries_mix: NDArray[np.float32],  # (prompts, heads * query tokens, 2 * rows + 2)
    length: int,
    state: NDArray[np.float32],  # (prompts, panels, 2 * rows + 2, 16)
    value_sum: NDArray[np.float32],  # like queries
    coefficient_sum: NDArray[np.float32],  # (prompts, 2 * rows + 2, heads * query tokens)
    threads: int,
) -> None: ...
def decoder_upscale(
    state: NDArray[np.float32],  # (prompts, panels, rows, 16)
    selected: NDArray[np.int64],  # (U,)
    factors: NDArray[_Number],  # (U, 4 * middle, rows)
    index: NDArray[np.int64],  # (count,)
    weights: NDArray[np.float32],  # (count, narrow)
    base: NDArray[np.float32],  # (panels, 4 * middle, 16)
    bias: NDArray[np.float32],  # (4 * middle,)
    norm_weight: NDArray[np.float32],  # (middle,)
    norm_bias: NDArray[np.float32],  # (middle,)
    norm_eps: float,
    conv2: NDArray[_Number],  # (4 * narrow, middle)
    conv2_bias: NDArray[np.float32],  # (4 * narrow,)
    height: int,
    width: int,
    out: NDArray[np.float32],  # (count, 4 * height, 4 * width)
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
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...  # as ops.mask_runs
def mask_remove_small_regions(
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    height: int,
    width: int,
    min_area: float,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]: ...  # counts, offsets, changed
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
    out: NDArray[np.bool_],  # (N, H, W), or (N, W, H) if column_major; must be zeros: only foreground is written
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

# Fast paths for COCO's dicts. They return None for other input and for malformed runs: the caller then uses the general
# Python code, which also raises the errors.
def coco_area(rles: object, threads: int) -> Any: ...
def coco_to_bbox(rles: object, threads: int) -> Any: ...
def coco_encode(
    masks: NDArray[np.uint8] | NDArray[np.bool_],  # (N, H, W), or (H, W, N) or (H, W) if `last`; any strides
    last: bool,
    as_str: bool,
    threads: int,
) -> Any: ...
def coco_decode(rles: object, row_major: bool, threads: int) -> Any: ...
def coco_iou(dt: object, gt: object, iscrowd: object, threads: int) -> Any: ...
def coco_merge(rles: object, intersect: bool, threads: int) -> Any: ...
def coco_runs(rles: object) -> Any: ...
