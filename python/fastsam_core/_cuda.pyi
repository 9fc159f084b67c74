"""The compiled module of CUDA kernels; `fastsam_core.ops` is the way to call it.

Tensors come as addresses (`data_ptr()`) of contiguous memory on the current device, and sizes; `stream` is a CUDA
stream's number. A call returns before its work is done.
"""

ARCHITECTURES: str
EMULATED: bool

def device_count() -> int: ...
def compute_capability() -> int: ...
def rle_area(
    counts: int,  # (size,) int64
    size: int,
    offsets: int,  # (n + 1,) int64
    n: int,
    areas: int,  # (n,) int64, written
    error: int,  # (1,) int32, written
    stream: int,
) -> None: ...
