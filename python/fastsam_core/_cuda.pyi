"""The compiled module of CUDA kernels; `fastsam_core.ops` is the way to call it.

Tensors come as addresses (`data_ptr()`) of contiguous memory on the current device, and sizes; `stream` is a CUDA
stream's number. A call returns before its work is done.
"""

from collections.abc import Sequence

ARCHITECTURES: str
EMULATED: bool

def why_not() -> str: ...  # such as that there is no code for the current device; "" where kernels can run
def shared_memory() -> int: ...
def copy(to: int, from_: int, bytes: int, stream: int) -> None: ...  # the host's memory is pinned

class Arrival:  # that what was queued on a stream by now is done
    def record(self, stream: int) -> None: ...
    def wait(self) -> None: ...

def attention_has_kernel(dim: int) -> bool: ...
def windowed_attention_has_kernel(dim: int) -> bool: ...
def attention(
    dtype: int,  # of all tensors, as in _native_cuda.DTYPES
    qkv: int,  # (batch, rows, columns, 3 * heads * dim)
    batch: int,
    rows: int,
    columns: int,
    heads: int,
    dim: int,
    rel_pos_h: int,  # (2 * n - 1, dim), n being `window`, or `rows` where that is 0
    rel_pos_w: int,  # the same with `columns`
    window: int,
    padding: int,  # (3 * heads * dim,), or 0
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
    padding: int,
    out: int,
    stream: int,
) -> None: ...

DECODER_SHARED_BYTES: int
DECODER_SHARED_BYTES_OF_FLOATS: int

