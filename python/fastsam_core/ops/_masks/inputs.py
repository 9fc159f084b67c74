"""Input checks shared by all siblings of the operations on masks and their fakes: types, dtypes and shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import check_ragged, check_size, check_vector


def check_enlargement(
    logits: Tensor, y_cells: Tensor, y_weights: Tensor, x_cells: Tensor, x_weights: Tensor, offset: float
) -> None:
    """Raise ValueError unless the logits are (N, h, w) float32 and both axes fit.

    An axis needs (size,) int64 cells and (size, 3) float32 weights, size at least 1. `offset` must be 0 or more.
    """
    if logits.dim() != 3 or logits.dtype != torch.float32:
        raise ValueError(f"logits must be (N, h, w) of torch.float32; got {tuple(logits.shape)} of {logits.dtype}")
    for name, cells, weights in (("y", y_cells, y_weights), ("x", x_cells, x_weights)):
        check_vector(f"{name}_cells", cells)
        if weights.dtype != torch.float32 or tuple(weights.shape) != (cells.shape[0], 3):
            raise ValueError(
                f"{name}_weights must be ({cells.shape[0]}, 3) of torch.float32, three for each of {name}_cells; "
                f"got {tuple(weights.shape)} of {weights.dtype}"
            )
        if cells.shape[0] == 0:
            raise ValueError("masks must be enlarged to at least one pixel")
    if not offset >= 0:
        raise ValueError(f"the stability offset must be 0 or more, got {offset}")


def check_placement(enlarged: tuple[int, int], height: int, width: int, left: int, top: int) -> None:
    """Raise ValueError unless masks of size `enlarged` (height, width) at (left, top) lie within (height, width)."""
    check_size(height, width)
    if not (0 <= top <= height - enlarged[0] and 0 <= left <= width - enlarged[1]):
        raise ValueError(
            f"the enlarged masks must lie within the image; {enlarged[0]} x {enlarged[1]} at left {left}, top {top} "
            f"do not lie within {height} x {width}"
        )


def check_regions(counts: Tensor, offsets: Tensor, height: int, width: int) -> None:
    """Raise ValueError unless `counts` and `offsets` can describe N masks of a valid size."""
    check_ragged("counts", counts, offsets)
    check_size(height, width)
