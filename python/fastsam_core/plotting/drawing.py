"""Draw fills, outlines, boxes and labels. Each mask is processed within its bounding box only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import option_parsers as parse
from .._limits import MAX_LINE_WIDTH
from . import colors, text

if TYPE_CHECKING:
    from ..masks import Masks
    from ..results import Results

COLOR_MODES = ("class", "instance")
FILL_OPACITY = 0.45  # opacity of a mask's fill: both photo and colours stay recognisable
CROWD_SIZE = 20  # with more masks than this, boxes and labels are omitted, since they would hide the masks
# Line widths as fractions of the mean of the image's height and width. `BOX_LINE_WIDTH` is Ultralytics' default.
BOX_LINE_WIDTH, OUTLINE_WIDTH, CROWDED_OUTLINE_WIDTH = 0.003, 0.002, 0.0015
_SUBPIXEL_BITS = 4  # bits of sub-pixel precision in OpenCV's line drawing


@dataclass(frozen=True)
class Style:
    """What to draw and how. The fields are arguments of `Results.plot`; `text_color` is its `txt_color`."""

    conf: bool = True
    line_width: float | None = None
    font_size: float | None = None
    font: str = "Arial.ttf"
    labels: bool = True
    boxes: bool = True
    masks: bool = True
    color_mode: str = "class"
    text_color: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.color_mode not in COLOR_MODES:
            raise ValueError(f"color_mode must be one of {', '.join(COLOR_MODES)}, not {self.color_mode!r}")
        for name in ("line_width", "font_size"):
            if getattr(self, name) is not None:
                parse.number(0)(name, getattr(self, name))
        if not isinstance(self.font, (str, os.PathLike)):
            raise TypeError(f"font must be the name or path of a font, not {self.font!r}")
        values = tuple(self.text_color) if isinstance(self.text_color, (tuple, list, np.ndarray)) else ()
        if len(values) != 3 or not all(isinstance(value, (int, np.integer)) and 0 <= value <= 255 for value in values):
            raise ValueError(f"txt_color must be three integers from 0 to 255, BGR, not {self.text_color!r}")
        object.__setattr__(self, "text_color", tuple(int(value) for value in values))


def draw(results: Results, style: Style | None = None, image: np.ndarray | None = None) -> np.ndarray:
    """Return a new uint8 BGR image (H, W, 3) with the results drawn on `image`, by default on their own image.

    Raises ValueError if `image` has another shape than the results' image or isn't uint8.
    """
    style = style or Style()
    background = results.orig_img if image is None else np.asarray(image)
    if background.shape != (*results.orig_shape, 3) or background.dtype != np.uint8:
        raise ValueError(
            f"img must be BGR, uint8 {(*results.orig_shape, 3)}, not {background.dtype} {background.shape}"
        )
    canvas = np.array(background, order="C")
    rows = results.rows()
    masks = results.masks if style.masks else None
    classes = rows[:, 5].astype(int).tolist() if style.color_mode == "class" else list(range(len(rows)))
    if masks is not None and len(masks):
        width_fraction = CROWDED_OUTLINE_WIDTH if len(masks) > CROWD_SIZE else OUTLINE_WIDTH
        color_indices = _draw_masks(canvas, masks, classes, _line_width(style, results.orig_shape, width_fraction))
    else:
        color_indices = [number % len(colors.PALETTE) for number in classes]
    if style.boxes and results.boxes is not None and not (masks is not None and len(masks) > CROWD_SIZE):
        _draw_boxes(canvas, results, rows, color_indices, style)
    return canvas


def _draw_masks(canvas: np.ndarray, masks: Masks, classes: list[int], width: int) -> list[int]:
    """Tint and outline all masks in place, large ones first, and return their palette indices."""
    areas = masks.area.numpy()
    order = np.argsort(-areas, kind="stable").tolist()
    label_map = np.full(canvas.shape[:2], -1, np.int32)  # index of the smallest mask at each pixel, or -1
    outlines: dict[int, list[np.ndarray]] = {}
    for i in order:
        (x, y), crop = masks.crop(i)
        if crop.size:
            label_map[y : y + crop.shape[0], x : x + crop.shape[1]][crop] = i
            outlines[i] = _outlines(crop, (x, y), smooth=width)
    # If every mask has a class of its own, as with SAM, colours may change to keep neighbours apart. Otherwise all
    # masks of a class keep the colour of the class.
    if len(set(classes)) == len(classes):
        color_indices = colors.assign_colors(classes, order, colors.adjacent_pairs(label_map))
    else:
        color_indices = [number % len(colors.PALETTE) for number in classes]
    _tint(canvas, label_map, np.array([colors.PALETTE[color_index] for color_index in color_indices], np.uint8))
    _draw_outlines(canvas, [(outlines[i], colors.LIGHT[color_indices[i]]) for i in order if i in outlines], width)
    return color_indices


def _tint(canvas: np.ndarray, label_map: np.ndarray, fills: np.ndarray) -> None:
    import cv2

    # Work in bands of rows to bound the memory for looked-up colours of a large photo.
    for start in range(0, len(canvas), 256):
        band, labels = canvas[start : start + 256], label_map[start : start + 256]
        mixed = cv2.addWeighted(band, 1 - FILL_OPACITY, fills[labels], FILL_OPACITY, 0)
        np.copyto(band, mixed, where=(labels >= 0)[..., None])


def _outlines(crop: np.ndarray, corner: tuple[int, int], smooth: int) -> list[np.ndarray]:
    """Return the closed contours of a mask's parts and holes, fixed-point int32 (K, 1, 2), with pixel steps smoothed.

    corner: x, y of the crop's upper left pixel. smooth: half width of the moving average along the contour, in points.
    """
    import cv2

    contours, _ = cv2.findContours(crop.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=corner)
    window = 2 * smooth + 1
    smoothed = []
    for contour in contours:
        points = contour.reshape(-1, 2).astype(np.float64)
        if len(points) > 4 * window:
            wrapped = np.concatenate([points[-smooth:], points, points[:smooth]])
            sums = np.cumsum(np.concatenate([np.zeros((1, 2)), wrapped]), axis=0)
            # Adjacent points of a moving average are almost collinear, so every other one draws the same at half the
            # cost.
            points = ((sums[window:] - sums[:-window]) / window)[::2]
        smoothed.append((points * (1 << _SUBPIXEL_BITS) + 0.5).astype(np.int32).reshape(-1, 1, 2))
    return smoothed


def _draw_outlines(canvas: np.ndarray, shapes: list[tuple[list[np.ndarray], tuple[int, int, int]]], width: int) -> None:
    import cv2

    for contours, color in shapes:
        cv2.polylines(canvas, contours, True, color, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_boxes(canvas: np.ndarray, results: Results, rows: np.ndarray, color_indices: list[int], style: Style) -> None:
    import cv2

    height, width = results.orig_shape
    thickness = _line_width(style, results.orig_shape, BOX_LINE_WIDTH)
    # Bound the font size: a label larger than the image can't be placed anyway.
    font_size = min(max(8, round(style.font_size or max(12, (height + width) / 2 * 0.02))), height + width)
    light_text = sum(style.text_color) > 3 * 127
    occupied: list[text.Box] = []  # where labels may not go
    finite = np.nan_to_num(rows, posinf=2 * width, neginf=-width)
    # Coordinates far outside the image would overflow OpenCV's fixed-point drawing.
    corners = finite[:, :4].clip(-thickness - 1, [width + thickness, height + thickness] * 2).round().astype(int)
    by_size = np.argsort(-np.prod(corners[:, 2:] - corners[:, :2], axis=1), kind="stable").tolist()
    for i in by_size:
        x1, y1, x2, y2 = corners[i].tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colors.PALETTE[color_indices[i]], thickness, cv2.LINE_AA)
    if not style.labels:
        return
    for x1, y1, x2, y2 in corners.tolist():
        if (x2 - x1) * (y2 - y1) < 8 * font_size * font_size:  # about twice a label's area: don't cover it with a label
            occupied.append((x1, y1, x2, y2))
    for i in by_size:
        name = results.name_of(finite[i, 5])
        label = f"{name} {finite[i, 4]:.2f}" if style.conf else name
        background = (colors.DARK if light_text else colors.LIGHT)[color_indices[i]]
        patch = text.render_label(label, style.font, font_size, style.text_color, background)
        label_box = text.place_label(patch.shape[:2], corners[i], results.orig_shape, occupied)
        if label_box is not None:
            occupied.append(label_box)
            canvas[label_box[1] : label_box[3], label_box[0] : label_box[2]] = patch


def _line_width(style: Style, image_hw: tuple[int, int], width_fraction: float) -> int:
    """Return the line width in pixels: the style's, or `width_fraction` of the image's mean side."""
    if style.line_width is not None:
        return min(max(1, round(style.line_width)), MAX_LINE_WIDTH)
    return max(1 if width_fraction == CROWDED_OUTLINE_WIDTH else 2, round(sum(image_hw) / 2 * width_fraction))
