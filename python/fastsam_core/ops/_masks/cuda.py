"""CUDA sibling of `mask_runs`, on the current stream of the tensors' device.

`mask_remove_small_regions` has no CUDA kernel: it follows runs from one column to the next, one after the other.
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
    """See `fastsam_core.ops.mask_runs`. Waits for the GPU once, to know the number of runs."""
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
    """Split the (8 N,) int64 results of measuring N masks into views (lengths, boxes, sizes) of the tensor or array.

    lengths (N,): how many counts each mask has. boxes (N, 4), sizes (N, 3): as in `fastsam_core.ops.mask_runs`.
    """
    n = len(flat) // 8
    return flat[:n], flat[n : 5 * n].reshape(n, 4), flat[5 * n :].reshape(n, 3)


class PreparedAxes:
    """Cells and weights of both axes in the layout that the kernels read, for any number of calls.

    The first four arguments are those of `fastsam_core.ops.mask_runs`; `cells` is (rows, columns) of the logits.

    Attributes:
        error: (1,) int64 on the GPU, to be passed to `check` when it has arrived on the host.
        known: after `fetch`, `error` as an array on the host. It is valid once the program has waited for anything
            that was queued later on the same stream.
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
        """Start copying `error` to `known` on the host, without waiting; return self."""
        self.known = self.error.to("cpu", non_blocking=True).numpy()
        return self

    def check(self, error: int) -> None:
        """Raise ValueError if `error`, the bits that the kernels found, says that cells or weights are invalid."""
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
    """Masks being measured on a GPU: lengths, boxes and sizes first, then the runs of selected masks.

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
        """Queue the measurement of all masks on `stream`.

        place: height, width, left, top, as in `mask_runs`; ValueError if the enlarged masks don't lie within the image.
        numbers: (8 N,) int64 on the GPU or in pinned host memory, written; see `split_numbers`. cuda: the module.
        """
        check_placement(axes.enlarged, *place)
        logits = logits.detach().contiguous()
        shape, at = logits.shape, numbers.data_ptr()
        self._problem = cuda.MaskProblem(
            logits.data_ptr(), *shape, axes.memory.data_ptr(), *axes.enlarged, threshold, offset, *place
        )
        work = logits.new_empty(self._problem.workspace_bytes, dtype=torch.uint8)
        self._work = work.data_ptr()
        lengths, boxes, sizes = at, at + 8 * shape[0], at + 8 * 5 * shape[0]
        self._problem.measure(self._work, lengths, boxes, sizes, stream)
        # Keep the tensors alive: the kernels that write_runs launches read them.
        self._tensors = logits, work, axes

    def write_runs(self, chosen: int, k: int, offsets: int, counts: int, narrow: bool, stream: int) -> None:
        """Queue writing the counts of k masks, one after the other. All pointers are addresses on the GPU.

        chosen: (k,) int64, indices of the masks, or 0 for all masks. offsets: (k + 1,) int64, where each mask's counts
        begin. counts: (offsets[k],), written; int32 if `narrow`, which needs an image of fewer than 2^31 pixels, else
        int64.
        """
        self._problem.write(self._work, chosen, k, offsets, counts, narrow, stream)
