"""Calibrate a model's predicted IoU: `python -m fastsam_core.train.calibrate --model M --output FILE`.

During training the predicted IoU follows masks that keep changing, and a third of the prompts ask for parts and groups.
Here the model is frozen except for its IoU head, which is trained further on the true IoU of the model's masks of
generated scenes. This is much cheaper than training: all but the head is inference, and each token is computed once.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from .._files import check_writable
from .._log import logger
from .._progress import progress_bar
from ..models.checkpoint import load_model
from ..models.decoder_folded import FoldedImage
from ..models.mask_decoder import NUM_MASK_TOKENS
from ..models.prepared_image import PreparedImage
from ..models.sam_model import SamModel
from .config import TrainConfig
from .crops import draw_views
from .interactive import draw_groups
from .loop import save_weights
from .losses import mask_iou
from .pool import MAX_PLANES, ImagePool, LabelledImage, Prefetcher
from .prompts import corrective_clicks
from .scene_data import SceneDataset

# Frequencies of objects, parts and groups: a click means an object more often than a part of it or its group.
PLANE_SHARES = (0.82, 0.12, 0.06)
# Number of background clicks for each click on a region: a grid of points has more of them than training did.
BACKGROUND_CLICKS = 1.0
_HELD_OUT_FRACTION = 0.15  # fraction of the images; in effect every seventh
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE = 20, 512, 3e-4


@dataclass(frozen=True)
class IouSamples:
    """N prompts: the decoder's IoU tokens (N, C), the true IoU of the four masks (N, 4), the image's index (N,)."""

    tokens: Tensor
    ious: Tensor
    image_index: Tensor


@torch.no_grad()
def collect_iou_samples(
    model: SamModel, data: Dataset[LabelledImage], num_images: int, prompts_per_image: int, seed: int, workers: int
) -> IouSamples:
    """Run `prompts_per_image` prompts on each of `num_images` images.

    They are clicks and boxes, some of them again with a correction.
    """
    size = model.image_size
    rng = np.random.default_rng(seed)
    generator = torch.Generator(model.device).manual_seed(seed)
    pool = ImagePool(1, size, MAX_PLANES, model.device)
    prefetcher = Prefetcher(data, 0, workers, queue_size=16, device=model.device)
    single_images = (batch.slice(k, k + 1) for batch in prefetcher.take(num_images) for k in range(len(batch)))
    tokens, ious, image_index = [], [], []
    try:
        for index, image in enumerate(progress_bar(single_images, total=num_images, unit="image")):
            pool.add(image)
            views = draw_views(pool, 1, size, rng)
            groups = draw_groups(
                views.planes,
                views.valid,
                prompts_per_image,
                generator,
                min_area=TrainConfig.min_area,
                shares=PLANE_SHARES,
                background=BACKGROUND_CLICKS,
            )
            prepared = model.prepare(model.encode_image(views.images))
            for group in groups:
                points, labels = group.points, group.labels
                for attempt in range(2):
                    has_points = points.shape[1] > 0
                    sparse = model.prompt_encoder.sparse(
                        points if has_points else None, labels if has_points else None, group.boxes
                    )
                    iou_tokens, logits = _decode(prepared, sparse)
                    tokens.append(iou_tokens.float())
                    ious.append(mask_iou(logits, group.targets.coverage) * group.targets.is_object[:, None])
                    image_index.append(torch.full((len(iou_tokens),), index))
                    if attempt or not rng.random() < 0.3:
                        break
                    click, label = corrective_clicks(
                        group.targets.masks, group.targets.coverage, logits[:, 0], generator
                    )
                    points = torch.cat([points, click[:, None]], 1)
                    labels = torch.cat([labels, label[:, None]], 1)
    finally:
        prefetcher.close()
    return IouSamples(torch.cat(tokens).cpu(), torch.cat(ious).cpu(), torch.cat(image_index))


def _decode(prepared: PreparedImage, sparse: Tensor) -> tuple[Tensor, Tensor]:
    """Decode prompt tokens (N, T, C) to IoU tokens (N, C) and the logits of all masks (N, 4, S / 4, S / 4)."""
    folded, num_prompts = prepared.image_decoder, len(sparse)
    assert folded is not None, "a decoder as it was built"
    prompt_index = torch.arange(num_prompts).repeat_interleave(NUM_MASK_TOKENS)
    mask_index = torch.arange(NUM_MASK_TOKENS).repeat(num_prompts)
    if isinstance(folded, FoldedImage):
        decoded = folded.decode(sparse)
        return decoded.tokens[:, 0], decoded.logits(prompt_index, mask_index).float().unflatten(0, (num_prompts, -1))
    chunk = folded.decode_chunk(sparse, ())
    height, width = folded.grid
    logits = torch.empty(len(prompt_index), 4 * height, 4 * width, device=sparse.device)
    folded.upscale(chunk, prompt_index, mask_index, logits)
    return chunk.iou_tokens, logits.unflatten(0, (num_prompts, -1))


def fit_head(model: SamModel, samples: IouSamples, seed: int) -> tuple[float, float]:
    """Train `model.mask_decoder.iou_prediction_head` in place.

    Returns its mean squared error on held-out images before and after. The head of the best epoch is kept, or the old
    one if no epoch is better. ValueError for too few images to hold some out.
    """
    head = model.mask_decoder.iou_prediction_head
    device = model.device
    is_held_out = samples.image_index % round(1 / _HELD_OUT_FRACTION) == 0
    (tokens, ious), (held_tokens, held_ious) = (
        (samples.tokens[selected].to(device), samples.ious[selected].to(device))
        for selected in (~is_held_out, is_held_out)
    )
    if not len(tokens) or not len(held_tokens):
        raise ValueError(f"{len(samples.image_index.unique())} images are too few to hold some out; take 20 or more")

    def held_out_error() -> float:
        with torch.no_grad():
            return F.mse_loss(head(held_tokens), held_ious).item()

    initial_error = lowest_error = held_out_error()
    best = copy.deepcopy(head.state_dict())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
    steps = _EPOCHS * -(-len(tokens) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(_EPOCHS):
        for indices in torch.randperm(len(tokens), generator=generator).split(_BATCH_SIZE):
            indices = indices.to(device)
            optimizer.zero_grad()
            F.mse_loss(head(tokens[indices]), ious[indices]).backward()
            optimizer.step()
            schedule.step()
        if (current_error := held_out_error()) < lowest_error:
            lowest_error, best = current_error, copy.deepcopy(head.state_dict())
        logger.info(
            "epoch %d: mean squared error on held-out images %.5f, least %.5f", epoch + 1, current_error, lowest_error
        )
    head.load_state_dict(best)
    return initial_error, lowest_error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastsam_core.train.calibrate", description=__doc__)
    parser.add_argument("--model", default="sam_nano.pt", help="a checkpoint (default: the bundled model)")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write, in half precision")
    parser.add_argument("--images", type=int, default=1000, help="generated scenes (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=36, help="prompts per image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        # Check the options before the work.
        for name, minimum in {"images": 1, "prompts": 1, "seed": 0, "workers": 0}.items():
            if getattr(options, name) < minimum:
                raise ValueError(f"--{name} is {minimum} or more, not {getattr(options, name)}")
        if options.seed >= 1 << 63:
            raise ValueError(f"--seed is below 2**63, not {options.seed}")
        if options.output.is_dir():
            raise ValueError(f"--output is a file to write, but {options.output} is a folder")
        check_writable(options.output.parent)
        model = load_model(options.model, options.device)
        data = SceneDataset(model.image_size, seed=options.seed + 1_000_003)
        samples = collect_iou_samples(model, data, options.images, options.prompts, options.seed, options.workers)
        before, after = fit_head(model, samples, options.seed)
        save_weights(model, options.output)
    except (MemoryError, ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    print(f"mean squared error of the predicted IoU on held-out images: {before:.5f}, now {after:.5f}")
    print(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
