"""The steps of segment everything as methods, for code that calls or overrides those of Meta's generator."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from .._log import warn_once
from ..config import Config
from ..everything.arguments import Crop
from ..everything.candidates import BatchQueue, Candidates, Filters
from ..everything.generate import checked_filters, crop_candidates
from ..models.native import has_original_methods, watch_methods
from ..models.sam.amg import (
    MaskData,
    batch_iterator,
    batched_mask_to_box,
    calculate_stability_score,
    generate_crop_boxes,
    is_box_near_crop_edge,
    mask_to_rle_pytorch,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from .predictor import SamPredictor
from .utils.transforms import ResizeLongestSide

_STEPS = ("_generate_masks", "_process_crop", "_process_batch", "postprocess_small_regions")


class GeneratorSteps:
    """The methods of Meta's `SamAutomaticMaskGenerator` that `generate` consists of, with their arguments and results.

    `MaskData` holds N masks: `rles`, uncompressed, in the image; `boxes` (N, 4) int64 x0, y0, x1, y1; `iou_preds` (N,);
    `stability_score` (N,); `points` (N, 2) x, y; and, except from `_process_batch`, `crop_boxes` (N, 4).
    """

    predictor: SamPredictor
    point_grids: list[np.ndarray]
    points_per_batch: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    crop_n_layers: int
    crop_nms_thresh: float
    crop_overlap_ratio: float

    def _config(self) -> Config:
        raise NotImplementedError

    def _has_own_steps(self) -> bool:
        """Return whether a step, or a method that steps call, was overridden or replaced."""
        predictor = self.predictor
        is_usual = (
            has_original_methods(self, GeneratorSteps, *_STEPS)
            and has_original_methods(predictor, SamPredictor, "set_image", "reset_image")
            and not self._predicts_at_full_size()
            and not predictor._has_own_input()
            and has_original_methods(predictor.transform, ResizeLongestSide, "apply_coords")
        )
        return not is_usual

    def _predicts_at_full_size(self) -> bool:
        """Return whether masks must come from the predictor's `predict_torch`."""
        predictor = self.predictor
        is_usual = (
            has_original_methods(predictor, SamPredictor, "predict_torch")
            and has_original_methods(predictor.transform, ResizeLongestSide, "get_preprocess_shape")
            and not predictor._has_own_output()
        )
        return not is_usual

    @torch.no_grad()
    def _generate_masks(self, image: np.ndarray) -> MaskData:
        """Return the masks in an RGB image, uint8 (H, W, 3), found in all crops and without duplicates, as arrays."""
        size = image.shape[:2]
        crop_boxes, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        data = MaskData()
        for crop_box, layer in zip(crop_boxes, layers, strict=True):
            data.cat(self._process_crop(image, crop_box, layer, size))
        if len(crop_boxes) > 1:  # prefer the masks of smaller crops
            sides = (data["crop_boxes"][:, 2:] - data["crop_boxes"][:, :2]).float()
            data.filter(_nms(data["boxes"], 1 / sides.prod(1), self.crop_nms_thresh))
        data.to_numpy()
        return data

    @torch.no_grad()
    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """Return the masks in a crop x0, y0, x1, y1 of the image, without duplicates, as tensors.

        orig_size: (H, W) of the image.
        """
        x0, y0, x1, y1 = crop_box
        crop = image[y0:y1, x0:x1]
        size = crop.shape[:2]
        self.predictor.set_image(crop)
        points = self.point_grids[crop_layer_idx] * np.array(size)[::-1]
        data = MaskData()
        # The step itself decodes its points in batches, for which a GPU may choose another size.
        is_usual = has_original_methods(self, GeneratorSteps, "_process_batch") and not self._predicts_at_full_size()
        batch_size = len(points) if is_usual else self.points_per_batch
        for (batch,) in batch_iterator(batch_size, points):
            data.cat(self._process_batch(batch, size, crop_box, orig_size))
        self.predictor.reset_image()
        data.filter(_nms(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor(crop_box, device="cpu").expand(len(data["rles"]), 4).clone()
        return data

    @torch.no_grad()
    def _process_batch(
        self, points: np.ndarray, im_size: tuple[int, ...], crop_box: list[int], orig_size: tuple[int, ...]
    ) -> MaskData:
        """Return the masks of these points that pass the filters, with boxes and points relative to the crop.

        points: (N, 2) x, y in pixels of the crop, whose image the predictor must hold. im_size: (h, w) of the crop.
        orig_size: (H, W) of the image.
        """
        x0, y0, x1, y1 = crop_box
        height, width = orig_size
        if self._predicts_at_full_size() or tuple(im_size) != (y1 - y0, x1 - x0):
            return self._process_batch_by_predictor(points, im_size, crop_box, orig_size)
        model, options = self.predictor.model, self._config().generate_options(self.predictor.model)
        filters = checked_filters(**{key: options[key] for key in Filters.__dataclass_fields__})
        prepared = self.predictor._prepared()

        # All points are scaled by the transform, whose method may be the user's.
        scaled = self.predictor.transform.apply_coords(np.asarray(points), (y1 - y0, x1 - x0))
        coords = torch.from_numpy(np.asarray(scaled, np.float32))
        done = 0

        def decode(crop: list[int], inputs: Tensor) -> Any:
            nonlocal done
            start, done = done, done + len(inputs)
            labels = torch.ones(len(inputs), 1, dtype=torch.int64, device="cpu")
            return model.decode_points(prepared, coords[start:done, None], labels, filters.min_decoded_iou)

        crop, batch_size = Crop((x0, y0, x1, y1), np.asarray(points, np.float64)), options["points_batch_size"]
        parts = crop_candidates(decode, crop, (height, width), batch_size, model.image_size, filters, BatchQueue())
        found = Candidates.join(list(parts))
        return MaskData(
            iou_preds=torch.from_numpy(found.predicted_iou),
            points=torch.from_numpy(found.points - [x0, y0]),
            stability_score=torch.from_numpy(found.stability),
            boxes=torch.from_numpy(found.boxes - [x0, y0, x0, y0]),
            rles=[{"size": [height, width], "counts": counts.tolist()} for counts in found.counts],
        )

    def _process_batch_by_predictor(
        self, points: np.ndarray, im_size: tuple[int, ...], crop_box: list[int], orig_size: tuple[int, ...]
    ) -> MaskData:
        """Do what `_process_batch` does with masks of full size from the predictor's `predict_torch`."""
        predictor, (height, width) = self.predictor, orig_size
        warn_once(f"masks are taken at full size from {type(predictor).__name__}.predict_torch, which takes longer")
        scaled = torch.as_tensor(predictor.transform.apply_coords(points, (im_size[0], im_size[1])))
        coords = scaled.to(predictor.device, torch.float32)[:, None]
        labels = torch.ones(len(coords), 1, dtype=torch.int64, device=coords.device)
        logits, scores, _ = predictor.predict_torch(coords, labels, multimask_output=True, return_logits=True)
        data = MaskData(
            masks=logits.flatten(0, 1),
            iou_preds=scores.flatten().cpu(),
            points=torch.from_numpy(np.asarray(points).repeat(logits.shape[1], axis=0)),
        )
        if self.pred_iou_thresh > 0:
            data.filter(data["iou_preds"] > self.pred_iou_thresh)
        threshold = predictor.model.mask_threshold
        data["stability_score"] = calculate_stability_score(data["masks"], threshold, self.stability_score_offset).cpu()
        if self.stability_score_thresh > 0:
            data.filter(data["stability_score"] >= self.stability_score_thresh)
        data["masks"] = data["masks"] > threshold
        data["boxes"] = batched_mask_to_box(data["masks"]).cpu()
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height]))
        data["rles"] = mask_to_rle_pytorch(uncrop_masks(data["masks"], crop_box, height, width))
        del data["masks"]
        return data

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: float, nms_thresh: float) -> MaskData:
        """Fill holes and remove islands of fewer pixels than `min_area`, then remove masks that became duplicates.

        Changes `mask_data` and returns it. Of duplicates, a mask that needed no change stays.
        """
        rles = mask_data["rles"]
        if not rles:
            return mask_data
        height, width = rles[0]["size"]
        lengths = [len(rle["counts"]) for rle in rles]
        counts = torch.from_numpy(np.concatenate([np.asarray(rle["counts"], np.int64) for rle in rles]))
        offsets = torch.from_numpy(np.cumsum([0, *lengths]))
        counts, offsets, changed = ops.mask_remove_small_regions(counts, offsets, height, width, min_area)
        boxes = ops.rle_to_bbox(counts, offsets, torch.full((len(rles),), height, device="cpu"))  # x, y, w, h
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + (boxes[:, 2:] - 1).clamp(min=0)], 1)
        keep = _nms(boxes, (~changed).float(), nms_thresh)
        cleaned = [counts[i:j] for i, j in pairwise(offsets.tolist())]
        for index in keep[changed[keep]].tolist():
            rles[index] = {"size": [height, width], "counts": cleaned[index].tolist()}
            mask_data["boxes"][index] = boxes[index]
        mask_data.filter(keep)
        return mask_data


watch_methods(GeneratorSteps, names=_STEPS)


def _nms(boxes: Tensor, scores: Tensor, thresh: float) -> Tensor:
    return ops.nms(boxes.float(), scores.float(), thresh).cpu()
