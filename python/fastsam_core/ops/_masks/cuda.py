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
        axes = ResamplingAxes(*given, (rows, columns))
        flat = y_cells.new_empty(8 * n)
        lengths, boxes, sizes = split_measurements(flat)
        measured = MeasuredMasks(logits, axes, threshold, offset, (height, width, left, top), flat, cuda, stream)
        offsets = offsets_of(lengths, cuda, stream)
        error, total = torch.cat([axes.error, offsets[-1:]]).tolist()
        axes.check(error)
        counts = offsets.new_empty(total)
        measured.write_runs(0, n, offsets.data_ptr(), counts.data_ptr(), False, stream)
    return counts, offsets, boxes.clone(), sizes.clone()


def split_measurements(flat: Any) -> tuple[Any, Any, Any]:
    """Split the (8 N,) int64 results of measuring N masks into views (lengths, boxes, sizes) of the tensor or array.

    lengths (N,): how many counts each mask has. boxes (N, 4), sizes (N, 3): as in `fastsam_core.ops.mask_runs`.
    """
    n = len(flat) // 8
    return flat[:n], flat[n : 5 * n].reshape(n, 4), flat[5 * n :].reshape(n, 3)


class ResamplingAxes:
    """Cells and weights of both axes in the layout that the kernels read, for any number of calls.

    The first four arguments are those of `fastsam_core.ops.mask_runs`; `cells` is (rows, columns) of the logits.

    Attributes:
        error: (1,) int64 on the GPU, to be passed to `check` when it has arrived on the host.
        host_error: after `fetch`, `error` as an array on the host. It is valid once the program has waited for
            anything that was queued later on the same stream.
    """

    def __init__(
        self, y_cells: Tensor, y_weights: Tensor, x_cells: Tensor, x_weights: Tensor, cells: tuple[int, int]
    ) -> None:
        self.cells = cells
        self.enlarged = y_cells.shape[0], x_cells.shape[0]
        tensors = [tensor.detach().contiguous() for tensor in (y_cells, y_weights, x_cells, x_weights)]
        with on_device_of(*tensors) as (cuda, stream):
            y_ptr, y_weights_ptr, x_ptr, x_weights_ptr = (tensor.data_ptr() for tensor in tensors)
            num_bytes = cuda.mask_axes_bytes(cells[1], *self.enlarged)
            self.buffer = y_cells.new_empty(-(-num_bytes // y_cells.element_size()))
            sizes, axes = self.enlarged, self.buffer.data_ptr()
            cuda.mask_prepare_axes(y_ptr, y_weights_ptr, sizes[0], x_ptr, x_weights_ptr, sizes[1], *cells, axes, stream)
            self._bits = (
                cuda.MASK_BAD_ROWS,
                cuda.MASK_BAD_ROW_WEIGHTS,
                cuda.MASK_BAD_COLUMNS,
                cuda.MASK_BAD_COLUMN_WEIGHTS,
            )
        self.error = self.buffer[:1]
        self.host_error: Any = None

    def fetch(self) -> ResamplingAxes:
        """Start copying `error` to `host_error` on the host, without waiting; return self."""
        self.host_error = self.error.to("cpu", non_blocking=True).numpy()
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
        axes: ResamplingAxes,
        threshold: float,
        offset: float,
        placement: tuple[int, int, int, int],
        measurements: Tensor,
        cuda: Any,
        stream: int,
    ) -> None:
        """Queue the measurement of all masks on `stream`.

        placement: height, width, left, top, as in `mask_runs`; ValueError if the enlarged masks don't lie within the
        image. measurements: (8 N,) int64 on the GPU or in pinned host memory, written; see `split_measurements`. cuda:
        the module.
        """
        check_placement(axes.enlarged, *placement)
        logits = logits.detach().contiguous()
        shape, base = logits.shape, measurements.data_ptr()
        self._problem = cuda.MaskProblem(
            logits.data_ptr(), *shape, axes.buffer.data_ptr(), *axes.enlarged, threshold, offset, *placement
        )
        workspace = logits.new_empty(self._problem.workspace_bytes, dtype=torch.uint8)
        self._workspace = workspace.data_ptr()
        lengths, boxes, sizes = base, base + 8 * shape[0], base + 8 * 5 * shape[0]
        self._problem.measure(self._workspace, lengths, boxes, sizes, stream)
        # Keep the tensors alive: the kernels that write_runs launches read them.
        self._tensors = logits, workspace, axes

    def write_runs(
        self, mask_indices: int, num_masks: int, offsets: int, counts: int, is_int32: bool, stream: int
    ) -> None:
        """Queue writing the counts of masks, one after the other. All pointers are addresses on the GPU.

        mask_indices: (num_masks,) int64, or 0 for all masks. offsets: (num_masks + 1,) int64, where each mask's counts
        begin. counts: (offsets[num_masks],), written; int32 if `is_int32`, which needs an image of fewer than 2^31
        pixels, else int64.
        """
        self._problem.write(self._workspace, mask_indices, num_masks, offsets, counts, is_int32, stream)
