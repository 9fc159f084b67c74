"""The command `fastsam val`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from .._arguments import UsageError, check_keys
from .settings import MEASURES

OPTIONS = {
    "data": "a COCO .json file, a data.yaml, or a folder with images/ and masks/*.png, labels/*.npz or labels/*.txt",
    "images": "folder of the images of a COCO file or of YOLO's labels",
    "split": "images of a data.yaml: train, val or test; default: val",
    "model": "name or path of a SAM checkpoint; default: sam_nano.pt",
    "measures": f"what to measure, from [{','.join(MEASURES)}]; default: all",
    "imgsz": "side of the model's input in pixels; default: that of the model",
    "device": "cpu, cuda, 0, ...; default: the GPU if there is one",
    "min_area": "skip objects that cover a smaller fraction of the image; default: 0.005",
    "max_images": "number of images to evaluate, drawn at random; default: all",
    "seed": "random seed of max_images, GrabCut and the bootstrap; default: 0",
    "baselines": "also evaluate two baselines, a disc and GrabCut; default: True",
    "mask_feedback": "noc: pass the previous mask along with the clicks; default: True",
    "points_stride": "everything: points per side of the grid; default: 32",
    "rows": "write the values of each object to val.jsonl; default: False",
    "output": "folder for val.json and val.jpg; default: a new one in runs/segment",
}


def run(values: dict[str, Any]) -> None:
    """Run `fastsam val` with the values of its key=value arguments."""
    check_keys(values, list(OPTIONS), "val")
    options = {key: value for key, value in values.items() if value is not None}
    if "data" not in options:
        raise UsageError("val needs data=<COCO .json file, data.yaml, or folder of images and masks or labels>")
    from ..cli import DEFAULT_MODEL, _model_class
    from ..config import Config
    from ..sam import SAM
    from ..saving import create_run_folder
    from .datasets import open_dataset
    from .settings import EvaluateConfig

    name = options.pop("model", DEFAULT_MODEL)
    if _model_class(name) != "SAM":
        raise UsageError(f"val measures Segment Anything models, and model={name} is {_model_class(name)}")
    # Report invalid arguments before loading a model or creating a folder.
    fields = EvaluateConfig.__dataclass_fields__
    config = EvaluateConfig(**{key: value for key, value in options.items() if key in fields})
    open_dataset(options["data"], options.get("images"), config.split)
    model = SAM(name)
    # Many shells don't expand a ~ after the =.
    folder = Path(os.path.expanduser(options.pop("output", None) or create_run_folder(Config(mode="val"))))
    try:
        result = model.val(**options, output=folder)
    except BaseException:
        with contextlib.suppress(OSError):  # rmdir fails on a folder that isn't empty, which is then kept
            folder.rmdir()
        raise
    print(result)
    print(f"Results saved to {folder}")
