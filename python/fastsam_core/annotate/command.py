"""The command `fastsam annotate`."""

from __future__ import annotations

from typing import Any

from .._arguments import UsageError, check_keys

OPTIONS = {
    "data": "folder of images, with its sub-folders, or any other source",
    "det_model": "detector: yolov8x.pt, yolo11x.pt, yolo26x.pt ... or a path; default: none, segment everything",
    "sam_model": "name or path of a SAM checkpoint; default: sam_nano.pt; also model=",
    "device": "cpu, cuda, 0, ...; default: the GPU if there is one",
    "output_dir": "folder for the label files; default: <data>_auto_annotate_labels",
    "conf": "detector: keep boxes with a higher score; default: 0.25",
    "iou": "detector: box IoU above which the lower-scored box is dropped; default: 0.45",
    "imgsz": "detector: long side of its input in pixels; default: 640",
    "max_det": "detector: maximum number of boxes per image; default: 300",
    "classes": "detector: keep only these class ids; default: all",
    "texts": "texts to find with an open-vocabulary detector: [dog,red car]; needs the extra `text`",
    "formats": "formats of the label files, from [yolo,coco,sa1b,labelme,png]; default: yolo",
    "min_area": "drop masks of fewer pixels; default: 0",
    "batch": "number of images encoded together; default: 1",
    "workers": "number of loading threads, and of writing threads; default: 2",
    "resume": "continue an interrupted run; False: label everything again; default: True",
    "shard": "i/n: label shard i, from 0, of n; default: from torchrun or srun, or all images",
    "on_error": "if an image fails: skip it and go on, or raise and stop; default: skip",
    "preview": "number of images on the contact sheet preview.jpg, 0 for none; default: 24",
}
_SPELLINGS = {"source": "data", "model": "sam_model"}


def run(values: dict[str, Any]) -> None:
    """Run the command with its key=value pairs. UsageError for an unknown key or if data is missing."""
    for spelling, key in _SPELLINGS.items():
        if spelling in values and key in values:
            raise UsageError(f"{key} is given twice, as {spelling} and as {key}")
    values = {_SPELLINGS.get(key, key): value for key, value in values.items()}
    check_keys(values, list(OPTIONS), "annotate")
    if values.get("data") is None:
        raise UsageError("annotate needs data=<folder of images>")
    from ..cli import DEFAULT_MODEL
    from .run import auto_annotate

    # Options not given take the defaults of `auto_annotate`, except the models: without a detector everything is
    # segmented, and the bundled SAM needs no download.
    options = {key: value for key, value in values.items() if value is not None}
    folder = auto_annotate(options.pop("data"), **{"det_model": None, "sam_model": DEFAULT_MODEL, **options})
    print(f"Labels saved to {folder}")
