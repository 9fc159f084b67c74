"""Stub of the compiled module of CUDA kernels, which is called through `fastsam_core.ops`.

Tensors are passed as addresses (`data_ptr()`) of contiguous memory on the current device, with their sizes. `stream` is
the handle of a CUDA stream. Calls return before their work is done.
"""

from collections.abc import Sequence

ARCHITECTURES: str
EMULATED: bool

def unavailable_reason() -> str: ...  # why kernels can't run on the current device, e.g. no code for it; "" if they can
def shared_memory_per_multiprocessor() -> int: ...  # bytes, on the current device
def copy_async(to: int, from_: int, bytes: int, stream: int) -> None: ...  # between device and pinned host memory

class Event:  # a CUDA event: `synchronize` blocks until all work queued before `record` is done
    def record(self, stream: int) -> None: ...
    def synchronize(self) -> None: ...

def attention_has_kernel(dim: int) -> bool: ...
def windowed_attention_has_kernel(dim: int) -> bool: ...
def attention(
    dtype: int,  # of all tensors; codes as in _native_cuda.DTYPES
    qkv: int,  # (batch, rows, columns, 3 * heads * dim)
    batch: int,
    rows: int,
    columns: int,
    heads: int,
    dim: int,
    rel_pos_h: int,  # (2 * n - 1, dim), where n is `window`, or `rows` if `window` is 0
    rel_pos_w: int,  # (2 * n - 1, dim), where n is `window`, or `columns` if `window` is 0
    window: int,
    padding: int,  # (3 * heads * dim,), or 0 for None
    out: int,  # (batch, rows, columns, heads * dim), written
    shared_memory: int,
    stream: int,
) -> None: ...
def attention_wgmma_has_kernel(dtype: int, rows: int, columns: int, dim: int, window: int) -> bool: ...
def attention_wgmma(
    dtype: int,  # float16 or bfloat16
    qkv: int,  # (batch, rows, columns, 3 * heads * dim)
    batch: int,
    rows: int,
    columns: int,
    heads: int,
    dim: int,
    rel_pos_h: int,  # (2 * rows - 1, dim)
    rel_pos_w: int,  # (2 * columns - 1, dim)
    out: int,  # (batch, rows, columns, heads * dim), written
    stream: int,
) -> None: ...
def windowed_attention(
    dtype: int,
    qkv: int,  # (batch, rows, columns, heads * 3 * dim)
    batch: int,
    rows: int,
    columns: int,
    heads: int,
    dim: int,
    bias: int,  # (heads, window**2, window**2)
    window: int,
    padding: int,  # (heads * 3 * dim,), or 0 for None
    out: int,  # (batch, rows, columns, heads * dim), written
    stream: int,
) -> None: ...

# The most shared memory that a block of the decoder's kernels needs: in half precision, and in float32.
DECODER_SHARED_BYTES: int
DECODER_SHARED_BYTES_FLOAT32: int

