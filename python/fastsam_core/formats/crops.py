"""Saving one crop of the image per object, sorted into folders by class name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .._log import logger
from ..plotting.output import default_suffix, write_image

if TYPE_CHECKING:
    from ..results import Results

# Ultralytics' margins: 2 % of the box's sides, plus 10 pixels, half of them on each side.
GAIN, PAD = 1.02, 10
# Bytes of a folder's name; file systems allow 255.
_MAX_NAME_BYTES = 200


def save(results: Results, save_dir: str | Path, file_name: str | Path = "im.jpg") -> list[Path]:
    """Write `<save_dir>/<class name>/<stem>.jpg` per box (.png if it is too long for JPEG) and return the paths.

    A name that is taken gets -2, -3 and so on. Boxes are widened by `GAIN` and `PAD`, then clipped to the image; a box
    wholly outside is logged and left out.
    """
    stem = Path(file_name).stem
    height, width = results.orig_shape
    written = []
    for i, (x1, y1, x2, y2, _, class_id) in enumerate(results.rows().tolist()):
        half_width, half_height = ((x2 - x1) * GAIN + PAD) / 2, ((y2 - y1) * GAIN + PAD) / 2
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        left, right = max(0, int(x - half_width)), min(width, int(x + half_width))
        top, bottom = max(0, int(y - half_height)), min(height, int(y + half_height))
        # The bounds are inclusive: the box of a mask ends at its last column and row.
        outside = x1 >= width or y1 >= height or x2 < 0 or y2 < 0
        if outside or right <= left or bottom <= top:
            logger.warning("%s: box %d lies outside the image; no crop is written", results.path, i)
            continue
        crop = results.orig_img[top:bottom, left:right]
        target = _unused_path(Path(save_dir) / _folder_name(results.name_of(class_id)), stem, default_suffix(crop))
        write_image(target, crop)
        written.append(target)
    return written


def _folder_name(name: str) -> str:
    # Class names come from checkpoints and users. None may lead out of the folder, and each must fit the file system.
    sanitised = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name)
    return sanitised.encode("utf-8", "ignore")[:_MAX_NAME_BYTES].decode("utf-8", "ignore").strip(". ") or "_"


def _unused_path(folder: Path, stem: str, suffix: str) -> Path:
    target, number = folder / f"{stem}{suffix}", 1
    while target.exists():
        number += 1
        target = folder / f"{stem}-{number}{suffix}"
    return target
