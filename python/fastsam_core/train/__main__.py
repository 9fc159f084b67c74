"""Train a model: `python -m fastsam_core.train --help`.

Trains from scratch on generated scenes, or from a checkpoint on your own labelled images.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..device import select_device
from ..models import registry
from ..models.checkpoint import load_model
from .config import Phase, TrainConfig
from .labelled import MIN_AREA, LabelledFolder
from .loop import Trainer
from .pool import LabelledImage
from .scene_data import SceneDataset

_DEFAULT = TrainConfig()
# Defaults for training from a checkpoint: fewer steps, smaller batches and a lower learning rate.
_FINETUNE_STEPS, _FINETUNE_BATCH, _FINETUNE_LEARNING_RATE = 1000, 4, 1e-4


def _parse_phase(text: str) -> Phase:
    try:
        size, steps, batch = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:STEPS:BATCH, three integers") from None
    return Phase(size, steps, batch)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastsam_core.train", description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        default=_DEFAULT.model,
        help="a registry name, to train from scratch; or a checkpoint, to train further (default: %(default)s)",
    )
    add("--data", help="labelled images to train on, as for `fastsam val`; without it, generated scenes")
    add("--images", help="folder of the images of --data, for a COCO file or YOLO's labels")
    add("--output", type=Path, default=Path("runs/train"), help="folder for state, weights, curves and sample images")
    phases = " ".join(f"{phase.size}:{phase.steps}:{phase.batch}" for phase in _DEFAULT.phases)
    finetuning = f"from a checkpoint, {_FINETUNE_STEPS} steps of {_FINETUNE_BATCH} at its input size"
    add("--phases", type=_parse_phase, nargs="+", metavar="SIZE:STEPS:BATCH", help=f"default: {phases}; {finetuning}")
    add("--train", choices=("all", "decoder"), default="all", help="decoder: freeze the image encoder")
    add("--prompts", type=int, default=_DEFAULT.prompts, help="prompts per image (default: %(default)s)")
    add("--pool", type=int, default=_DEFAULT.pool, help="number of images kept on the device (default: %(default)s)")
    reuse_help = "how often each image is drawn on average (default: %(default)s)"
    add("--reuse", type=float, default=_DEFAULT.reuse, help=reuse_help)
    rate_default = f"default: {_DEFAULT.learning_rate:g}; from a checkpoint, {_FINETUNE_LEARNING_RATE:g}"
    add("--learning-rate", type=float, help=rate_default)
    add("--warmup-steps", type=int, default=_DEFAULT.warmup_steps, help="default: %(default)s")
    decay_help = "decay of the moving average of the weights (default: %(default)s)"
    add("--average-decay", type=float, default=_DEFAULT.average_decay, help=decay_help)
    area_defaults = f"default: {_DEFAULT.min_area:g}; with --data, {MIN_AREA:g}"
    add("--min-area", type=float, help=f"smallest object to train on, as a fraction of the image ({area_defaults})")
    add(
        "--plane-shares",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="relative frequencies of prompts for objects, parts and groups of generated scenes "
        "(default: {} {} {})".format(*_DEFAULT.plane_shares),
    )
    add(
        "--rounds",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="relative frequencies of steps with one round of prompts, two rounds, and so on; each after the first "
        "adds a corrective click (default: {} {} {} {})".format(*_DEFAULT.rounds),
    )
    add(
        "--background",
        type=float,
        help="number of clicks outside all objects for each click on one; they teach a low predicted IoU "
        f"(default: {_DEFAULT.background:g}; with --data, 0)",
    )
    add(
        "--iou-weight",
        type=float,
        default=_DEFAULT.iou_weight,
        help="weight of the predicted IoU's error relative to the mask losses (default: %(default)s)",
    )
    add("--minutes", type=float, default=_DEFAULT.minutes, help="finish within this time; 0: do all steps")
    add("--seed", type=int, default=_DEFAULT.seed)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    add("--workers", type=int, default=1, help="processes that load or generate images (default: %(default)s)")
    add("--threads", type=int, default=0, help="threads of the trainer (default: torch's choice)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _build_parser()
    options = vars(parser.parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        try:
            trainer = _build_trainer(options)
        except (ValueError, TypeError, OSError) as error:
            parser.error(" ".join(str(error).split()))
        trainer.run()
    except (FloatingPointError, MemoryError, ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; run the same command again to resume from the last saved state\n")
    print(trainer.weights)
    return 0


def _build_trainer(options: dict[str, Any]) -> Trainer:
    for name in ("threads", "workers"):
        if options[name] < 0:
            raise ValueError(f"--{name} is 0 or more, not {options[name]}")
    if options["images"] is not None and options["data"] is None:
        raise ValueError("--images is the folder of the images of --data, which is missing")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = select_device(options["device"])
    names = {field.name for field in fields(TrainConfig)}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if name in names and value is not None
    }
    defaults: dict[str, Any] = {"precision": "bfloat16" if device.type == "cuda" else "float32"}
    if options["model"] not in registry.MODELS:
        # No ramp of the evenness: a checkpoint already predicts masks.
        defaults |= {"learning_rate": _FINETUNE_LEARNING_RATE, "evenness_share": 0.0}
        if "phases" not in settings:
            size = load_model(options["model"]).image_size
            defaults["phases"] = (Phase(size, _FINETUNE_STEPS, _FINETUNE_BATCH),)
    if options["data"] is not None:
        if options["plane_shares"] is not None:
            raise ValueError("--plane-shares is for generated scenes, not for labelled images (--data)")
        # The planes of these labels are not objects, parts and groups, and pixels without a label may show an object.
        defaults |= {"background": 0.0, "min_area": MIN_AREA}
        settings |= {"plane_shares": (), "auxiliary": 0.0, "final_auxiliary": 0.0}
    config = replace(_DEFAULT, **defaults | settings)
    data: Dataset[LabelledImage] = SceneDataset(config.size, seed=config.seed)
    if options["data"] is not None:
        data = labelled = LabelledFolder(
            options["data"], images=options["images"], size=config.size, min_area=config.min_area
        )
        labelled[0]  # raises ValueError here, rather than in a worker process, if no image is usable
        config = replace(config, pool=min(config.pool, len(labelled)))
    return Trainer(config, data, options["output"], str(device), options["workers"])


if __name__ == "__main__":
    raise SystemExit(main())
