"""The command `fastsam annotate`."""

from __future__ import annotations

from typing import Any

from .._arguments import UsageError, check_keys

OPTIONS = {
    "data": "folder of images, with its sub-folders, or any other source",
    "det_model": "yolov8n.pt to yolov8x.pt ..., or a checkpoint's path; without one everything is segmented",
    "sam_model": "checkpoint name or path; sam_nano.pt if not given; model= is the same",
    "device": "cpu, cuda, 0, ...; empty: the GPU if there is one",
    "output_dir": "of the labels; <data>_auto_annotate_labels if not given",
    "conf": "of the detector: keep boxes with a greater score; 0.25",
    "iou": "of the detector: box IoU above which the weaker box goes; 0.45",
    "imgsz": "of the detector: long side of its input in pixels; 640",
    "max_det": "of the detector: the most boxes per image; 300",
    "classes": "of the detector: keep these class ids only",
    "texts": "what to find, with an open-vocabulary detector: [dog,red car]",
    "formats": "label files to write: [yolo,coco,sa1b,labelme,png]; yolo",
    "min_area": "leave out masks of fewer pixels",
    "batch": "images encoded together; 1",
    "workers": "threads that load, and as many that write; 2",
    "resume": "go on where an earlier run stopped; False starts afresh",
    "shard": "i/n: label the i-th of n shares, from 0; if not given, torchrun and srun are asked",
    "on_error": "skip: record an image that can't be labelled and go on; raise: stop",
    "preview": "images on the contact sheet preview.jpg, 0 for none; 24",
}
_SPELLINGS = {"source": "data", "model": "sam_model"}


def run(values: dict[str, Any]) -> None:
    """Run the command with its key=value pairs. UsageError for an unknown key or if data is missing."""
    values = {_SPELLINGS.get(key, key): value for key, value in values.items()}
    check_keys(values, list(OPTIONS), "annotate")
    if values.get("data") is None:
        raise UsageError("annotate needs data=<folder of images>")
    from ..cli import DEFAULT_MODEL
    from .run import auto_annotate

    # Options not given take the defaults of `auto_annotate`, except the models: without a detector everything is
    # segmented, and the bundled SAM needs no download.
    given = {key: value for key, value in values.items() if value is not None}
    folder = auto_annotate(given.pop("data"), **{"det_model": None, "sam_model": DEFAULT_MODEL, **given})
    print(f"Labels saved to {folder}")
