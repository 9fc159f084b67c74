"""`SamAutomaticMaskGenerator`: segment everything in an image, as a list of dicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import rle
from .._log import warn_once
from .._rle_dicts import unpack
from ..config import Config
from ..encoded_image import EncodedImage
from ..everything.arguments import check_count, check_number
from ..everything.grid import checked_grids
from ..models.mask_scoring import OFFICIAL
from ..models.sam.amg import area_from_rle, box_xyxy_to_xywh, build_all_layer_point_grids, coco_encode_rle
from ..segment import generate_records
from ..stopwatch import Stopwatch
from .generator_steps import GeneratorSteps
from .predictor import SamPredictor

_POINTS_PER_BATCH = 64
_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
# In Meta's package a threshold of zero or less turns the filter off; in `Config` it is a threshold like any other.
_NO_FILTER = -1e30
_THRESHOLDS = OFFICIAL.conf_thres, OFFICIAL.stability_score_thresh


class SamAutomaticMaskGenerator(GeneratorSteps):
    """Segments everything in an image: prompts with a grid of points, filters by quality, removes duplicates.

    The arguments are Meta's, and so are the methods for the steps, which subclasses may override.

    Args:
        model: From `sam_model_registry`, or a `SAM` or `SamModel` of this package.
        points_per_side: Points along each side of the grid; None if `point_grids` is given.
        points_per_batch: Points decoded together. The default stands for as many as suit the device and its memory:
            1,024 on most GPUs, where 64 take three times as long. Masks differ by rounding at most.
        pred_iou_thresh: Keep masks whose predicted IoU is greater. 0 turns the filter off.
        stability_score_thresh: Keep masks whose stability score is at least this. 0 turns the filter off.
        stability_score_offset: Shift of the logits in the stability score.
        box_nms_thresh: Box IoU above which masks of one crop are duplicates.
        crop_n_layers: Number of layers of ever smaller crops to segment in addition to the image.
        crop_nms_thresh: Box IoU above which masks of different crops are duplicates.
        crop_overlap_ratio: Overlap of the first layer's crops, as a fraction of the image's short side. It halves with
            each further layer.
        crop_n_points_downscale_factor: Factor by which the grid gets sparser with each layer.
        point_grids: One (n, 2) array of x, y in [0, 1] per layer, the whole image first, instead of `points_per_side`.
        min_mask_region_area: Fill holes and remove islands that have fewer pixels.
        output_mode: "binary_mask" for bool arrays (H, W), "uncompressed_rle" for RLE with `counts` as a list,
            "coco_rle" for RLE with `counts` as text.

    Raises:
        ValueError: For an invalid option, or unless exactly one of `points_per_side` and `point_grids` is given.
    """

    def __init__(
        self,
        model: Any,
        points_per_side: int | None = 32,
        points_per_batch: int = _POINTS_PER_BATCH,
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
        crop_n_layers = check_count("crop_n_layers", crop_n_layers, 0)
        if check_number("crop_n_points_downscale_factor", crop_n_points_downscale_factor) <= 0:
            raise ValueError(f"crop_n_points_downscale_factor must be above 0, not {crop_n_points_downscale_factor}")
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
        self._config()  # raises for invalid values now rather than in `generate`
        scoring = getattr(self.predictor.model, "mask_scoring", OFFICIAL)
        if scoring != OFFICIAL and (pred_iou_thresh, stability_score_thresh) == _THRESHOLDS:
            warn_once(
                f"{self.predictor.model.name} scores its masks lower than Meta's models do, so few pass the default "
                f"thresholds; pred_iou_thresh={scoring.conf_thres}, "
                f"stability_score_thresh={scoring.stability_score_thresh} suit it"
            )

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Segment everything in an RGB image, uint8 (H, W, 3), and return one dict per mask.

        Keys: `segmentation` in the form of `output_mode`; `area` in pixels; `bbox` [x, y, width, height], measured from
        the first to the last mask pixel, so a mask of one pixel has width 0; `predicted_iou`; `point_coords` [[x, y]],
        the point that prompted the mask; `stability_score`; `crop_box` [x, y, width, height] of the crop in which it
        was found. Raises ValueError for another kind of image.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            shown = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image must be an RGB array, uint8 (H, W, 3), not {shown}")
        if self._has_own_steps():
            records = self._records_by_steps(image)
        else:
            encoded = EncodedImage(image[..., ::-1], "image")
            records = generate_records(self.predictor.model, encoded, self._config(), Stopwatch())
        for record in records:
            record["segmentation"] = self._segmentation(record["segmentation"])
        return records

    def _records_by_steps(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Return what `generate_records` does, by the methods that Meta's generator consists of."""
        data = self._generate_masks(image)
        if self.min_mask_region_area > 0:
            thresh = max(self.box_nms_thresh, self.crop_nms_thresh)
            data = self.postprocess_small_regions(data, self.min_mask_region_area, thresh)
        return [
            {
                "segmentation": coco_encode_rle(rle_dict),
                "area": area_from_rle(rle_dict),
                "bbox": box_xyxy_to_xywh(np.asarray(box)).tolist(),
                "predicted_iou": float(predicted_iou),
                "point_coords": [np.asarray(point).tolist()],
                "stability_score": float(stability),
                "crop_box": box_xyxy_to_xywh(np.asarray(crop_box)).tolist(),
            }
            for rle_dict, box, predicted_iou, point, stability, crop_box in zip(
                *(data[name] for name in ("rles", "boxes", "iou_preds", "points", "stability_score", "crop_boxes")),
                strict=True,
            )
        ]

    def _config(self) -> Config:
        # Built for every call, since users may change the attributes.
        pred_iou_thresh = check_number("pred_iou_thresh", self.pred_iou_thresh)
        return Config().updated(
            {
                "points_batch_size": None if self.points_per_batch == _POINTS_PER_BATCH else self.points_per_batch,
                "point_grids": self.point_grids,
                "conf_thres": pred_iou_thresh if pred_iou_thresh > 0 else _NO_FILTER,
                "stability_score_thresh": self.stability_score_thresh,
                "stability_score_offset": self.stability_score_offset,
                "iou": self.box_nms_thresh,
                "crop_n_layers": self.crop_n_layers,
                "crop_nms_thresh": self.crop_nms_thresh,
                "crop_overlap_ratio": self.crop_overlap_ratio,
                "min_mask_region_area": self.min_mask_region_area,
            }
        )

    def _segmentation(self, rle_dict: dict[str, Any]) -> Any:
        if self.output_mode == "coco_rle":
            return rle_dict
        if self.output_mode == "uncompressed_rle":
            return {"size": rle_dict["size"], "counts": unpack(rle_dict)[0].tolist()}
        return np.ascontiguousarray(rle.decode(rle_dict)).view(bool)
