"""The CUDA sibling of `mask_runs`, on the current stream of the tensors' device.

Small regions are found by following runs from one to the next, which has no CUDA form.
"""

from __future__ import annotations

from typing import Any

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
    given = y_cells, y_weights, x_cells, x_weights
    check_enlargement(logits, *given, offset)
    n, rows, columns = logits.shape
    check_placement((y_cells.shape[0], x_cells.shape[0]), height, width, left, top)
    with on_device_of(logits, *given) as (cuda, stream):
        axes = PreparedAxes(*given, (rows, columns))
        flat = y_cells.new_empty(8 * n)
        lengths, boxes, sizes = split_numbers(flat)
        found = MeasuredMasks(logits, axes, threshold, offset, (height, width, left, top), flat, cuda, stream)
        offsets = offsets_of(lengths, cuda, stream)
        error, total = torch.cat([axes.error, offsets[-1:]]).tolist()
        axes.check(error)
        counts = offsets.new_empty(total)
        found.write_runs(0, n, offsets.data_ptr(), counts.data_ptr(), False, stream)
    return counts, offsets, boxes.clone(), sizes.clone()


def split_numbers(flat: Any) -> tuple[Any, Any, Any]:
    """What is known of N masks before their runs are written, of an (8 N,) int64 tensor or array, as views of it.

    lengths (N,): how many counts each mask has. boxes (N, 4), sizes (N, 3): as in `fastsam_core.ops.mask_runs`.
    """
    n = len(flat) // 8
    return flat[:n], flat[n : 5 * n].reshape(n, 4), flat[5 * n :].reshape(n, 3)


class PreparedAxes:
    """The axes by which masks of `cells` (rows, columns) are enlarged, as kernels take them: for any number of calls.

    The arguments are those of `fastsam_core.ops.mask_runs`. error: (1,), still on the GPU, see `check`. known: the same
    on the host after `fetch`, once anything that was queued later on that stream has arrived.
    """

    def __init__(
        self, y_cells: Tensor, y_weights: Tensor, x_cells: Tensor, x_weights: Tensor, cells: tuple[int, int]
    ) -> None:
        self.cells = cells
        self.enlarged = y_cells.shape[0], x_cells.shape[0]
        given = [tensor.detach().contiguous() for tensor in (y_cells, y_weights, x_cells, x_weights)]
        with on_device_of(*given) as (cuda, stream):
            y, y_share, x, x_share = (tensor.data_ptr() for tensor in given)
            bytes_ = cuda.mask_axes_bytes(cells[1], *self.enlarged)
            self.memory = y_cells.new_empty(-(-bytes_ // y_cells.element_size()))
            sizes, axes = self.enlarged, self.memory.data_ptr()
            cuda.mask_prepare_axes(y, y_share, sizes[0], x, x_share, sizes[1], *cells, axes, stream)
            self._bits = (
                cuda.MASK_BAD_ROWS,
                cuda.MASK_BAD_ROW_WEIGHTS,
                cuda.MASK_BAD_COLUMNS,
                cuda.MASK_BAD_COLUMN_WEIGHTS,
            )
        self.error = self.memory[:1]
        self.known: Any = None

    def fetch(self) -> PreparedAxes:
        self.known = self.error.to("cpu", non_blocking=True).numpy()
        return self

    def check(self, error: int) -> None:
        """ValueError for what the values of the axes tell."""
        if error == 0:
            return
        rows, columns = self.cells
        problems = (
            f"y_cells must ascend, within 0..{rows - 1}",
            "y_weights must not be negative, and sum to 1 in each row",
            f"x_cells must ascend, within 0..{columns - 1}",
            "x_weights must not be negative, and sum to 1 in each row",
        )
        for bit, problem in zip(self._bits, problems, strict=True):
            if error & bit:
                raise ValueError(problem)


class MeasuredMasks:
    """Masks that are being measured on a GPU: their numbers first, then runs for those of them that are wanted.

    Nothing here waits for the GPU.
    """

    def __init__(
        self,
        logits: Tensor,  # (N, rows, columns) float32
        axes: PreparedAxes,
        threshold: float,
        offset: float,
        place: tuple[int, int, int, int],
        numbers: Tensor,
        cuda: Any,
        stream: int,
    ) -> None:
        """place: height, width, left, top, as in `mask_runs`; ValueError where they don't fit together.

        numbers: (8 N,) int64, written: see `split_numbers`. On the GPU, or pinned memory of the host's.
        """
        check_placement(axes.enlarged, *place)
        logits = logits.detach().contiguous()
        shape, at = logits.shape, numbers.data_ptr()
        self._problem = cuda.MaskProblem(
            logits.data_ptr(), *shape, axes.memory.data_ptr(), *axes.enlarged, threshold, offset, *place
        )
        work = logits.new_empty(self._problem.work_bytes, dtype=torch.uint8)
        self._work = work.data_ptr()
        lengths, boxes, sizes = at, at + 8 * shape[0], at + 8 * 5 * shape[0]
        self._problem.measure(self._work, lengths, boxes, sizes, stream)
        # Kept, as the kernels that are still to be launched read them.
        self._tensors = logits, work, axes

    def write_runs(self, chosen: int, k: int, offsets: int, counts: int, narrow: bool, stream: int) -> None:
        """Counts of k masks, one after the other. All memory is the GPU's, by its address.

        chosen: (k,) int64, the masks' numbers, or 0 for all. offsets: (k + 1,) int64, where each one's begin. counts:
        (offsets[k],), written; int32 where `narrow`, for a picture of fewer than 2^31 pixels, else int64.
        """
        self._problem.write(self._work, chosen, k, offsets, counts, narrow, stream)
