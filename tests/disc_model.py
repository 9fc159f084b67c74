"""A stand-in for the model in tests of segment everything and its parts: it decodes each point to discs."""

from __future__ import annotations

import torch


class Discs:
    """A model of 64-pixel input that predicts discs around each point and records its calls.

    predicted_iou(points) returns (N, 3). The k-th mask of a point has radius `radii[k]` in low-resolution cells.
    `batches` records the crop box and points of each call, `asked` the (batch, point, mask) of each decoded mask.
    """

    def __init__(self, long_side=64, radii=(2.0, 3.0, 4.0), predicted_iou=lambda points: torch.ones(len(points), 3)):
        self.side = long_side // 4
        self.radii = torch.tensor(radii)
        self.predicted_iou = predicted_iou
        self.batches: list[tuple] = []
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, crop_box, points):
        batch = len(self.batches)
        self.batches.append((crop_box, points.clone()))
        cells = torch.arange(self.side) + 0.5
        centres, radii = points / 4, self.radii

        def logits(point_index, mask_index):
            self.asked += [(batch, int(p), int(m)) for p, m in zip(point_index, mask_index, strict=True)]
            centre, radius = centres[point_index], radii[mask_index]
            dx = cells[None, None, :] - centre[:, 0, None, None]
            dy = cells[None, :, None] - centre[:, 1, None, None]
            return 20 * (radius[:, None, None] - torch.sqrt(dx**2 + dy**2))

        return self.predicted_iou(points), logits


LOOSE = {"points_stride": 4, "conf_thres": -1.0, "stability_score_thresh": -1.0, "input_long_side": 64}
