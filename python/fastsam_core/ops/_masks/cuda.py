"""The CUDA sibling of `mask_runs`, on the current stream of the tensors' device.

Small regions are found by following runs from one to the next, which has no CUDA form.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._native_cuda import on_device_of
from .._rle.cuda import offsets_of
from .inputs import check_enlargement, check_placement


def mask_runs(
    logits: Tensor,
    y_cells: Tensor,
    y_weights: Tensor,
    x_cells: Tensor,
    x_weights: Tensor,
    threshold: float,
    offset: float,
    height: int,
    width: int,
    left: int = 0,
    top: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `fastsam_core.ops.mask_runs`. Waits for the GPU once, for the number of runs."""
    found = MeasuredMasks(
        logits, (y_cells, y_weights, x_cells, x_weights), threshold, offset, (height, width, left, top)
    )
    with on_device_of(logits) as (cuda, stream):
        offsets = offsets_of(found.numbers.lengths, cuda, stream)
    error, total = torch.cat([found.numbers.error, offsets[-1:]]).tolist()
    found.check(error)
    counts = found.write_runs(None, offsets, total, torch.int64)
    return counts, offsets, found.numbers.boxes.clone(), found.numbers.sizes.clone()


class Numbers(NamedTuple):
    """What is known of N masks before their runs are written; views of one int64 tensor.

    error: (1,), see `MeasuredMasks.check`. lengths: (N,), how many counts each mask has. boxes, sizes: as in
    `fastsam_core.ops.mask_runs`.
    """

    error: Tensor
    lengths: Tensor
    boxes: Tensor
    sizes: Tensor


def split_numbers(flat: Any) -> tuple[Any, Any, Any, Any]:
    """What `Numbers` has, of a (1 + 8 N,) tensor or array, as views of it."""
    n = len(flat) // 8
    return flat[:1], flat[1 : 1 + n], flat[1 + n : 1 + 5 * n].reshape(n, 4), flat[1 + 5 * n :].reshape(n, 3)


class MeasuredMasks:
    """Masks that are being measured on a GPU: their numbers first, then runs for those of them that are wanted.

    Nothing here waits for the GPU. flat: the `Numbers` in one tensor, to be fetched with one copy.
    """

    def __init__(
        self,
        logits: Tensor,
        axes: tuple[Tensor, Tensor, Tensor, Tensor],
        threshold: float,
        offset: float,
        place: tuple[int, int, int, int],
    ) -> None:
        """Arguments as in `mask_runs`; place: height, width, left, top. ValueError for what their shapes tell."""
        check_enlargement(logits, *axes, offset)
        enlarged = axes[0].shape[0], axes[2].shape[0]
        check_placement(enlarged, *place)
        # Kept, as the kernels that are still to be launched read them.
        self._tensors = tuple(tensor.detach().contiguous() for tensor in (logits, *axes))
        logits, y_cells, y_weights, x_cells, x_weights = self._tensors
        self._shape = tuple(logits.shape)
        with on_device_of(*self._tensors) as (cuda, stream):
            self._problem = cuda.MaskProblem(
                *(logits.data_ptr(), *logits.shape),
                *(y_cells.data_ptr(), y_weights.data_ptr(), enlarged[0]),
                *(x_cells.data_ptr(), x_weights.data_ptr(), enlarged[1]),
                *(threshold, offset, *place),
            )
            self._work = logits.new_empty(self._problem.work_bytes, dtype=torch.uint8)
            self.flat = y_cells.new_empty(1 + 8 * logits.shape[0])
            error, item, n = self.flat.data_ptr(), self.flat.element_size(), logits.shape[0]
            lengths, boxes, sizes = (error + item * place for place in (1, 1 + n, 1 + 5 * n))  # as in `split_numbers`
            self._problem.measure(self._work.data_ptr(), lengths, boxes, sizes, error, stream)
            self._bits = (
                cuda.MASK_BAD_ROWS,
                cuda.MASK_BAD_ROW_WEIGHTS,
                cuda.MASK_BAD_COLUMNS,
                cuda.MASK_BAD_COLUMN_WEIGHTS,
            )

    @property
    def numbers(self) -> Numbers:
        """Still on the GPU."""
        return Numbers(*split_numbers(self.flat))

    def check(self, error: int) -> None:
        """ValueError for what the values of the axes tell; `error` has been fetched from the numbers."""
        if error == 0:
            return
        _, rows, columns = self._shape
        problems = (
            f"y_cells must ascend, within 0..{rows - 1}",
            "y_weights must not be negative, and sum to 1 in each row",
            f"x_cells must ascend, within 0..{columns - 1}",
            "x_weights must not be negative, and sum to 1 in each row",
        )
        for bit, problem in zip(self._bits, problems, strict=True):
            if error & bit:
                raise ValueError(problem)

    def write_runs(self, chosen: Tensor | None, offsets: Tensor, total: int, dtype: torch.dtype) -> Tensor:
        """Counts (total,) of some masks, one after the other; only after `check`.

        chosen: (K,) int64, their numbers, or None for all. offsets: (K + 1,) int64, where each one's begin, and
        `total`. dtype: int64, or int32 for a picture of fewer than 2^31 pixels.
        """
        counts = offsets.new_empty(total, dtype=dtype)
        with on_device_of(offsets, *self._tensors) as (_, stream):
            self._problem.write(
                self._work.data_ptr(),
                0 if chosen is None else chosen.data_ptr(),
                offsets.shape[0] - 1,
                offsets.data_ptr(),
                counts.data_ptr(),
                dtype == torch.int32,
                stream,
            )
        return counts
