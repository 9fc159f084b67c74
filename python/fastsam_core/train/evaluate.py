"""Measure how well a model segments generated scenes it has not seen: `python -m fastsam_core.train.evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..device import select_device
from ..evaluate.clicks import innermost_pixel
from ..models.checkpoint import load_model
from ..models.sam_model import SamModel
from ..preprocess import preprocess
from .scenes import TexturePool, make_scene


@dataclass(frozen=True)
class Scores:
    """Mean IoUs over `objects` objects in `scenes` scenes.

    point: IoU for one click on the object's innermost pixel, best of three masks by predicted IoU. oracle: the same,
    best of three by true IoU. box: IoU of the single mask for the object's box.
    """

    scenes: int
    objects: int
    point: float
    oracle: float
    box: float


@torch.inference_mode()
def evaluate(model: SamModel, *, scenes: int, seed: int, min_area: float = 0.01, textures: int = 200) -> Scores:
    """Measure `model` on scenes generated from `seed`, at the model's own input size.

    scenes: their number. min_area: smallest object that counts, as a fraction of the scene. textures: number of
    textures that the scenes draw from. ValueError for no scenes, for a negative seed, and if no scene has an object
    that is large enough.
    """
    if scenes < 1 or seed < 0:
        raise ValueError(f"scenes must be 1 or more and seed 0 or more, got {scenes} and {seed}")
    size = model.image_size
    pool = TexturePool(seed=seed, count=textures)
    point_ious, oracle_ious, box_ious = [], [], []
    for index in range(scenes):
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng, size, pool)
        areas = np.bincount(scene.labels.ravel())
        masks = [scene.labels == k for k in range(1, len(areas)) if areas[k] >= min_area * scene.labels.size]
        if not masks:
            continue
        images, _ = preprocess(scene.image, size, model.device)
        prepared = model.prepare(model.encode_image(images))
        clicks = torch.tensor([innermost_pixel(mask)[0] for mask in masks], dtype=torch.float32, device=model.device)
        labels = torch.ones(len(masks), 1, device=model.device)
        logits, predicted = model.decode_prompts(prepared, clicks[:, None], labels, multimask_output=True)
        ious = _ious(logits, masks)
        point_ious.append(ious.gather(1, predicted.cpu().argmax(1, keepdim=True))[:, 0])
        oracle_ious.append(ious.max(1).values)
        boxes = torch.tensor([bounding_box(mask) for mask in masks], dtype=torch.float32, device=model.device)
        logits, _ = model.decode_prompts(prepared, boxes=boxes)
        box_ious.append(_ious(logits, masks)[:, 0])
    if not point_ious:
        raise ValueError(f"no object of these {scenes} scenes covers {min_area:.0%} of its image")
    means = [torch.cat(values).mean().item() for values in (point_ious, oracle_ious, box_ious)]
    return Scores(scenes, sum(map(len, point_ious)), *means)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return x1, y1, x2, y2 of a non-empty mask; x2 and y2 are its last column and row."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _ious(logits: torch.Tensor, masks: list[np.ndarray]) -> torch.Tensor:
    """Return the IoU (N, M) of logits (N, M, S / 4, S / 4), upsampled, with N masks (S, S)."""
    rows = []
    for mask_logits, mask in zip(logits, masks, strict=True):
        predicted = F.interpolate(mask_logits[None].float(), size=mask.shape, mode="bilinear")[0].cpu() > 0
        true_mask = torch.from_numpy(mask)
        rows.append((predicted & true_mask).sum((1, 2)) / (predicted | true_mask).sum((1, 2)).clamp(min=1))
    return torch.stack(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastsam_core.train.evaluate", description=__doc__)
    parser.add_argument("--model", default="sam_nano.pt", help="a checkpoint (default: the bundled model)")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=987654, help="scenes of other seeds than the training's are unseen")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    try:
        model = load_model(options.model, select_device(options.device))
        scores = evaluate(model, scenes=options.scenes, seed=options.seed)
    except (ValueError, TypeError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    print(f"{scores.objects} objects in {scores.scenes} scenes")
    print(f"one click, best of three by predicted IoU: mean IoU {scores.point:.3f} (by true IoU {scores.oracle:.3f})")
    print(f"box: mean IoU {scores.box:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
