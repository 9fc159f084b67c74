"""One image that shows the best, the median and the worst cases of an evaluation."""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import rle
from .._log import logger
from ..sources.decode import read_image
from .clicks import Mask
from .datasets import Example, GroundTruthObject
from .image_scores import ImageScores

COLUMNS = 4
_TILE_SIDE, _CAPTION_HEIGHT, _GAP = 256, 22, 6
_BACKGROUND, _TEXT = (32, 32, 32), (220, 220, 220)
_FILL, _OUTLINE, _CLICK = (255, 144, 30), (80, 220, 80), (60, 60, 255)  # blue, green, red; BGR
_FILL_OPACITY = 0.5  # opacity of the mask's colour
_MARGIN = 0.25  # on each side of the masks, as a fraction of their bounding box

Tile = NDArray[np.uint8]


class Cases:
    """Store of all cases of an evaluation, from which `draw_sheet` draws some at the end.

    file: an empty text file, open for reading and writing, that holds the cases. Only the IoU and the file offset of
    each case are kept in memory.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._ious: list[float] = []
        self._offsets: list[int] = []

    def add(
        self, example: Example, objects: list[GroundTruthObject], ious: NDArray[np.float64], scores: ImageScores
    ) -> None:
        """Store the objects of one image. ious: (n,), of `scores.masks` with the true masks."""
        for truth, iou, click, mask in zip(objects, ious.tolist(), scores.clicks, scores.masks, strict=True):
            self._ious.append(iou)
            self._offsets.append(self._file.tell())
            case = {
                "path": str(example.path),
                "title": f"{iou:.2f} {example.name}",
                "truth": truth.rle,
                "mask": mask,
                "click": click,
            }
            self._file.write(json.dumps(case) + "\n")

    def draw_sheet(self) -> Tile | None:
        """Return an image with rows of the best, median and worst cases, up to `COLUMNS` each; None without cases."""
        if not self._ious:
            return None
        order = np.argsort(-np.array(self._ious), kind="stable")
        count = max(1, min(COLUMNS, len(order) // 3))
        median_start = (len(order) - count) // 2
        rows = [order[:count], order[median_start : median_start + count], order[len(order) - count :]]
        tiles = [
            [self._tile(kind, int(index)) for index in row]
            for kind, row in zip(("best", "median", "worst"), rows, strict=True)
        ]
        row_height, column_width = _TILE_SIDE + _CAPTION_HEIGHT + _GAP, _TILE_SIDE + _GAP
        sheet = np.full((3 * row_height + _GAP, count * column_width + _GAP, 3), _BACKGROUND, np.uint8)
        for row, row_tiles in enumerate(tiles):
            for column, tile in enumerate(row_tiles):
                top, left = row * row_height + _GAP, column * column_width + _GAP
                sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return sheet

    def _tile(self, kind: str, index: int) -> Tile:
        self._file.seek(self._offsets[index])
        case = json.loads(self._file.readline())
        tile = np.full((_TILE_SIDE + _CAPTION_HEIGHT, _TILE_SIDE, 3), _BACKGROUND, np.uint8)
        image = _draw_stored_case(case)
        if image is not None:
            top, left = (_TILE_SIDE - image.shape[0]) // 2, (_TILE_SIDE - image.shape[1]) // 2
            tile[top : top + image.shape[0], left : left + image.shape[1]] = image
        from ..plotting import text

        title = "".join(letter for letter in f"{kind} {case['title']}" if letter.isprintable())
        caption = text.render_label(title if len(title) <= 36 else title[:33] + "...", "", 12, _TEXT, _BACKGROUND)
        caption = caption[:_CAPTION_HEIGHT, :_TILE_SIDE]
        tile[_TILE_SIDE : _TILE_SIDE + caption.shape[0], : caption.shape[1]] = caption
        return tile


def _draw_stored_case(case: dict[str, Any]) -> Tile | None:
    """Return `draw_case` of a stored case; log a warning and return None if its image has gone or changed since.

    The scores don't need the image any more and must not be lost with it.
    """
    try:
        image = read_image(case["path"])
        if list(image.shape[:2]) != list(case["truth"]["size"]):
            raise ValueError(f"{case['path']} has another size than before")
    except (OSError, ValueError) as error:
        logger.warning("a case is shown without its image: %s", error)
        return None
    return draw_case(image, case["truth"], case["mask"], case["click"])


def draw_case(image: NDArray[np.uint8], truth: rle.RLE, mask: rle.RLE, click: Any) -> Tile:
    """Return the part of an image around two masks, scaled so that its long side is 256 pixels, BGR uint8.

    The predicted mask is tinted, the true mask outlined, and the click drawn as a dot.

    image: BGR uint8 (H, W, 3). click: (x, y) or None.
    """
    import cv2

    height, width = image.shape[:2]
    boxes = [box for box in rle.toBbox([truth, mask]) if box[2]]
    corner = np.min([box[:2] for box in boxes], 0)
    extent = np.max([box[:2] + box[2:] for box in boxes], 0) - corner
    low = np.maximum(np.floor(corner - _MARGIN * extent), 0).astype(int)
    high = np.minimum(np.ceil(corner + (1 + _MARGIN) * extent), [width, height]).astype(int)
    window = [int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])]
    part = image[low[1] : high[1], low[0] : high[0]]
    scale = _TILE_SIDE / max(part.shape[:2])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    drawn = np.array(cv2.resize(part, size, interpolation=interpolation), np.uint8)
    true_mask, predicted_mask = (_crop_and_scale(rle_mask, window, size) for rle_mask in (truth, mask))
    tint = np.array(_FILL, np.float32)
    drawn[predicted_mask] = np.rint((1 - _FILL_OPACITY) * drawn[predicted_mask] + _FILL_OPACITY * tint).astype(np.uint8)
    outlines, _ = cv2.findContours(true_mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, _OUTLINE, 2, cv2.LINE_AA)
    if click is not None:
        centre = int((click[0] - low[0] + 0.5) * scale), int((click[1] - low[1] + 0.5) * scale)
        cv2.circle(drawn, centre, 5, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(drawn, centre, 4, _CLICK, -1, cv2.LINE_AA)
    return drawn


def _crop_and_scale(mask: rle.RLE, window: list[int], size: tuple[int, int]) -> Mask:
    import cv2

    part = np.ascontiguousarray(rle.decode(rle.crop(mask, window)))
    scaled: Mask = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) != 0
    return scaled
