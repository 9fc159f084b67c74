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
from .baselines import disc, grabcut
from .boundary import boundary_f
from .clicks import Click, Mask
from .prompted import LIMIT, Prompted, box_of
from .recall import average_recall, matched_ranks
from .settings import EvaluateConfig
from .truth import TrueObject

GOALS = (0.85, 0.9)
PROPOSALS = (100, 1000)
# Number of objects whose low-resolution logits are in memory at once, 64 to 256 KiB each.
_GROUP = 32


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
    model: SamModel, picture: EncodedImage, objects: list[TrueObject], settings: EvaluateConfig, config: Config
) -> ImageScores:
    """Return the columns that the settings ask for. config: the predictor's options."""
    scores = ImageScores(details=[{} for _ in objects])
    prompted = Prompted(model, picture, config)
    found: dict[str, list[float]] = {}
    for start in range(0, len(objects), _GROUP):
        group = slice(start, start + _GROUP)
        if settings.clicks:
            _click_scores(prompted, objects[group], scores, found, start, settings)
        if "box" in settings.measures:
            masks, ious = prompted.box(objects[group])
            found.setdefault("box_iou", []).extend(ious.tolist())
            if not settings.clicks:
                scores.masks += masks
                scores.clicks += [None] * len(masks)
    if settings.baselines:
        _baseline_scores(picture, objects, scores, found, settings)
    if "everything" in settings.measures:
        _proposal_scores(model, picture, objects, found, config)
    scores.columns = {name: np.array(values, np.float64) for name, values in found.items()}
    return scores


def _click_scores(
    prompted: Prompted,
    objects: list[TrueObject],
    scores: ImageScores,
    found: dict[str, list[float]],
    start: int,
    settings: EvaluateConfig,
) -> None:
    first = prompted.one_click(objects)
    for number, (one, mask) in enumerate(zip(objects, first, strict=True), start):
        found.setdefault("click_iou", []).append(float(mask.true[mask.chosen]))
        found.setdefault("oracle_iou", []).append(float(mask.true.max()))
        found.setdefault("predicted_iou", []).append(float(mask.predicted[mask.chosen]))
        if "boundary" in settings.measures:
            value = boundary_f(_pixels(mask.rle), _pixels(one.rle))
            found.setdefault("boundary_f", []).append(value)
        scores.masks.append(mask.rle)
        scores.clicks.append(mask.click)
        scores.details[number] |= {
            "click": list(mask.click),
            "predicted_ious": mask.predicted.tolist(),
            "true_ious": mask.true.tolist(),
        }
    if "noc" in settings.measures:
        by_click = prompted.corrected(objects, first, max(GOALS), mask_feedback=settings.mask_feedback)
        for number, ious in enumerate(by_click, start):
            for goal in GOALS:
                needed = next((count for count, iou in enumerate(ious, 1) if iou >= goal), None)
                name = f"noc{goal * 100:.0f}"
                found.setdefault(name, []).append(LIMIT if needed is None else needed)
                found.setdefault(f"{name}_reached", []).append(needed is not None)
            scores.details[number]["ious_by_click"] = ious


def _baseline_scores(
    picture: EncodedImage,
    objects: list[TrueObject],
    scores: ImageScores,
    found: dict[str, list[float]],
    settings: EvaluateConfig,
) -> None:
    for number, one in enumerate(objects):
        truth = _pixels(one.rle)
        click = scores.clicks[number] if settings.clicks else None
        if click is not None and not {"click", "boundary"}.isdisjoint(settings.measures):
            round_mask = disc(picture.original_hw, click)
            found.setdefault("disc_iou", []).append(_iou(round_mask, truth))
            if "boundary" in settings.measures:
                found.setdefault("disc_boundary_f", []).append(boundary_f(round_mask, truth))
        if "box" in settings.measures:
            cut = grabcut(picture.pixels, box_of(one), settings.seed)
            found.setdefault("grabcut_iou", []).append(_iou(cut, truth))


def _proposal_scores(
    model: SamModel, picture: EncodedImage, objects: list[TrueObject], found: dict[str, list[float]], config: Config
) -> None:
    proposed = propose(model, picture, max(PROPOSALS), config.updated({"verbose": False}), Stopwatch())
    rles = proposed.masks.rle if proposed.masks is not None else []
    truths = [one.rle for one in objects]
    ious = np.asarray(rle.iou(rles, truths, [0] * len(truths)), np.float64).reshape(len(rles), len(truths))
    ranks = matched_ranks(ious)
    for most in PROPOSALS:
        found.setdefault(f"ar{most}", []).extend(average_recall(ranks, most).tolist())


def _pixels(mask: rle.RLE) -> Mask:
    return np.ascontiguousarray(rle.decode(mask)).astype(bool)


def _iou(first: Mask, second: Mask) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0
