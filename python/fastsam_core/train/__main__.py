"""Train a model: `python -m fastsam_core.train --help`.

From scratch on generated scenes, or from a checkpoint on your own labelled images.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .config import Phase, TrainConfig
from .loop import Trainer
from .scene_data import SceneDataset

_DEFAULT = TrainConfig()


def _phase(text: str) -> Phase:
    try:
        size, steps, batch = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:STEPS:BATCH, three whole numbers") from None
    if size < 32 or size % 16 or steps < 1 or batch < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: SIZE is a multiple of 16 from 32, STEPS and BATCH are at least 1")
    return Phase(size, steps, batch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastsam_core.train", description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        default=_DEFAULT.model,
        help="a registry name, to train from scratch; or a checkpoint, to train further (default: %(default)s)",
    )
    add("--output", type=Path, default=Path("runs/train"), help="folder for state, weights, curves and sample pictures")
    phases = " ".join(f"{p.size}:{p.steps}:{p.batch}" for p in _DEFAULT.phases)
    add("--phases", type=_phase, nargs="+", metavar="SIZE:STEPS:BATCH", help=f"default: {phases}")
    add("--train", choices=("all", "decoder"), default="all", help="decoder: leave the image encoder as it is")
    add("--prompts", type=int, default=_DEFAULT.prompts, help="prompts per picture (default: %(default)s)")
    add("--pool", type=int, default=_DEFAULT.pool, help="pictures kept on the device (default: %(default)s)")
    add("--reuse", type=float, default=_DEFAULT.reuse, help="how often each is drawn (default: %(default)s)")
    add("--learning-rate", type=float, default=_DEFAULT.learning_rate, help="default: %(default)s")
    add("--warmup-steps", type=int, default=_DEFAULT.warmup_steps, help="default: %(default)s")
    add("--average-decay", type=float, default=_DEFAULT.average_decay, help="of the weights (default: %(default)s)")
    add("--min-area", type=float, default=_DEFAULT.min_area, help="least share of the picture (default: %(default)s)")
    add("--minutes", type=float, default=_DEFAULT.minutes, help="finish within this time; 0: do all steps")
    add("--seed", type=int, default=_DEFAULT.seed)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    add("--workers", type=int, default=1, help="processes that make pictures (default: %(default)s)")
    add("--threads", type=int, default=0, help="threads of the trainer (default: torch's choice)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    if options["precision"] is None:
        options["precision"] = "bfloat16" if torch.device(options["device"]).type == "cuda" else "float32"
    if options["phases"] is not None:
        options["phases"] = tuple(options["phases"])
    names = {field.name for field in fields(TrainConfig)}
    given: dict[str, Any] = {name: value for name, value in options.items() if name in names and value is not None}
    config = replace(_DEFAULT, **given)
    data = SceneDataset(config.size, seed=config.seed)
    trainer = Trainer(config, data, options["output"], options["device"], options["workers"])
    trainer.run()
    print(trainer.weights)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
