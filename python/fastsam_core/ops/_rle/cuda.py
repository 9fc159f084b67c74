"""The CUDA sibling: device tensors in and out of the kernels, on the current stream of the tensors' device."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import MAX_PIXELS, check_ragged
from .._native_cuda import on_device_of

# As RunsError in csrc/rle/rle_cuda.h.
_FINE = 0x7F7F7F7F
_ERRORS = (
    "offsets must rise from 0 to {size}, the number of values",
    f"run lengths must be from 0 to {MAX_PIXELS}",
    f"the runs of a mask sum to more than {MAX_PIXELS}",
)


def _raise(error: Tensor, size: int) -> None:
    """ValueError for what a kernel found wrong with runs; waits for it."""
    code = int(error)
    if code != _FINE:
        raise ValueError(_ERRORS[code].format(size=size))


def rle_area(counts: Tensor, offsets: Tensor) -> Tensor:
    """See `fastsam_core.ops.rle_area`."""
    check_ragged("counts", counts, offsets)
    counts, offsets = counts.contiguous(), offsets.contiguous()
    size, n = counts.shape[0], offsets.shape[0] - 1
    areas, error = offsets.new_empty(n), offsets.new_empty(1, dtype=torch.int32)
    with on_device_of(counts, offsets) as (cuda, stream):
        cuda.rle_area(counts.data_ptr(), size, offsets.data_ptr(), n, areas.data_ptr(), error.data_ptr(), stream)
    _raise(error, size)
    return areas
