"""Conversion of YOLO detection labels to segmentation labels: SAM finds the mask of every labelled box."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ._log import format_count, logger
from ._progress import progress_bar
from .annotate.segmenter import Segmenter
from .encoded_image import EncodedImage
from .formats import ImageLabels, LabelledObject, Segmentation, YoloWriter, class_names, yolo_folder
from .sources.decode import read_image

# A threshold below every predicted IoU: by default no labelled box is dropped.
_NO_THRESHOLD = -1e9


def yolo_bbox2segment(
    im_dir: str | os.PathLike[str],
    save_dir: str | os.PathLike[str] | None = None,
    sam_model: Any = "sam_b.pt",
    device: Any = None,
    *,
    conf: float | None = None,
) -> Path | None:
    """Write a YOLO segmentation file per image from the boxes of a YOLO detection data set; return the output folder.

    im_dir: folder of the images, searched recursively. Their labels are read from the folder whose path has `labels`
        instead of `images`, or from `labels` next to `im_dir`.
    save_dir: output folder, by default `labels-segment` next to `im_dir`. Relative paths are mirrored.
    sam_model: a checkpoint's name or path, a `SamModel`, a `SAM` or a `Predictor`. device: device to run it on.
    conf: drop objects whose mask has a predicted IoU of at most this; by default none are dropped.

    Each image gets a file, which is empty if it has no labels. Classes and the order of objects are kept; see
    `formats.YoloWriter` for the polygons. A box in which SAM finds no pixels becomes a rectangle, or is dropped if that
    contains no pixel either; both are counted in the log. Class names found with the labels are written to data.yaml.
    An image that can't be read is logged and skipped.

    Returns None, after logging a message and without writing anything, if labels hold polygons already. Raises
    FileNotFoundError if there are no images or labels; ValueError for label lines that can't be parsed, for images that
    differ only in their suffix, and if `save_dir` is the folder of the boxes.
    """
    images = Path(im_dir)
    if images.name in ("", ".."):  # "." and "..", whose `parent` is not the folder above
        images = Path(os.path.abspath(images))
    labels = _find_labels_folder(images)
    folder = images.parent / "labels-segment" if save_dir is None else Path(save_dir)
    if os.path.realpath(folder) == os.path.realpath(labels):
        raise ValueError(f"save_dir is {labels}, whose boxes would be overwritten; give another folder")
    pairs = yolo_folder.pair_files(labels, images)
    if not pairs:
        raise FileNotFoundError(f"no image in {images}")
    first_names: dict[str, str] = {}
    for name, _ in pairs:
        first = first_names.setdefault(os.path.splitext(name)[0].casefold(), name)
        if first != name:
            raise ValueError(f"{first} and {name} in {images} would have the same label file; rename one of them")
    for _, file in pairs:
        # Only the kind of label matters here, not its coordinates, so any image size will do.
        if file is not None and any(label.segmentation for label in yolo_folder.read_file(file, (1, 1))):
            logger.info("%s holds polygons already; nothing to do", file)
            return None
    segmenter = Segmenter(sam_model, device)
    segmenter.config = segmenter.config.updated({"conf": _NO_THRESHOLD if conf is None else conf})
    names = class_names.find(labels, [file for _, file in pairs if file is not None])
    written = skipped = without_mask = dropped = 0
    with YoloWriter(folder) as writer:
        for name, file in progress_bar(pairs, desc="boxes to masks", unit="image"):
            try:
                image = read_image(images / name)
            except ValueError as error:
                logger.warning("skipped %s: %s", images / name, error)
                skipped += 1
                continue
            height, width = image.shape[:2]
            boxes = [] if file is None else yolo_folder.read_file(file, (height, width))
            objects, rectangles = _segment_boxes(segmenter, segmenter.encode([image], [name])[0], boxes)
            # The writer drops objects without a polygon, such as rectangles that contain no pixel.
            lines = writer.write(ImageLabels(name, width, height, objects, names))
            dropped += len(boxes) - lines
            without_mask += rectangles - (len(objects) - lines)
            written += 1
    notes = [
        (skipped, "images skipped"),
        (without_mask, "boxes without a mask kept as rectangles"),
        (dropped, "boxes dropped"),
    ]
    summary = "".join(f"; {what}: {count}" for count, what in notes if count)
    logger.info("%s in %s%s", format_count(written, "label file"), folder, summary)
    return folder


def _segment_boxes(
    segmenter: Segmenter, image: EncodedImage, boxes: list[LabelledObject]
) -> tuple[list[LabelledObject], int]:
    """Return the boxes' objects with masks, and how many of these masks are just the box's rectangle."""
    if not boxes:
        return [], 0
    corners = [box.xyxy() for box in boxes]
    result = segmenter.segment_boxes(image, np.array(corners, np.float32))
    rles = result.masks.rle if result.masks is not None else []
    objects, rectangles = [], 0
    # Masks below `conf` are missing; the class is the index of the box that a mask belongs to.
    for rle, row in zip(rles, result.rows(), strict=True):
        mask, prompt = Segmentation.from_rle(rle), int(row[5])
        if not mask.area:
            x1, y1, x2, y2 = corners[prompt]
            mask = Segmentation.from_polygons([[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]], mask.size)
            rectangles += 1
        objects.append(LabelledObject(boxes[prompt].class_id, mask))
    return objects, rectangles


def _find_labels_folder(images: Path) -> Path:
    if not images.is_dir():
        raise FileNotFoundError(f"no such folder: {images}; im_dir is the folder of the images")
    folder = yolo_folder.sibling_folder(images, "images", "labels") or images.parent / "labels"
    if not folder.is_dir():
        raise FileNotFoundError(f"no labels for {images}: no such folder: {folder}")
    return folder
