"""Operations on masks in PyTorch and NumPy: the definition, and the fallback for every device."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...runs import MaskRuns, find_changes
from .._rle.reference_masks import check_totals, concatenate_runs, run_ends
from .inputs import check_enlargement, check_placement, check_regions
from .reference_regions import remove_small_regions

# Pixels evaluated at once: on the CPU few enough for a core's cache, on other devices enough to be worth a launch.
_STRIP_PIXELS = {"cpu": 1 << 16}
_MANY_STRIP_PIXELS = 1 << 24
# Replaces infinite logits, which half precision produces: 0 * infinity would be NaN, and spread.
_MAX_LOGIT = 1e30
# Rounding of weights and terms can make a weighted sum exceed its cells by this fraction of their magnitude.
_ROUNDING_ERROR = 4e-6


class _Axis:
    """Three taps, i.e. cells with weights, for each position of one axis of the enlarged masks.

    first: (size,) in NumPy, the first cell of each position, ascending. The constructor raises ValueError for
    invalid cells or weights.
    """

    def __init__(self, name: str, first_cells: Tensor, weights: Tensor, num_cells: int) -> None:
        if not bool((first_cells >= 0).all() and (first_cells.diff() >= 0).all() and first_cells[-1] < num_cells):
            raise ValueError(f"{name}_cells must ascend, within 0..{num_cells - 1}")
        if not bool((weights >= 0).all() and ((weights.sum(1) - 1).abs() <= 1e-6).all()):
            raise ValueError(f"{name}_weights must not be negative, and sum to 1 in each row")
        self.first = first_cells.cpu().numpy()
        self._taps = (first_cells[:, None] + torch.arange(3, device=first_cells.device)).clamp(max=num_cells - 1)
        self._weights = weights.detach()[:, :, None]

    def output_range(self, low: int, high: int) -> tuple[int, int]:
        """Return the range [start, stop) of positions that read any of the cells low..high, inclusive."""
        return int(np.searchsorted(self.first, low - 2)), int(np.searchsorted(self.first, high, side="right"))

    def apply(self, source: Tensor, start: int, stop: int) -> Tensor:
        """Return weighted sums of rows: (cells, n) -> (stop - start, n).

        Multiplies and adds in separate operations: eager PyTorch rounds after each one, as `mask_runs` demands.
        """
        taps = zip(self._taps[start:stop].unbind(1), self._weights[start:stop].unbind(1), strict=True)
        return reduce(Tensor.add_, (source.index_select(0, cells).mul_(weights) for cells, weights in taps))


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
    y = _Axis("y", y_cells, y_weights, logits.shape[1])
    x = _Axis("x", x_cells, x_weights, logits.shape[2])
    logits = logits.detach().nan_to_num(nan=-_MAX_LOGIT).clamp(-_MAX_LOGIT, _MAX_LOGIT)
    counts, boxes, sizes = [], [], []
    for mask_logits in logits:
        runs, inner, outer = _measure(mask_logits, y, x, threshold, offset)
        counts.append(torch.from_numpy(runs.counts(height, width, left, top).astype(np.int64)))
        boxes.append(runs.box())
        sizes.append((runs.area(), inner, outer))
    results = (
        *concatenate_runs(counts, y_cells.cpu()),
        torch.tensor(boxes, dtype=torch.int64, device="cpu").reshape(-1, 4),
        torch.tensor(sizes, dtype=torch.int64, device="cpu").reshape(-1, 3),
    )
    first, second, third, fourth = (result.to(logits.device) for result in results)
    return first, second, third, fourth


def mask_remove_small_regions(
    counts: Tensor, offsets: Tensor, height: int, width: int, min_area: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `fastsam_core.ops.mask_remove_small_regions`."""
    check_regions(counts, offsets, height, width)
    _, _, ends = run_ends(counts, offsets)
    check_totals(offsets, ends, torch.full_like(offsets[1:], height * width))
    runs = counts.cpu().numpy()
    cleaned, changes = [], []
    for begin, end in pairwise(offsets.tolist()):
        mask, changed = runs[begin:end], False
        if height * width:
            result, changed = remove_small_regions(MaskRuns.from_counts(mask, height), (height, width), min_area)
            mask = result.counts(height, width).astype(np.int64) if changed else mask
        cleaned.append(torch.from_numpy(mask.copy()))
        changes.append(changed)
    new_counts, new_offsets = concatenate_runs(cleaned, offsets.cpu())
    changed_masks = torch.tensor(changes, dtype=torch.bool, device=counts.device)
    return new_counts.to(counts.device), new_offsets.to(counts.device), changed_masks


def _measure(logits: Tensor, y: _Axis, x: _Axis, threshold: float, offset: float) -> tuple[MaskRuns, int, int]:
    """Return the runs of one mask (h, w), and the numbers of pixels above threshold + offset and threshold - offset.

    A pixel's logit is a weighted mean of at most 3 x 3 cells. So only the rectangle of pixels that read the rows and
    columns with a cell above the lowest level is evaluated.
    """
    low_level = threshold - offset
    peak, magnitude = logits.amax(1), logits.abs().amax(1)
    rows = (peak + _ROUNDING_ERROR * magnitude > low_level).nonzero().reshape(-1).tolist()
    peak, magnitude = logits.amax(0), logits.abs().amax(0)
    columns = (peak + _ROUNDING_ERROR * magnitude > low_level).nonzero().reshape(-1).tolist()
    if not rows or not columns:
        return MaskRuns.join([]), 0, 0
    (top, bottom), (left, right) = y.output_range(rows[0], rows[-1]), x.output_range(columns[0], columns[-1])
    # Transposed, because runs go down the columns.
    resampled = y.apply(logits, top, bottom).T.contiguous()
    period = bottom - top + 1
    step = max(1, _STRIP_PIXELS.get(logits.device.type, _MANY_STRIP_PIXELS) // period)
    inner = outer = 0
    parts = []
    for start in range(left, right, step):
        pixels = x.apply(resampled, start, min(start + step, right))
        inner += _count_above(pixels, threshold + offset)
        outer += _count_above(pixels, low_level)
        changes = _find_changes(pixels, threshold)
        if len(changes):
            parts.append(MaskRuns.from_changes(changes, period, start, top))
    return MaskRuns.join(parts), inner, outer


def _count_above(pixels: Tensor, level: float) -> int:
    # On the CPU, NumPy compares and counts several times faster than PyTorch.
    if pixels.device.type == "cpu":
        return int(np.count_nonzero(pixels.numpy() > level))
    return int(torch.count_nonzero(pixels > level))


def _find_changes(pixels: Tensor, level: float) -> np.ndarray:
    """Return the flat positions at which `pixels > level` changes, with an unset pixel after each row (see runs.py)."""
    if pixels.device.type == "cpu":
        padded = np.zeros((pixels.shape[0], pixels.shape[1] + 1), bool)
        np.greater(pixels.numpy(), level, out=padded[:, :-1])
        return find_changes(padded)
    return find_changes_on_device(torch.nn.functional.pad(pixels > level, (0, 1)))


def find_changes_on_device(above: Tensor) -> np.ndarray:
    """Do the same as `find_changes`, on the tensor's device."""
    flat = above.reshape(-1)
    changed = flat.clone()
    changed[1:] ^= flat[:-1]
    return changed.nonzero().reshape(-1).cpu().numpy()
