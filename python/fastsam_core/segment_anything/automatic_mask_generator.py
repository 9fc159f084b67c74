"""`SamAutomaticMaskGenerator`: all masks of an image, as a list of dicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import rle
from .._log import warn_once
from .._rle_dicts import unpack
from ..config import Config
from ..everything.arguments import check_count
from ..everything.grid import checked_grids
from ..models.judgement import OFFICIAL
from ..models.sam.amg import build_all_layer_point_grids
from ..picture import Picture, Stopwatch
from ..segment import generate_records
from .predictor import SamPredictor

_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
# Zero and less turn the filter off there, while here they are thresholds like any other.
_NO_FILTER = -1e30
_THRESHOLDS = OFFICIAL.conf_thres, OFFICIAL.stability_score_thresh


class SamAutomaticMaskGenerator:
    """Segments everything in an image: prompts a grid of points, filters by quality, removes duplicates.

    model: from `sam_model_registry`, or a `SAM` or `SamModel` of this package. The arguments are Meta's:
    points_per_side: points along each side; None where `point_grids` says which, one (n, 2) array of x, y in [0, 1] per
        layer of crops. points_per_batch: points decoded together.
    pred_iou_thresh, stability_score_thresh: keep masks whose predicted IoU is greater, whose stability is not less; 0
        turns a filter off. stability_score_offset: shift of the logits for the latter.
    box_nms_thresh, crop_nms_thresh: box IoU above which duplicates go, within a crop and between crops.
    crop_n_layers: layers of ever smaller crops beside the image. crop_overlap_ratio: their overlap.
        crop_n_points_downscale_factor: thins the grid of each further layer.
    min_mask_region_area: fill holes and drop islands that have fewer pixels.
    output_mode: "binary_mask" for bool arrays (H, W), "uncompressed_rle" for `counts` as a list, "coco_rle" for text.
    """

    def __init__(
        self,
        model: Any,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("give either points_per_side or point_grids, and None for the other")
        if output_mode not in _MODES:
            raise ValueError(f"output_mode must be one of {', '.join(_MODES)}, not {output_mode!r}")
        if points_per_side is not None:
            per_side = check_count("points_per_side", points_per_side)
            self.point_grids = build_all_layer_point_grids(per_side, crop_n_layers, crop_n_points_downscale_factor)
        else:
            assert point_grids is not None
            self.point_grids = checked_grids(point_grids, crop_n_layers)
        self.predictor = SamPredictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self._config()  # refuses bad values here and not later
        own = self.predictor.model.judgement
        if own != OFFICIAL and (pred_iou_thresh, stability_score_thresh) == _THRESHOLDS:
            warn_once(
                f"{self.predictor.model.name} scores masks lower than Meta's models do, so few pass these thresholds; "
                f"use pred_iou_thresh={own.conf_thres}, stability_score_thresh={own.stability_score_thresh}"
            )

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """All masks of an RGB image, uint8 (H, W, 3): one dict each.

        Keys: `segmentation` as `output_mode` says; `area` in pixels; `bbox` [x, y, width, height], the extent between
        the outermost pixels; `predicted_iou`; `point_coords` [[x, y]], the point that gave the mask; `stability_score`;
        `crop_box` [x, y, width, height] of the crop that it was found in.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            shown = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image must be an RGB array, uint8 (H, W, 3), not {shown}")
        model = self.predictor.model
        records = generate_records(model, Picture(image[..., ::-1], "image"), self._config(), Stopwatch())
        for record in records:
            record["segmentation"] = self._segmentation(record["segmentation"])
        return records

    def _config(self) -> Config:
        # The attributes may have been changed since.
        return Config().updated(
            {
                "points_batch_size": self.points_per_batch,
                "point_grids": self.point_grids,
                "conf_thres": self.pred_iou_thresh if self.pred_iou_thresh > 0 else _NO_FILTER,
                "stability_score_thresh": self.stability_score_thresh,
                "stability_score_offset": self.stability_score_offset,
                "iou": self.box_nms_thresh,
                "crop_n_layers": self.crop_n_layers,
                "crop_nms_thresh": self.crop_nms_thresh,
                "crop_overlap_ratio": self.crop_overlap_ratio,
                "min_mask_region_area": self.min_mask_region_area,
            }
        )

    def _segmentation(self, found: dict[str, Any]) -> Any:
        if self.output_mode == "coco_rle":
            return found
        if self.output_mode == "uncompressed_rle":
            return {"size": found["size"], "counts": unpack(found)[0].tolist()}
        return np.ascontiguousarray(rle.decode(found)).view(bool)
