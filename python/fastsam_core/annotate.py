"""Label files for a set of images: boxes from a detector, masks from SAM, YOLO segmentation text out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._files import write_text
from ._log import logger
from .formats import yolo
from .results import Results

Detector = Callable[[np.ndarray], tuple[Any, Any, Any, Any]]
Segmenter = Callable[[np.ndarray, np.ndarray | None], Results]


def auto_annotate(
    data: Any,
    det_model: Detector | None,
    sam_model: Any = "sam_b.pt",
    device: Any = "",
    output_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one YOLO segmentation file per image, and return their folder.

    data: a folder of images, or any other source that `SAM` takes.
    det_model: `detector(image) -> boxes, scores, class ids, names`, called with each image, (H, W, 3) uint8 BGR. boxes
        are (N, 4) x1, y1, x2, y2 in pixels, scores (N,), class ids (N,) integers, names {id: name}, a list of names,
        or None; N may be 0. With det_model=None everything is segmented, as class 0.
    sam_model: a checkpoint, or a ready `SAM` or `Predictor`, whose settings (`conf` and so on) then hold.
    output_dir: default `<data's parent>/<data's stem>_auto_annotate_labels`.

    A line is `<class id> x1 y1 x2 y2 ...`, the outline as fractions of width and height with six significant digits.
    Masks that SAM gives a predicted IoU of at most `conf` (0.25) get no line; class ids go by the prompt, so the others
    keep theirs. An image without objects gets an empty file, an unreadable one is reported and gets none. Of several
    images with one stem, the second gets `<stem>-2.txt` and so on; frames of a video get `<stem>_<frame>.txt`.

    ValueError for detector output that isn't as above, naming the image; files that were written before stay.
    """
    from tqdm.auto import tqdm

    from .sources import load_sources

    detector = _as_detector(det_model)
    source = load_sources(data)
    folder = Path(output_dir) if output_dir else _default_folder(data)
    segment = _as_segmenter(sam_model, device)
    folder.mkdir(parents=True, exist_ok=True)
    names = _FileNames()
    written, skipped = 0, 0
    found: Counter[str] = Counter()
    with source:
        for item in tqdm(source, total=source.expected(), desc="auto_annotate", unit="image", disable=None):
            if item.image is None:  # the source has said why
                skipped += 1
                continue
            polygons, class_ids, class_names = _label(item.image, item.path, detector, segment)
            lines = yolo.lines(polygons, class_ids)
            write_text(folder / f"{names.unique(item.path, item.frame)}.txt", "".join(f"{line}\n" for line in lines))
            written += 1
            found.update(class_names)
    counts = ", ".join(f"{name} {count}" for name, count in found.most_common(20)) or "no objects"
    files = f"{written} label file{'' if written == 1 else 's'}"
    logger.info("%s in %s (%s)%s", files, folder, counts, f"; {skipped} skipped" if skipped else "")
    return folder


