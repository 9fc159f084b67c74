"""Labels: text on a coloured background, placed where it covers neither another label nor a small object."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

# File names of fonts to try in turn if the text has letters that Pillow's built-in font may lack.
_UNICODE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc")

Box = tuple[int, int, int, int]


@lru_cache(maxsize=32)
def load_font(name: str, size: int, is_unicode: bool) -> Any:
    """Load the named font; if it isn't installed, Pillow's built-in font.

    is_unicode: the text isn't ASCII, so fonts with large character sets are tried before Pillow's. size: in pixels.
    """
    from PIL import ImageFont

    for candidate in (name, *(_UNICODE_FONTS if is_unicode else ())):
        try:
            return ImageFont.truetype(candidate, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def render_label(text: str, font: str, size: int, color: Sequence[int], background: Sequence[int]) -> np.ndarray:
    """Render a label as a uint8 BGR patch (h, w, 3). `color` and `background` are BGR, `size` is in pixels."""
    from PIL import Image, ImageDraw

    loaded = load_font(font, size, not text.isascii())
    left, top, right, bottom = (int(side) for side in loaded.getbbox(text))
    pad = max(2, size // 4)
    # The height follows the font size rather than the text, so that labels of "aaa" and "ggg" look alike.
    height = max(size, bottom) + pad
    patch = Image.new("RGB", (right - left + 2 * pad, height), tuple(background[::-1]))
    ImageDraw.Draw(patch).text((pad - left, (height - bottom - top) // 2), text, font=loaded, fill=tuple(color[::-1]))
    return np.asarray(patch)[..., ::-1]


def place_label(
    size: tuple[int, int], box: Sequence[float], image_hw: tuple[int, int], occupied: list[Box]
) -> Box | None:
    """Return where to put a label: above its box, inside the box at the top, or below it; None if nothing is free.

    size: (height, width) of the label. box: x1, y1, x2, y2. image_hw: (height, width) of the image. occupied: places
    that the label must not cover. Inside is tried only if the label covers at most a third of the box.
    """
    height, width = size
    x1, y1, x2, y2 = (int(side) for side in box)
    x = min(max(0, x1), image_hw[1] - width)
    tops = [y1 - height, y2 + 1]
    if 3 * height * width <= (x2 - x1) * (y2 - y1):
        tops.insert(1, max(0, y1))
    for top in tops:
        label_box = (x, top, x + width, top + height)
        fits = x >= 0 and top >= 0 and top + height <= image_hw[0]
        if fits and not any(_overlap(label_box, other) for other in occupied):
            return label_box
    return None


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