# Operands of the decoder lie as ops/_decoder/layouts.py makes them, in float16 or bfloat16 unless said otherwise.
def decoder_parts(length: int) -> int: ...
def decoder_prompts_scratch(
    count: int, sizes: Sequence[int], laid_out: bool, prompts: int, tokens: int, length: int, chosen: Sequence[int]
) -> int: ...
def decoder_lay_out(
    source: Sequence[int],  # ImageParts without the norms
    to: Sequence[int],  # of the same sizes, written: fragments
    length: int,
    stream: int,
) -> None: ...
def decoder_prompts(
    dtype: int,
    given: int,  # (prompts, tokens - outputs, 256)
    output: int,  # (outputs, 256), which each prompt's tokens begin with
    outputs: int,
    weights: int,  # as ops/_decoder/weights.py packs a TokenWeights
    count: int,  # of all weights
    sizes: Sequence[int],  # TokenSizes
    image: Sequence[int],  # ImageParts, in panels
    laid_out: bool,  # but for the norms they are fragments
    constant: int,  # () float32
    eps: float,
    prompts: int,
    tokens: int,  # 1 to 8
    length: int,
    chosen: Sequence[int],
    state: int,  # (prompts, panels, 16 * tokens + 2, 16), written, like the next ones
    final_tokens: int,  # (prompts, len(chosen), 256)
    iou: int,  # (prompts, sizes[6])
    first_own: int,  # (prompts, 8, tokens, 16)
    second_own: int,
    scratch: int,  # `decoder_prompts_scratch` bytes
    scratch_bytes: int,
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_mask_factors_scratch(
    each: int,
    sizes: Sequence[int],
    masks: Sequence[int],
    prompts: int,
    tokens: int,
    wide: int,
    asked_count: int,
    count: int,
) -> int: ...
def decoder_mask_factors(
    dtype: int,
    final_tokens: int,  # (prompts, len(masks) + 1, 256)
    first_own: int,  # (prompts, 8, tokens, 16)
    second_own: int,
    asked: int,  # (asked_count,) int64
    index: int,  # (count,) int64
    column: int,  # (count,) int64
    layers: int,  # (masks, each), packed
    each: int,
    sizes: Sequence[int],  # outputs of the three layers
    masks: Sequence[int],
    prompts: int,
    tokens: int,  # 1 to 8
    wide: int,
    asked_count: int,
    count: int,
    first: int,  # (wide, 128)
    second: int,  # (wide, 128)
    rest: int,  # (wide,)
    laid_out: bool,  # the next ones as `decoder_upscale` takes them
    factors: int,  # (asked_count, wide, 16 * tokens + 2), written, like the next ones
    weights: int,  # (count, sizes[2])
    scratch: int,  # `decoder_mask_factors_scratch` bytes
    scratch_bytes: int,
    stream: int,
) -> None: ...
def decoder_first_look(
    dtype: int,
    q: int,  # (8, rows, 16)
    keys: int,  # fragments (panels, 8)
    values: int,  # fragments (8, panels)
    rows: int,
    length: int,  # image tokens, in panels of 16
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
    cross: int,
    gram: int,  # matrices (prompts, 64 x 64)
    look: int,
    look_mix: int,
    prompts: int,
    tokens: int,  # 1 to 8
    length: int,
    state: int,  # (prompts, panels, 16 * tokens + 2, 16), written
    tops: int,  # (prompts, decoder_parts, 64) float32, written, like the next ones
    totals: int,
    seen: int,  # (prompts, decoder_parts, 8, 16, 8)
    mixed: int,  # (prompts, decoder_parts, 64, 64)
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_second_pass(
    dtype: int,
    image: int,  # fragments (panels, 6, 8)
    values: int,
    norms: int,  # (panels, 2, 16) float32
    constant: float,
    eps: float,
    keys: int,
    keys_mix: int,
    keys_bias: int,  # (prompts, 64) float32, like the other biases
    own: int,
    own_gram: int,
    own_bias: int,
    cross: int,
    cross_mix: int,
    cross_bias: int,
    gram: int,
    look: int,
    look_mix: int,  # matrices (prompts, columns x 128), of 64 columns, or 32 where `narrow`
    look_rest: int,  # (prompts, columns, 2) float32
    narrow: bool,
    prompts: int,
    tokens: int,
    length: int,
    state: int,
    tops: int,  # (prompts, decoder_parts, columns)
    totals: int,
    seen: int,
    mixed: int,  # (prompts, decoder_parts, 130, columns)
    shared_memory: int,
    stream: int,
) -> None: ...
def decoder_upscale(
    dtype: int,
    state: int,  # (prompts, panels, rows, 16)
    asked: int,  # (asked_count,) int64
    factors: int,  # matrices (asked_count, 256 x 128), or x 160 for more than 128 rows
    first: int,  # (asked_count + 1,) int64, where each one's masks begin
    places: int,  # (count,) int64, where each mask goes
    weights: int,  # (count, 32), by `first`
    base: int,  # fragments (panels, 16)
    bias: int,  # (256,) float32
    norm_weight: int,  # (64,) float32
    norm_bias: int,  # (64,) float32
    norm_eps: float,
    enlarge_more: int,  # matrices (1, 128 x 64)
    enlarge_more_bias: int,  # (128,) float32
    asked_count: int,
    rows: int,
    height: int,
    width: int,
    out: int,  # (count, 4 * height, 4 * width) float32, written
    stream: int,
) -> None: ...
def nms_scratch_bytes(n: int, wide_boxes: bool) -> int: ...
def nms(
    boxes: int,  # (n, 4) float32, or float64 if wide_boxes, at a multiple of 16
    wide_boxes: bool,
    order: int,  # (n,) int64
    classes: int,  # (n,) int64 in that order, or 0
    n: int,
    best: int,  # float32, or float64 if wide_scores
    wide_scores: bool,
    threshold: float,
    scratch: int,  # nms_scratch_bytes(), at a multiple of 16
    scratch_size: int,
    kept: int,  # (n,) int64, written
    status: int,  # (2,) int64, 0 before; number of those kept, and faults
    stream: int,
) -> None: ...
def depthwise(
    dtype: int,  # of all tensors, float16 or bfloat16 as in _native_cuda.DTYPES; each begins at a multiple of 16
    x: int,  # (batch, height, width, channels)
    weight: int,  # (3, 3, channels)
    bias: int,  # (channels,)
    shift: int,  # (channels,), added to x first, or 0
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
    dtype: int,  # of all tensors, as in _native_cuda.DTYPES; each begins at a multiple of 16
    x: int,  # (rows, columns), read and written, like delta
    delta: int,
    weight: int,  # (columns,)
    bias: int,
    rows: int,
    columns: int,
    eps: float,
    stream: int,
) -> None: ...
def preprocess_scratch_bytes(sides: Sequence[int], to: Sequence[int]) -> int: ...
def resize_image(
    image: int,  # uint8 of height and width `sides`, at `strides`
    sides: Sequence[int],
    strides: Sequence[int],
    bgr: bool,
    to: Sequence[int],
    scratch: int,  # preprocess_scratch_bytes(), at a multiple of 16
    scratch_size: int,
    out: int,  # (*to, 3) uint8, written
    stream: int,
) -> None: ...
def preprocess_image(
    image: int,  # as for resize_image
    sides: Sequence[int],
    strides: Sequence[int],
    bgr: bool,
    to: Sequence[int],
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
RLE_BAD_OFFSETS: int
RLE_BAD_RUN: int
RLE_BAD_SUM: int
RLE_NO_ROWS: int

def rle_encode_parts(height: int, width: int) -> int: ...
def rle_encode_count(
    masks: int,  # (n, height, width) bytes of these strides
    n: int,
    height: int,
    width: int,
    stride_n: int,
    stride_y: int,
    stride_x: int,
    parts: int,  # (n * rle_encode_parts * RLE_PART_BYTES,) bytes, written
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
def rle_read(
    counts: int,  # (size,) int64
    size: int,
    offsets: int,  # (n + 1,) int64
    n: int,
    error: int,  # (1,) int64, bits are set
    totals: int,  # (n,) int64, written
    areas: int,  # (n,) int64, written
    heights: int,  # (n,) int64, or 0 together with boxes
    boxes: int,  # (n, 4) int64, written
    ends: int,  # (size,) int64, written, or 0 together with set_before
    set_before: int,  # (size,) int64, written
    stream: int,
) -> None: ...
def rle_decode(
    counts: int,
    size: int,
    offsets: int,
    n: int,
    ends: int,  # of rle_read, which has found no error
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

MASK_BAD_ROWS: int
MASK_BAD_ROW_WEIGHTS: int
MASK_BAD_COLUMNS: int
MASK_BAD_COLUMN_WEIGHTS: int

def mask_axes_bytes(columns: int, y_size: int, x_size: int) -> int: ...
def mask_prepare_axes(
    y_cells: int,  # (y_size,) int64
    y_weights: int,  # (y_size, 3) float32
    y_size: int,
    x_cells: int,
    x_weights: int,
    x_size: int,
    rows: int,
    columns: int,
    axes: int,  # (mask_axes_bytes,) bytes, written; the first int64 has MASK_BAD_... of what is wrong
    stream: int,
) -> None: ...

class MaskProblem:
    def __init__(
        self,
        logits: int,  # (n, rows, columns) float32
        n: int,
        rows: int,
        columns: int,
        axes: int,  # what mask_prepare_axes has written
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
    def work_bytes(self) -> int: ...
    def measure(
        self,
        work: int,  # (work_bytes,) bytes, written
        lengths: int,  # (n,) int64, written, as the next two: on the device, or pinned memory of the host's
        boxes: int,  # (n, 4) int64
        sizes: int,  # (n, 3) int64
        stream: int,
    ) -> None: ...
    def write(
        self,
        work: int,
        chosen: int,  # (k,) int64, or 0 for all
        k: int,
        offsets: int,  # (k + 1,) int64
        counts: int,  # (offsets[k],) int64, or int32 if narrow; written
        narrow: bool,
        stream: int,
    ) -> None: ...
