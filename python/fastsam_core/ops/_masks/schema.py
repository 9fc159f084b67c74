"""Signatures and fakes of the operations on masks."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import unknown_size
from .inputs import check_enlargement, check_placement, check_regions

SCHEMAS = {
    "mask_runs": "(Tensor logits, Tensor y_cells, Tensor y_weights, Tensor x_cells, Tensor x_weights, float threshold, "
    "float offset, SymInt height, SymInt width, SymInt left=0, SymInt top=0) -> (Tensor, Tensor, Tensor, Tensor)",
    "mask_remove_small_regions": "(Tensor counts, Tensor offsets, SymInt height, SymInt width, float min_area) -> "
    "(Tensor, Tensor, Tensor)",
}


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
    check_enlargement(logits, y_cells, y_weights, x_cells, x_weights, offset)
    check_placement((y_cells.shape[0], x_cells.shape[0]), height, width, left, top)
    n = logits.shape[0]
    empty = y_cells.new_empty
    return empty(unknown_size()), empty(n + 1), empty((n, 4)), empty((n, 3))


def mask_remove_small_regions(
    counts: Tensor, offsets: Tensor, height: int, width: int, min_area: float
) -> tuple[Tensor, Tensor, Tensor]:
    check_regions(counts, offsets, height, width)
    changed = counts.new_empty(offsets.shape[0] - 1, dtype=torch.bool)
    return counts.new_empty(unknown_size()), torch.empty_like(offsets), changed