def _label(
    image: np.ndarray, path: str, detector: Detector | None, segment: Segmenter
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Outlines (K, 2) of one image's masks, and a class id and a class name for each mask (not for each box)."""
    if detector is None:
        polygons = _outlines(segment(image, None))
        return polygons, [0] * len(polygons), ["object"] * len(polygons)
    boxes, class_ids, names = _checked(detector(image), path)
    if len(boxes) == 0:
        return [], [], []
    result = segment(image, boxes)
    polygons = _outlines(result)
    # SAM may drop masks; boxes.cls says which prompt each of the others belongs to.
    kept = [int(class_ids[int(prompt)]) for prompt in result.boxes.cls.tolist()] if result.boxes is not None else []
    return polygons, kept, [names.get(class_id, str(class_id)) for class_id in kept]


def _outlines(result: Results) -> list[np.ndarray]:
    return [] if result.masks is None else list(result.masks.xyn)


def _checked(output: Any, path: str) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Boxes (N, 4) float32, class ids (N,) int64 and names by class id from what a detector returned."""

    def refuse(problem: str) -> ValueError:
        return ValueError(
            f"det_model returned {problem} for {path}; it must return boxes (N, 4) x1, y1, x2, y2, scores (N,), "
            "class ids (N,) and names"
        )

    if not isinstance(output, (tuple, list)) or len(output) != 4:
        size = f" of {len(output)}" if isinstance(output, (tuple, list)) else ""
        raise refuse(f"a {type(output).__name__}{size}")
    try:
        boxes, scores, class_ids = (_array(part) for part in output[:3])
    except (ValueError, TypeError) as error:
        raise refuse(f"something that isn't numbers ({error})") from None
    names = output[3]
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise refuse(f"boxes of shape {boxes.shape}")
    scores, class_ids = scores.reshape(-1), class_ids.reshape(-1)
    if not len(boxes) == len(scores) == len(class_ids):
        raise refuse(f"{len(boxes)} boxes, {len(scores)} scores and {len(class_ids)} class ids")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise refuse("boxes or scores that aren't finite")
    wrong = np.flatnonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    if len(wrong):
        raise refuse(f"box {boxes[wrong[0]].tolist()}, whose second corner isn't right of and below the first,")
    if (class_ids != np.round(class_ids)).any() or (class_ids < 0).any():
        raise refuse("class ids that aren't whole numbers from 0 on")
    if names is None:
        names = {}
    elif isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    elif not isinstance(names, dict):
        raise refuse(f"names as {type(names).__name__}")
    names = {int(class_id): str(name) for class_id, name in names.items()}
    return boxes.astype(np.float32), class_ids.astype(np.int64), names


def _array(values: Any) -> np.ndarray:
    values = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, dtype=np.float64)


def _as_detector(det_model: Any) -> Detector | None:
    if det_model is None:
        return None
    if isinstance(det_model, (str, os.PathLike)):
        raise ValueError(
            f"det_model={os.fspath(det_model)!r}: detectors can't be loaded by name yet. Pass a callable "
            "`detector(image) -> boxes, scores, class ids, names`, or None to segment everything"
        )
    if not callable(det_model):
        raise TypeError(f"det_model must be a callable or None, not {type(det_model).__name__}")
    return det_model


def _as_segmenter(sam_model: Any, device: Any) -> Segmenter:
    """`segment(image, boxes or None) -> Results` from a checkpoint, a SAM or a Predictor."""
    from .predictor import Predictor
    from .sam import SAM

    if isinstance(sam_model, (str, os.PathLike)):
        sam_model = SAM(os.fspath(sam_model))
    if not isinstance(sam_model, (SAM, Predictor)):
        raise TypeError(f"sam_model must be a checkpoint, a SAM or a Predictor, not {type(sam_model).__name__}")
    options: dict[str, Any] = {"save": False, "verbose": False}
    if device not in ("", None):
        options["device"] = device
    model: Any = sam_model

    def segment(image: np.ndarray, boxes: np.ndarray | None) -> Results:
        prompts = {} if boxes is None else {"bboxes": boxes}
        return model(source=image, **prompts, **options)[0]

    return segment


def _default_folder(data: Any) -> Path:
    if not isinstance(data, (str, os.PathLike)) or not Path(data).exists():
        raise ValueError(f"output_dir is needed, since data isn't one folder or file but {data!r}"[:300])
    path = Path(data) if Path(data).name not in ("", "..") else Path(data).resolve()
    return path.parent / f"{path.stem}_auto_annotate_labels"


class _FileNames:
    """A file stem for each image, none of them twice."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def unique(self, path: str, frame: int | None) -> str:
        stem = Path(path).stem if frame is None else f"{Path(path).stem}_{frame}"
        name, number = stem, 1
        # Case is ignored, since many file systems do. Folders are read in an order that has `a-2.jpg` before `a.jpg`,
        # so an image of that very name keeps it.
        while name.casefold() in self._used:
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name.casefold())
        return name
