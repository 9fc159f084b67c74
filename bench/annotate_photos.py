"""Annotate a folder of photos from the boxes of their ground truth: images per second, mask IoU, COCO's evaluation.

python -m bench.annotate_photos FOLDER [--model sam_nano.pt] [--save FILE.json]

FOLDER holds `images/*.jpg` and `labels/*.npz`. Each .npz has `labels`, a label map (H, W), and `segments`, a JSON list
of `{label, category_id, isthing, iscrowd}`. Things that aren't crowds are the objects.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastsam_core import SAM, auto_annotate, rle
from fastsam_core.sources import read_image

Objects = list[tuple[int, NDArray[np.bool_]]]


def read_objects(path: Path) -> Objects:
    """Read the class id and bool mask (H, W) of each object in an .npz file, in the order of its `segments`."""
    with np.load(path) as content:
        labels, segments = content["labels"], json.loads(str(content["segments"]))
    things = [segment for segment in segments if segment["isthing"] and not segment["iscrowd"]]
    objects = [(int(segment["category_id"]) - 1, labels == segment["label"]) for segment in things]
    return [(class_id, mask) for class_id, mask in objects if mask.any()]


class TrueBoxes:
    """A detector that returns the true boxes of an image. It recognises images by a digest of their pixels.

    A box's score encodes its number in the image, so that its mask can be found in the output.
    """

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Objects] = {}
        self._names: dict[bytes, str] = {}
        for path in sorted((folder / "images").iterdir()):
            self.objects[path.name] = read_objects(folder / "labels" / f"{path.stem}.npz")
            self._names[_digest(read_image(path))] = path.name

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Any, Any, Any, Any]:
        """Return true boxes along pixel edges (x2, y2 exclusive), as annotators draw them; scores; class ids; None."""
        objects = self.objects[self._names[_digest(image)]]
        boxes = [_box(mask) for _, mask in objects]
        return boxes, [_score(index) for index in range(len(objects))], [class_id for class_id, _ in objects], None


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image)).digest()


def _score(index: int) -> float:
    return 1 - index / 1000


def _box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def ious(coco_output: dict[str, Any], truth: TrueBoxes) -> list[float]:
    """Return the IoU of each object with the mask made for its box; 0 for an object without a mask."""
    names = {entry["id"]: entry["file_name"] for entry in coco_output["images"]}
    masks: dict[tuple[str, int], Any] = {}
    for entry in coco_output["annotations"]:
        masks[names[entry["image_id"]], round((1 - entry["score"]) * 1000)] = entry["segmentation"]
    values = []
    for name, objects in truth.objects.items():
        for index, (_, mask) in enumerate(objects):
            made = masks.get((name, index))
            true_rle = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            values.append(0.0 if made is None else float(rle.iou([made], [true_rle], [False])[0, 0]))
    return values


def coco_scores(path: Path, truth: TrueBoxes) -> dict[str, float]:
    """Evaluate the written COCO file with pycocotools: average precision and recall."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(open(os.devnull, "w")):
        predicted = COCO(str(path))
        ground_truth = COCO()
        annotations = []
        for image in predicted.dataset["images"]:
            for class_id, mask in truth.objects[image["file_name"]]:
                segmentation = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": class_id + 1,
                        "segmentation": segmentation,
                        "area": int(mask.sum()),
                        "bbox": rle.toBbox([segmentation])[0].tolist(),
                        "iscrowd": 0,
                    }
                )
        categories = sorted({annotation["category_id"] for annotation in annotations})
        ground_truth.dataset = {
            "images": predicted.dataset["images"],
            "annotations": annotations,
            "categories": [{"id": category_id, "name": str(category_id)} for category_id in categories],
        }
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(predicted.dataset["annotations"]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": float(evaluation.stats[0]), "AP50": float(evaluation.stats[1]), "AR100": float(evaluation.stats[8])}


def measure(folder: Path, model: str, threads: int, workers: int) -> dict[str, Any]:
    """Annotate all photos once, after a warm-up with one, and return rates and scores."""
    torch.set_num_threads(threads)
    truth = TrueBoxes(folder)
    sam = SAM(model)
    boxes = sum(map(len, truth.objects.values()))
    with tempfile.TemporaryDirectory() as scratch:
        first_photo = sorted((folder / "images").iterdir())[0]
        auto_annotate(first_photo, truth, sam, output_dir=Path(scratch) / "warm", shard="0/1", preview=0)
        output_folder = Path(scratch) / "labels"
        options: dict[str, Any] = {"formats": ["yolo", "coco"], "max_det": 1000, "shard": "0/1", "preview": 0}
        started, cpu_seconds = time.perf_counter(), time.process_time()
        auto_annotate(folder / "images", truth, sam, output_dir=output_folder, workers=workers, **options)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_seconds
        started = time.perf_counter()
        auto_annotate(folder / "images", truth, sam, output_dir=output_folder, workers=workers, **options)
        resume_seconds = time.perf_counter() - started
        coco_output = json.loads((output_folder / "coco.json").read_text())
        iou_values = np.array(ious(coco_output, truth))
        sizes = {
            "manifest": (output_folder / "manifest.jsonl").stat().st_size,
            "yolo": sum(path.stat().st_size for path in output_folder.rglob("*.txt")),
            "coco.json": (output_folder / "coco.json").stat().st_size,
        }
        scores = coco_scores(output_folder / "coco.json", truth)
    images = len(truth.objects)
    return {
        "model": model,
        "threads": threads,
        "workers": workers,
        "images": images,
        "boxes": boxes,
        "seconds": round(seconds, 2),
        "images per second": round(images / seconds, 2),
        "processor seconds per image": round(cpu_seconds / images, 4),
        "seconds of a run that finds all done": round(resume_seconds, 2),
        "mean IoU of all boxes": round(float(iou_values.mean()), 4),
        "no mask, or none of the object": int((iou_values == 0).sum()),
        "mean IoU of boxes above 0.5 % of the image": round(float(iou_values[_large(truth)].mean()), 4),
        **{key: round(value, 4) for key, value in scores.items()},
        "bytes per image": {key: round(value / images) for key, value in sizes.items()},
    }


def _large(truth: TrueBoxes) -> NDArray[np.bool_]:
    return np.array([mask.mean() >= 0.005 for objects in truth.objects.values() for _, mask in objects])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sam_nano.pt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    report = json.dumps(measure(options.folder, options.model, options.threads, options.workers), indent=2)
    print(report)
    if options.save is not None:
        options.save.write_text(report + "\n")


if __name__ == "__main__":
    main()
