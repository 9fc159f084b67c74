"""Evaluate proposals against true masks: `python -m bench.evaluate_proposals LABELS --format coco --images FOLDER`.

LABELS is anything that `fastsam_core.formats.read_labels` accepts. The output is COCO's AR@n: the fraction of masks
that are matched one to one by the n best proposals, averaged over the IoU thresholds 0.50, 0.55, ..., 0.95. Classes are
ignored, as are crowds and boxes without a mask. `small`, `medium` and `large` are COCO's size classes: below 32^2
pixels, below 96^2 pixels, and above.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

AREAS = ("all", "small", "medium", "large")


def average_recall(
    images: Iterable[tuple[list[dict[str, Any]], list[dict[str, Any]], list[float]]], max_proposals: tuple[int, ...]
) -> dict[str, float]:
    """Compute AR@n for each n of `max_proposals` with pycocotools.

    images: (true RLEs, proposed RLEs, their scores) of each.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    proposals: list[dict[str, Any]] = []
    for image_id, (masks, rles, scores_of_image) in enumerate(images, 1):
        height, width = next((rle["size"] for rle in (*masks, *rles)), (1, 1))
        truth["images"].append({"id": image_id, "height": height, "width": width})
        for rle in masks:
            truth["annotations"].append(_annotation(len(truth["annotations"]) + 1, image_id, rle))
        for rle, score in zip(rles, scores_of_image, strict=True):
            proposals.append({**_annotation(len(proposals) + 1, image_id, rle), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        datasets = []
        for annotations in (truth["annotations"], proposals):
            dataset = COCO()
            dataset.dataset = {**truth, "annotations": annotations}
            dataset.createIndex()
            datasets.append(dataset)
        evaluation = COCOeval(*datasets, "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = sorted(max_proposals)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"]  # (IoUs, classes, areas, numbers of proposals); -1 where there is no mask
    recalls = {}
    for column, limit in enumerate(sorted(max_proposals)):
        for row, area in enumerate(AREAS):
            values = recall[:, 0, row, column]
            name = f"AR@{limit}" if area == "all" else f"AR@{limit} {area}"
            recalls[name] = float(values.mean()) if (values >= 0).all() else float("nan")
    return recalls


def _annotation(annotation_id: int, image_id: int, rle: dict[str, Any]) -> dict[str, Any]:
    from fastsam_core.rle import area, toBbox

    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": rle,
        "area": int(area(rle)),
        "bbox": toBbox(rle).tolist(),
        "iscrowd": 0,
    }


def main() -> None:
    from tqdm import tqdm

    from fastsam_core import SAM
    from fastsam_core.formats import read_labels
    from fastsam_core.sources.decode import read_image

    parser = argparse.ArgumentParser("python -m bench.evaluate_proposals", description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--format", default="coco")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="sam_nano.pt")
    parser.add_argument("--points-stride", type=int, default=32)
    parser.add_argument("--limit", type=int, help="the first so many images only")
    options = parser.parse_args()
    reader_options = {"images": options.images} if options.format == "yolo" else {}
    labels = list(read_labels(options.labels, options.format, **reader_options))[: options.limit]
    model = SAM(options.model)

    def images() -> Iterable[Any]:
        for image_labels in tqdm(labels, unit="image"):
            masks = [
                label.segmentation.rle
                for label in image_labels.objects
                if label.segmentation is not None and not label.iscrowd
            ]
            proposals = model.proposals(
                read_image(options.images / image_labels.file_name), points_stride=options.points_stride, verbose=False
            )
            # Rank proposals by their order in the results, which differs from that of their scores.
            yield masks, proposals.masks.rle if len(proposals) else [], np.arange(len(proposals), 0, -1).tolist()

    recalls = average_recall(images(), (10, 100, 1000))
    print(json.dumps({"images": len(labels), "model": options.model, **recalls}))


if __name__ == "__main__":
    main()
