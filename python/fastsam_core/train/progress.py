"""Records of a training run: a table of its curves, and images of prompts with their masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from .._files import write_text
from ..plotting.output import write_image
from ..preprocess import PIXEL_MEAN, PIXEL_STD
from .crops import Views
from .interactive import PromptGroup

COLUMNS = ("step", "size", "learning_rate", "loss", "auxiliary", "iou_first", "iou_last", "images", "seconds")


class Curves:
    """Table `folder`/curves.csv, one line per report.

    Lines after `step`, which a resumed run repeats, are dropped, and lines cut off when a run was killed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "curves.csv"
        # What follows the last line break is an incomplete line, or nothing.
        lines = self.path.read_text(errors="replace").split("\n")[1:-1] if self.path.exists() else []
        kept_lines = [line for line in lines if _is_complete(line) and int(line.split(",")[0]) <= step]
        write_text(self.path, "\n".join([",".join(COLUMNS), *kept_lines]) + "\n")

    def add(self, **values: float) -> None:
        # Integers with all digits, because a resumed run reads the steps back.
        cells = (format(values[name], "" if isinstance(values[name], int) else ".6g") for name in COLUMNS)
        with open(self.path, "a", newline="\n") as file:
            file.write(",".join(cells) + "\n")


def _is_complete(line: str) -> bool:
    cells = line.split(",")
    return len(cells) == len(COLUMNS) and cells[0].isascii() and cells[0].isdigit()


def sample_sheet(path: Path, views: Views, group: PromptGroup, logits: Tensor) -> None:
    """Draw the first prompt of up to eight views: clicks, true mask (green outline) and prediction (red tint).

    logits: (N, S / 4, S / 4), of the group's prompts.
    """
    tiles = []
    for image_index in range(min(8, len(views.images))):
        prompt = int((group.targets.image_index == image_index).nonzero()[0, 0])
        tiles.append(_draw_tile(views.images[image_index], group, prompt, logits[prompt]))
    tiles_per_row = max(1, len(tiles) // 2)
    sheet = np.concatenate(
        [
            np.concatenate(tiles[i * tiles_per_row : (i + 1) * tiles_per_row], 1)
            for i in range(len(tiles) // tiles_per_row)
        ]
    )
    write_image(path, sheet[:, :, ::-1])


def _draw_tile(image: Tensor, group: PromptGroup, prompt: int, logits: Tensor) -> np.ndarray:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (image.cpu() * deviation + mean).clamp(0, 255).byte().numpy().transpose(1, 2, 0).copy()
    size = pixels.shape[0]
    predicted_mask = cv2.resize(logits.float().cpu().numpy(), (size, size), interpolation=cv2.INTER_LINEAR) > 0
    pixels[predicted_mask] = (0.5 * pixels[predicted_mask] + 0.5 * np.array([255, 60, 30])).astype(np.uint8)
    if group.targets.is_object[prompt]:
        true_mask = group.targets.masks[prompt].cpu().numpy().astype(np.uint8)
        outlines, _ = cv2.findContours(true_mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, outlines, -1, (0, 255, 0), 1)
    for (x, y), label in zip(group.points[prompt].tolist(), group.labels[prompt].tolist(), strict=True):
        cv2.circle(pixels, (int(x), int(y)), 4, (255, 255, 255), -1)
        cv2.circle(pixels, (int(x), int(y)), 3, (0, 200, 0) if label else (220, 0, 0), -1)
    return pixels
