"""Train a model from scratch on procedurally generated scenes: `python -m fastsam_core.train --help`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from .loop import Phase, TrainConfig, Trainer


def _phase(text: str) -> Phase:
    try:
        size, steps, batch = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:STEPS:BATCH, three whole numbers") from None
    if size < 32 or size % 16 or steps < 1 or batch < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: SIZE is a multiple of 16 from 32, STEPS and BATCH are at least 1")
    return Phase(size, steps, batch)


def main(argv: Sequence[str] | None = None) -> int:
    default = TrainConfig()
    parser = argparse.ArgumentParser(prog="python -m fastsam_core.train", description=__doc__)
    parser.add_argument("--model", default=default.model, help="a name from the registry (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/train"), help="folder for state and weights")
    phases = " ".join(f"{p.size}:{p.steps}:{p.batch}" for p in default.phases)
    parser.add_argument(
        "--phases",
        type=_phase,
        nargs="+",
        default=default.phases,
        metavar="SIZE:STEPS:BATCH",
        help=f"default: {phases}",
    )
    parser.add_argument("--prompts", type=int, default=default.prompts, help="prompts per scene (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate scenes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads of the trainer (default: torch's choice)")
    options = parser.parse_args(argv)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = TrainConfig(
        model=options.model,
        phases=tuple(options.phases),
        prompts=options.prompts,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    Trainer(config, options.output, options.device, options.workers).run()
    print(options.output / f"{config.model}.safetensors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