# The decoder's operands have the layouts of ops/_decoder/layouts.py, which `fragments`, `vectors` and `matrices` refer
# to. They are of `dtype`, unless a comment names another.
def decoder_parts(length: int) -> int: ...  # parts of the image over which a pass sums separately
def decoder_prompts_scratch_bytes(
    count: int, sizes: Sequence[int], packed: bool, prompts: int, tokens: int, length: int, chosen: Sequence[int]
) -> int: ...
def decoder_pack_image(
    source: Sequence[int],  # ImageParts without the norms, in panels
    to: Sequence[int],  # fragments of the same sizes, written
    length: int,
    stream: int,
) -> None: ...
def decoder_prompts(
    dtype: int,
    input_tokens: int,  # (prompts, tokens - outputs, 256), each prompt's tokens after the output tokens
    output: int,  # (outputs, 256), the first tokens of every prompt; 0 if `outputs` is 0
    outputs: int,
    weights: int,  # a TokenWeights, packed as in ops/_decoder/weights.py
    count: int,  # number of values in `weights`
    sizes: Sequence[int],  # TokenSizes
    image: Sequence[int],  # ImageParts
    packed: bool,  # ImageParts without the norms are fragments, else panels
    constant: int,  # () float32
    eps: float,
    prompts: int,
    tokens: int,  # 1 to 8
    length: int,
    chosen: Sequence[int],
    state: int,  # (prompts, panels, 16 * tokens + 2, 16), written, like the following ones
    final_tokens: int,  # (prompts, len(chosen), 256)
    iou: int,  # (prompts, sizes[6])
    first_token_values: int,  # (prompts, 8, tokens, 16)
    second_token_values: int,  # (prompts, 8, tokens, 16)
    scratch: int,  # `decoder_prompts_scratch_bytes` bytes
    scratch_bytes: int,
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_mask_factors_scratch_bytes(
    mask_size: int,
    sizes: Sequence[int],
    masks: Sequence[int],
    prompts: int,
    tokens: int,
    conv1_channels: int,
    selected_count: int,
    count: int,
) -> int: ...
def decoder_mask_factors(
    dtype: int,
    final_tokens: int,  # (prompts, len(masks) + 1, 256)
    first_token_values: int,  # (prompts, 8, tokens, 16)
    second_token_values: int,  # (prompts, 8, tokens, 16)
    selected: int,  # (selected_count,) int64
    index: int,  # (count,) int64
    column: int,  # (count,) int64
    layers: int,  # (masks, each), packed
    mask_size: int,
    sizes: Sequence[int],  # number of outputs of each of the three layers
    masks: Sequence[int],
    prompts: int,
    tokens: int,  # 1 to 8
    conv1_channels: int,
    selected_count: int,
    count: int,
    first_mix: int,  # (conv1_channels, 128)
    second_mix: int,  # (conv1_channels, 128)
    constant_mix: int,  # (conv1_channels,)
    packed: bool,  # write `factors` as the matrices of `decoder_upscale`
    factors: int,  # (selected_count, conv1_channels, 16 * tokens + 2), written, like the following ones
    weights: int,  # (count, sizes[2])
    scratch: int,  # `decoder_mask_factors_scratch_bytes` bytes
    scratch_bytes: int,
    stream: int,
) -> None: ...
def decoder_first_token_to_image(
    dtype: int,
    q: int,  # (8, rows, 16)
    keys: int,  # fragments (panels, 8)
    values: int,  # fragments (8, panels)
    rows: int,
    length: int,  # number of image tokens, which are in panels of 16
    out: int,  # (8, rows, 16), written
    stream: int,
) -> None: ...
def decoder_first_pass(
    dtype: int,
    image: int,  # fragments (panels, 4, 8)
    values: int,  # fragments (8, panels)
    norms: int,  # (panels, 16) float32
    eps: float,
    keys: int,  # vectors (prompts, 8)
    cross: int,  # vectors, like keys
    gram: int,  # matrices (prompts, 64 x 64)
    queries: int,  # vectors, like keys
    queries_mix: int,  # matrices, like gram
    prompts: int,
    tokens: int,  # 1 to 8
    length: int,
    state: int,  # (prompts, panels, 16 * tokens + 2, 16), written
    max_scores: int,  # (prompts, decoder_parts, 64) float32, written, like the following; see layouts.merge_sums
    weight_sums: int,  # (prompts, decoder_parts, 64)
    value_sums: int,  # (prompts, decoder_parts, 8, 16, 8)
    coefficient_sums: int,  # (prompts, decoder_parts, 64, 64)
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_second_pass(
    dtype: int,
    image: int,  # fragments (panels, 6, 8)
    values: int,  # fragments (8, panels)
    norms: int,  # (panels, 2, 16) float32
    constant: float,
    eps: float,
    keys: int,  # vectors (prompts, 8), like first_cross and cross
    keys_mix: int,  # matrices (prompts, 64 x 64), like the other mixes and grams
    keys_bias: int,  # (prompts, 64) float32, like the other biases
    first_cross: int,
    first_gram: int,
    first_bias: int,
    cross: int,
    cross_mix: int,
    cross_bias: int,
    gram: int,
    queries: int,  # vectors (prompts, 8); as from layouts.pack_few_queries if `few_queries`
    queries_mix: int,  # matrices (prompts, columns x 128), of all but the last 2 coefficients
    queries_mix_last: int,  # (prompts, columns, 2) float32, of the last two; 64 columns, or 32 if `few_queries`
    few_queries: bool,  # queries of at most 4 tokens
    prompts: int,
    tokens: int,
    length: int,
    state: int,  # (prompts, panels, 16 * tokens + 2, 16), read and written
    max_scores: int,  # (prompts, decoder_parts, columns) float32, written, like the following; see layouts.merge_sums
    weight_sums: int,  # (prompts, decoder_parts, columns)
    value_sums: int,  # (prompts, decoder_parts, 8, 16, 8)
    coefficient_sums: int,  # (prompts, decoder_parts, 130, columns)
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_upscale(
    dtype: int,
    state: int,  # (prompts, panels, rows, 16)
    selected: int,  # (selected_count,) int64
    factors: int,  # matrices (selected_count, 256 x 128), or 256 x 160 for more than 128 rows
    mask_offsets: int,  # (selected_count + 1,) int64, where each selected prompt begins in out_indices and weights
    out_indices: int,  # (count,) int64, index of each mask in `out`
    weights: int,  # (count, 32)
    base: int,  # fragments (panels, 16)
    bias: int,  # (256,) float32
    norm_weight: int,  # (64,) float32
    norm_bias: int,  # (64,) float32
    norm_eps: float,
    conv2: int,  # matrices (1, 128 x 64)
    conv2_bias: int,  # (128,) float32
    selected_count: int,
    rows: int,
    height: int,
    width: int,
    out: int,  # (count, 4 * height, 4 * width) float32, written
    stream: int,
) -> None: ...
def nms_scratch_bytes(n: int, boxes_are_double: bool) -> int: ...
def nms(
    boxes: int,  # (n, 4) float32, or float64 if boxes_are_double, at a multiple of 16
    boxes_are_double: bool,
    order: int,  # (n,) int64, box indices by class if there are classes, then by descending score
    classes: int,  # (n,) int64 in that order, or 0
    n: int,
    max_score: int,  # the highest score (NaN if there is one), float32, or float64 if scores_are_double
    scores_are_double: bool,
    threshold: float,
    scratch: int,  # nms_scratch_bytes(), at a multiple of 16
    scratch_size: int,
    kept: int,  # (n,) int64, written: places in `order`
    status: int,  # (2,) int64, must be 0, written: the number of kept boxes, and the bits of faults
    stream: int,
) -> None: ...
def depthwise(
    dtype: int,  # of all tensors, float16 or bfloat16, codes as in _native_cuda.DTYPES; addresses are multiples of 16
    x: int,  # (batch, height, width, channels)
    weight: int,  # (3, 3, channels)
    bias: int,  # (channels,)
    shift: int,  # (channels,), added to x first, or 0 for none
    out: int,  # (batch, ceil(height / stride), ceil(width / stride), channels), written
    batch: int,
    height: int,
    width: int,
    channels: int,  # a multiple of 8
    stride: int,  # 1 or 2
    gelu: bool,
    stream: int,
) -> None: ...
def add_norm_has_kernel(columns: int) -> bool: ...
def add_norm(
    dtype: int,  # of all tensors, codes as in _native_cuda.DTYPES; addresses are multiples of 16
    x: int,  # (rows, columns), read and written
    delta: int,  # (rows, columns), read and written
    weight: int,  # (columns,)
    bias: int,  # (columns,)
    rows: int,
    columns: int,
    eps: float,
    stream: int,
) -> None: ...
def preprocess_scratch_bytes(in_size: Sequence[int], out_size: Sequence[int]) -> int: ...
def resize_image(
    image: int,  # (*in_size, 3) uint8 with these strides
    in_size: Sequence[int],
    strides: Sequence[int],
    bgr: bool,
    out_size: Sequence[int],  # height and width of the result
    scratch: int,  # preprocess_scratch_bytes(), at a multiple of 16
    scratch_size: int,
    out: int,  # (*out_size, 3) uint8, written
    stream: int,
) -> None: ...
def preprocess_image(
    image: int,  # as for resize_image
    in_size: Sequence[int],
    strides: Sequence[int],
    bgr: bool,
    out_size: Sequence[int],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool,
    scratch: int,  # as for resize_image
    scratch_size: int,
    out: int,  # (3, size, size) or (size, size, 3) float32, written
    stream: int,
) -> None: ...

RLE_PART_BYTES: int
# Bits of `error` in rle_measure.
RLE_BAD_OFFSETS: int
RLE_BAD_RUN: int
RLE_BAD_SUM: int
RLE_BAD_HEIGHT: int

def rle_encode_num_parts(height: int, width: int) -> int: ...
def rle_encode_count(
    masks: int,  # (n, height, width) bytes with these strides
    n: int,
    height: int,
    width: int,
    stride_n: int,
    stride_y: int,
    stride_x: int,
    parts: int,  # (n * rle_encode_num_parts * RLE_PART_BYTES,) bytes, written
    lengths: int,  # (n,) int64, written
    stream: int,
) -> None: ...
def rle_encode_write(
    masks: int,
    n: int,
    height: int,
    width: int,
    stride_n: int,
    stride_y: int,
    stride_x: int,
    parts: int,
    offsets: int,  # (n + 1,) int64
    counts: int,  # (offsets[n],) int64, written
    stream: int,
) -> None: ...
def rle_offsets(
    lengths: int,  # (n,) int64
    n: int,
    offsets: int,  # (n + 1,) int64, written
    stream: int,
) -> None: ...
def rle_measure(
    counts: int,  # (size,) int64
    size: int,
    offsets: int,  # (n + 1,) int64
    n: int,
    error: int,  # (1,) int64, RLE_BAD_... bits are set in it
    totals: int,  # (n,) int64, written: pixels of each mask
    areas: int,  # (n,) int64, written: foreground pixels of each mask
    heights: int,  # (n,) int64, or 0 together with boxes
    boxes: int,  # (n, 4) int64, written
    ends: int,  # (size,) int64, written: where each run ends in its mask; or 0 together with set_before
    set_before: int,  # (size,) int64, written: foreground pixels of the mask before each run's end
    stream: int,
) -> None: ...
def rle_decode(
    counts: int,
    size: int,
    offsets: int,
    n: int,
    ends: int,  # from rle_measure, which must have found no error
    height: int,
    width: int,
    column_major: bool,
    out: int,  # (n, height, width) bytes, written; (n, width, height) if column_major
    stream: int,
) -> None: ...
def rle_iou(
    dt: tuple[int, ...],  # counts, size, offsets, n, ends, set_before, areas
    gt: tuple[int, ...],
    iscrowd: int,  # (gt's n,) bool
    out: int,  # (dt's n, gt's n) float64, written
    stream: int,
) -> None: ...

# Bits of the first int64 of `axes` in mask_prepare_axes.
MASK_BAD_ROWS: int
MASK_BAD_ROW_WEIGHTS: int
MASK_BAD_COLUMNS: int
MASK_BAD_COLUMN_WEIGHTS: int

def mask_axes_bytes(columns: int, y_size: int, x_size: int) -> int: ...
def mask_prepare_axes(
    y_cells: int,  # (y_size,) int64
    y_weights: int,  # (y_size, 3) float32
    y_size: int,
    x_cells: int,  # (x_size,) int64
    x_weights: int,  # (x_size, 3) float32
    x_size: int,
    rows: int,
    columns: int,
    axes: int,  # (mask_axes_bytes,) bytes, written; the first int64 holds the MASK_BAD_... bits
    stream: int,
) -> None: ...

class MaskProblem:
    def __init__(
        self,
        logits: int,  # (n, rows, columns) float32
        n: int,
        rows: int,
        columns: int,
        axes: int,  # as written by mask_prepare_axes
        y_size: int,
        x_size: int,
        threshold: float,
        offset: float,
        height: int,
        width: int,
        left: int,
        top: int,
    ) -> None: ...
    @property
    def workspace_bytes(self) -> int: ...
    def measure(
        self,
        workspace: int,  # (workspace_bytes,) bytes, written
        lengths: int,  # (n,) int64, written, on the device or in pinned host memory, like the next two
        boxes: int,  # (n, 4) int64
        sizes: int,  # (n, 3) int64
        stream: int,
    ) -> None: ...
    def write(
        self,
        workspace: int,
        selected: int,  # (k,) int64, indices of masks, or 0 for all
        k: int,
        offsets: int,  # (k + 1,) int64
        counts: int,  # (offsets[k],) int64, or int32 if use_int32; written
        use_int32: bool,
        stream: int,
    ) -> None: ...
