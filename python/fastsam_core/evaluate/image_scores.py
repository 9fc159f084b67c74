"""All measures of one image. The image is encoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rle
from ..config import Config
from ..encoded_image import EncodedImage
from ..models.sam_model import SamModel
from ..proposals import propose
from ..stopwatch import Stopwatch
from .baselines import disc_mask, grabcut_mask
from .boundary import boundary_f
from .clicks import Click, Mask
from .datasets import GroundTruthObject
from .prompted import MAX_CLICKS, PromptedSegmenter, bounding_box
from .recall import average_recall, matched_ranks
from .settings import EvaluateConfig

NOC_IOU_THRESHOLDS = (0.85, 0.9)
PROPOSAL_COUNTS = (100, 1000)
# Number of objects whose low-resolution logits are in memory at once, 64 to 256 KiB each.
_OBJECTS_PER_CHUNK = 32


@dataclass
class ImageScores:
    """Values of the objects of one image, and what `Cases` draws of each object.

    columns: name -> (n,) float64, one value per object.
    clicks, masks: per object the click (x, y) and its mask; None and the box's mask if no measure needs clicks. Both
        are empty if neither clicks nor boxes are measured.
    details: per object further numbers for its row in val.jsonl.
    """

    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    clicks: list[Click | None] = field(default_factory=list)
    masks: list[rle.RLE] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)


def score_image(
    model: SamModel, image: EncodedImage, objects: list[GroundTruthObject], settings: EvaluateConfig, config: Config
) -> ImageScores:
    """Return the columns that the settings ask for. config: the predictor's options."""
    scores = ImageScores(details=[{} for _ in objects])
    segmenter = PromptedSegmenter(model, image, config)
    columns: dict[str, list[float]] = {}
    for start in range(0, len(objects), _OBJECTS_PER_CHUNK):
        chunk = slice(start, start + _OBJECTS_PER_CHUNK)
        if settings.needs_clicks:
            _add_click_scores(segmenter, objects[chunk], scores, columns, start, settings)
        if "box" in settings.measures:
            masks, ious = segmenter.segment_boxes(objects[chunk])
            columns.setdefault("box_iou", []).extend(ious.tolist())
            if not settings.needs_clicks:
                scores.masks += masks
                scores.clicks += [None] * len(masks)
    if settings.baselines:
        _add_baseline_scores(image, objects, scores, columns, settings)
    if "everything" in settings.measures:
        _add_proposal_scores(model, image, objects, columns, config)
    scores.columns = {name: np.array(values, np.float64) for name, values in columns.items()}
    return scores


def _add_click_scores(
    segmenter: PromptedSegmenter,
    objects: list[GroundTruthObject],
    scores: ImageScores,
    columns: dict[str, list[float]],
    start: int,
    settings: EvaluateConfig,
) -> None:
    first_results = segmenter.segment_clicks(objects)
    for index, (true_object, result) in enumerate(zip(objects, first_results, strict=True), start):
        columns.setdefault("click_iou", []).append(float(result.true_ious[result.best_index]))
        columns.setdefault("oracle_iou", []).append(float(result.true_ious.max()))
        columns.setdefault("predicted_iou", []).append(float(result.predicted_ious[result.best_index]))
        if "boundary" in settings.measures:
            value = boundary_f(_to_mask(result.rle), _to_mask(true_object.rle))
            columns.setdefault("boundary_f", []).append(value)
        scores.masks.append(result.rle)
        scores.clicks.append(result.click)
        scores.details[index] |= {
            "click": list(result.click),
            "predicted_ious": result.predicted_ious.tolist(),
            "true_ious": result.true_ious.tolist(),
        }
    if "noc" in settings.measures:
        by_click = segmenter.simulate_corrections(
            objects, first_results, max(NOC_IOU_THRESHOLDS), mask_feedback=settings.mask_feedback
        )
        for index, ious in enumerate(by_click, start):
            for threshold in NOC_IOU_THRESHOLDS:
                num_clicks = next((count for count, iou in enumerate(ious, 1) if iou >= threshold), None)
                name = f"noc{threshold * 100:.0f}"
                columns.setdefault(name, []).append(MAX_CLICKS if num_clicks is None else num_clicks)
                columns.setdefault(f"{name}_reached", []).append(num_clicks is not None)
            scores.details[index]["ious_by_click"] = ious


def _add_baseline_scores(
    image: EncodedImage,
    objects: list[GroundTruthObject],
    scores: ImageScores,
    columns: dict[str, list[float]],
    settings: EvaluateConfig,
) -> None:
    for index, true_object in enumerate(objects):
        truth = _to_mask(true_object.rle)
        click = scores.clicks[index] if settings.needs_clicks else None
        if click is not None and not {"click", "boundary"}.isdisjoint(settings.measures):
            disc = disc_mask(image.original_hw, click)
            columns.setdefault("disc_iou", []).append(_iou(disc, truth))
            if "boundary" in settings.measures:
                columns.setdefault("disc_boundary_f", []).append(boundary_f(disc, truth))
        if "box" in settings.measures:
            foreground = grabcut_mask(image.pixels, bounding_box(true_object), settings.seed)
            columns.setdefault("grabcut_iou", []).append(_iou(foreground, truth))


def _add_proposal_scores(
    model: SamModel,
    image: EncodedImage,
    objects: list[GroundTruthObject],
    columns: dict[str, list[float]],
    config: Config,
) -> None:
    proposed = propose(model, image, max(PROPOSAL_COUNTS), config.updated({"verbose": False}), Stopwatch())
    rles = proposed.masks.rle if proposed.masks is not None else []
    truths = [true_object.rle for true_object in objects]
    ious = np.asarray(rle.iou(rles, truths, [0] * len(truths)), np.float64).reshape(len(rles), len(truths))
    ranks = matched_ranks(ious)
    for max_proposals in PROPOSAL_COUNTS:
        columns.setdefault(f"ar{max_proposals}", []).extend(average_recall(ranks, max_proposals).tolist())


def _to_mask(mask: rle.RLE) -> Mask:
    return np.ascontiguousarray(rle.decode(mask)).astype(bool)


def _iou(first: Mask, second: Mask) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0
