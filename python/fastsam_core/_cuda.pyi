"""The compiled module of CUDA kernels; `fastsam_core.ops` is the way to call it.

Tensors come as addresses (`data_ptr()`) of contiguous memory on the current device, and sizes; `stream` is a CUDA
stream's number. A call returns before its work is done.
"""

ARCHITECTURES: str
EMULATED: bool

def device_count() -> int: ...
def compute_capability() -> int: ...
def shared_memory() -> int: ...
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
def rle_area(
    counts: int,  # (size,) int64
    size: int,
    offsets: int,  # (n + 1,) int64
    n: int,
    areas: int,  # (n,) int64, written
    error: int,  # (1,) int32, written
    stream: int,
) -> None: ...
