"""C++ sibling of the operations on masks: pass tensors to the compiled module, which also checks the values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._inputs import check_memory
from .._native import array_of, cpu_module
from .._threads import thread_count
from .inputs import check_enlargement, check_placement, check_regions

_cpu: Any = cpu_module


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
    """See `fastsam_core.ops.mask_runs`."""
    check_enlargement(logits, y_cells, y_weights, x_cells, x_weights, offset)
    check_placement((y_cells.shape[0], x_cells.shape[0]), height, width, left, top)
    arrays = map(array_of, (logits, y_cells, y_weights, x_cells, x_weights))
    counts, offsets, boxes, sizes = _cpu.mask_runs(*arrays, threshold, offset, height, width, left, top, thread_count())
    return torch.from_numpy(counts), torch.from_numpy(offsets), torch.from_numpy(boxes), torch.from_numpy(sizes)


def mask_remove_small_regions(
    counts: Tensor, offsets: Tensor, height: int, width: int, min_area: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `fastsam_core.ops.mask_remove_small_regions`."""
    check_regions(counts, offsets, height, width)
    runs = array_of(counts), array_of(offsets)
    _cpu.rle_check(*runs, height * width)
    check_memory(56 * width)  # per column: its end in four lists of runs, and one background region
    counts, offsets, changed = _cpu.mask_remove_small_regions(*runs, height, width, min_area, thread_count())
    return torch.from_numpy(counts), torch.from_numpy(offsets), torch.from_numpy(changed.view(bool))
