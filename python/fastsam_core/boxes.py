"""`Boxes`: the boxes of one image, one row per object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .base_tensor import Array, BaseTensor


class Boxes(BaseTensor):
    """Boxes in pixels, (N, 6): x1, y1, x2, y2, confidence, class; or (N, 7) with a track id before the confidence.

    One-dimensional data is taken as one box, or none if it is empty. For SAM the confidence is the predicted IoU, and
    the class is the index of the mask before filtering by `conf` (for prompts with one mask each: the index of the
    prompt). Raises ValueError for another number of columns.
    """

    def __init__(self, data: Array, orig_shape: Sequence[int]) -> None:
        super().__init__(data, orig_shape)
        if self._data.ndim == 1:
            self._data = self._data[None] if len(self._data) else self._data.reshape(0, 6)
        if self._data.ndim != 2 or self._data.shape[1] not in (6, 7):
            raise ValueError(
                "boxes are (N, 6): x1, y1, x2, y2, confidence, class; or (N, 7) with a track id before the "
                f"confidence; not {tuple(data.shape)}"
            )

    @property
    def is_track(self) -> bool:
        """Whether the rows contain track ids."""
        return self._data.shape[1] == 7

    @property
    def xyxy(self) -> Array:
        """Corners, (N, 4): x1, y1, x2, y2 in pixels."""
        return self._data[:, :4]

    @property
    def conf(self) -> Array:
        """Confidence, (N,); for SAM the predicted IoU."""
        return self._data[:, -2]

    @property
    def cls(self) -> Array:
        """Class ids, (N,), as floating-point numbers."""
        return self._data[:, -1]

    @property
    def id(self) -> Array | None:
        """Track ids, (N,), or None."""
        return self._data[:, 4] if self.is_track else None

    @property
    def xywh(self) -> Array:
        """Centres and sizes, (N, 4): centre x, centre y, width, height in pixels."""
        x1, y1, x2, y2 = (self._data[:, column] for column in range(4))
        columns: Any = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        return torch.stack(columns, 1) if isinstance(self._data, torch.Tensor) else np.stack(columns, 1)

    @property
    def xyxyn(self) -> Array:
        """`xyxy` divided by the image's width and height."""
        return self._normalised(self.xyxy)

    @property
    def xywhn(self) -> Array:
        """`xywh` divided by the image's width and height."""
        return self._normalised(self.xywh)

    def clipped(self) -> Boxes:
        """Return the boxes clipped to the image: x in [0, width], y in [0, height]."""
        height, width = self.orig_shape
        data: Any = self._data.clone() if isinstance(self._data, torch.Tensor) else self._data.copy()
        data[:, 0:4:2] = data[:, 0:4:2].clip(0, width)
        data[:, 1:4:2] = data[:, 1:4:2].clip(0, height)
        return Boxes(data, self.orig_shape)

    def _normalised(self, pixels: Array) -> Array:
        height, width = self.orig_shape
        scale: Any = [width, height, width, height]
        if isinstance(pixels, torch.Tensor):
            return pixels / torch.tensor(scale, dtype=torch.float32, device=pixels.device)
        return pixels / np.array(scale, dtype=np.float32)
