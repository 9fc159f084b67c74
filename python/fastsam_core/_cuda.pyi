"""The compiled module of CUDA kernels; `fastsam_core.ops` is the way to call it.

Tensors come as addresses (`data_ptr()`) of contiguous memory on the current device, and sizes; `stream` is a CUDA
stream's number. A call returns before its work is done.
"""

from collections.abc import Sequence

ARCHITECTURES: str
EMULATED: bool

def device_count() -> int: ...
def compute_capability() -> int: ...
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
def rle_area(
    counts: int,  # (size,) int64
    size: int,
    offsets: int,  # (n + 1,) int64
    n: int,
    areas: int,  # (n,) int64, written
    error: int,  # (1,) int32, written
    stream: int,
) -> None: ...
