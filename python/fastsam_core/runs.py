"""Masks as vertical runs within columns: the form between thresholding logits and writing RLE.

COCO's RLE is column-major. Runs that stay within one column can be moved to a larger image, painted, measured and
encoded as RLE without creating that image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class MaskRuns:
    """The set pixels of a mask as runs; run i covers rows `tops[i]` to `bottoms[i] - 1` of column `columns[i]`.

    All three are int64 (R,), sorted by column and then by row. Runs are not empty and don't overlap.
    """

    columns: np.ndarray
    tops: np.ndarray
    bottoms: np.ndarray

    @classmethod
    def from_changes(cls, changes: np.ndarray, period: int, left: int = 0, top: int = 0) -> MaskRuns:
        """Create runs from the positions where a column-major mask changes its value.

        changes: int64 (2 * R,), ascending flat positions. period: the length of a column, including one unset pixel at
        its end that keeps runs from continuing into the next column. left, top: position of the mask's corner.
        """
        starts, ends = changes[0::2], changes[1::2]
        columns = starts // period
        shift = top - columns * period
        return cls(columns + left, starts + shift, ends + shift)

    @classmethod
    def from_mask(cls, mask: np.ndarray, left: int = 0, top: int = 0) -> MaskRuns:
        """Create runs from a bool (h, w) array whose corner lies at column `left`, row `top`."""
        height, width = mask.shape
        padded = np.zeros((width, height + 1), bool)
        padded[:, :height] = mask.T
        return cls.from_changes(find_changes(padded), height + 1, left, top)

    @classmethod
    def from_counts(cls, counts: np.ndarray, height: int) -> MaskRuns:
        """Create runs from uncompressed COCO RLE counts, starting with unset pixels, of an image of `height` rows."""
        edges = np.cumsum(counts, dtype=np.int64)
        starts, ends = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
        first_column = starts // height
        num_columns = (ends - 1) // height - first_column + 1
        # A run that spans k columns becomes k runs.
        columns = np.repeat(first_column - np.cumsum(num_columns) + num_columns, num_columns) + np.arange(
            num_columns.sum()
        )
        tops = np.maximum(np.repeat(starts, num_columns) - columns * height, 0)
        bottoms = np.minimum(np.repeat(ends, num_columns) - columns * height, height)
        return cls(columns, tops, bottoms)

    @classmethod
    def join(cls, parts: list[MaskRuns]) -> MaskRuns:
        """Join masks with disjoint columns, given from left to right, to one mask."""
        if len(parts) == 1:
            return parts[0]
        fields = ((part.columns, part.tops, part.bottoms) for part in parts)
        columns, tops, bottoms = zip(*fields, strict=True) if parts else ((_NO_RUNS,), (_NO_RUNS,), (_NO_RUNS,))
        return cls(np.concatenate(columns), np.concatenate(tops), np.concatenate(bottoms))

    def area(self) -> int:
        """Return the number of set pixels."""
        return int((self.bottoms - self.tops).sum())

    def box(self) -> tuple[int, int, int, int]:
        """Return (x1, y1, x2, y2) of the outermost set pixels, inclusive; zeros for an empty mask."""
        if not len(self.columns):
            return 0, 0, 0, 0
        return int(self.columns[0]), int(self.tops.min()), int(self.columns[-1]), int(self.bottoms.max()) - 1

    def counts(self, height: int, width: int, left: int = 0, top: int = 0) -> np.ndarray:
        """Return uncompressed COCO RLE counts of a (height, width) image with this mask's corner at (left, top).

        The dtype is the smallest unsigned one that holds them, to save memory: thousands of masks may wait for NMS.
        """
        shift = (self.columns + left) * height + top
        starts, ends = self.tops + shift, self.bottoms + shift
        # A run that ends at the bottom of a column and one that starts at the top of the next are one run in RLE.
        is_separate = starts[1:] != ends[:-1]
        edges = np.empty(2 * (int(is_separate.sum()) + bool(len(starts))) + 2, np.int64)
        edges[0], edges[-1] = 0, height * width
        if len(starts):
            edges[1:-1:2] = starts[np.concatenate(([True], is_separate))]
            edges[2:-1:2] = ends[np.concatenate((is_separate, [True]))]
        counts = np.diff(edges)
        if len(counts) > 1 and counts[-1] == 0:
            counts = counts[:-1]
        return counts.astype(np.min_scalar_type(counts.max()))

    def paint(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Return the mask in a window as bool (bottom - top, right - left). The window must contain all set pixels."""
        height, width = bottom - top, right - left
        shift = (self.columns - left) * height - top
        edges = np.zeros(2 * len(shift) + 2, np.int64)
        edges[1:-1:2] = self.tops + shift
        edges[2:-1:2] = self.bottoms + shift
        edges[-1] = height * width
        values = np.arange(len(edges) - 1) % 2 == 1
        return np.repeat(values, np.diff(edges)).reshape(width, height).T


_NO_RUNS = np.zeros(0, np.int64)
# Run lengths to encode at once. Encoding many masks together is faster, but needs working memory of many times their
# run lengths' size.
_COUNTS_PER_ENCODE = 1 << 18


def find_changes(padded: np.ndarray) -> np.ndarray:
    """Return the ascending flat positions, int64, at which bool `padded` differs from the previous value.

    The value before the first is taken as unset.
    """
    flat = padded.reshape(-1)
    changed = np.empty(flat.shape, bool)
    changed[0] = flat[0]
    np.not_equal(flat[1:], flat[:-1], out=changed[1:])
    return np.flatnonzero(changed).astype(np.int64, copy=False)


def encode_counts(counts: list[np.ndarray], height: int, width: int) -> list[dict[str, Any]]:
    """Compress uncompressed counts of masks of one size to COCO RLE dicts, with `counts` as `str`."""
    from . import ops

    rles = []
    for group in _groups(counts, _COUNTS_PER_ENCODE):
        runs = torch.from_numpy(np.concatenate(group).astype(np.int64, copy=False))
        offsets = torch.tensor([0, *accumulate(len(mask) for mask in group)], device="cpu")
        characters, ends = ops.rle_to_string(runs, offsets)
        text, bounds = characters.numpy().tobytes().decode("ascii"), ends.tolist()
        rles += [{"size": [height, width], "counts": text[i:j]} for i, j in pairwise(bounds)]
    return rles


def _groups(arrays: list[np.ndarray], limit: int) -> Iterator[list[np.ndarray]]:
    """Yield groups of consecutive arrays with at most `limit` elements in total, but at least one array."""
    group: list[np.ndarray] = []
    total = 0
    for array in arrays:
        if group and total + len(array) > limit:
            yield group
            group, total = [], 0
        group.append(array)
        total += len(array)
    if group:
        yield group
