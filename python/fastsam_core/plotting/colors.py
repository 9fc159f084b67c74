"""A palette of distinguishable colours, and their assignment to masks that touch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Color = tuple[int, int, int]

# RGB. The hues are spaced by the golden ratio in OKLCH, so that the first n are far apart for every n. Each has the
# lightness at which sRGB reaches the hue's highest chroma. Hues come close again after 8 or 13 steps; shifts in
# lightness keep these colours apart.
_HEX = """
    1A78FE BCE40C D20A9C 13DDF1 FFAD44 8448FE 18E985 FE4764 1093D3 DBC612
    EF4CFE 02C1B4 FE7914 6982FD 6CC20F F80A8F 56DAFE CF9601 A638FE 0BF5B7
"""
_RGB = np.array([list(bytes.fromhex(color)) for color in _HEX.split()], float)


def _bgr(colors: np.ndarray) -> list[Color]:
    return [(int(blue), int(green), int(red)) for red, green, blue in colors + 0.5]


PALETTE: list[Color] = _bgr(_RGB)
# For outlines. They are opaque, so they stand out from their own fill, which is blended with the photo. Being a little
# lighter, they also stand out from dark photos.
LIGHT: list[Color] = _bgr(_RGB + 0.2 * (255 - _RGB))
# Backgrounds for white text, with a contrast of at least 7:1 (WCAG AAA).
DARK: list[Color] = _bgr(0.4 * _RGB)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB colours (N, 3), 0 to 255, to OKLab (N, 3). Formula and coefficients by B. Ottosson (2020)."""
    unit = np.asarray(rgb, float) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T


# Lightness differences count half, because blending with the photo changes a fill's lightness but hardly its hue.
_LAB = oklab(_RGB) * (0.5, 1, 1)
DISTANCES = np.linalg.norm(_LAB[:, None] - _LAB[None], axis=2)
# Colours closer than this are hard to tell apart on touching masks that are blended with a photo.
MIN_DISTANCE = 0.15


def adjacent_pairs(label_map: np.ndarray, long_side: int = 384) -> set[tuple[int, int]]:
    """Return the pairs (smaller, larger) of labels that are adjacent in an integer map (H, W).

    Negative labels are background. The map is first subsampled to a long side of about `long_side`, and labels count as
    adjacent there up to a distance of 3, because the eye sees them side by side.
    """
    step = max(1, max(label_map.shape) // long_side)
    subsampled = label_map[::step, ::step]
    pairs: set[tuple[int, int]] = set()
    for gap in (1, 3):
        for first, second in ((subsampled[:, :-gap], subsampled[:, gap:]), (subsampled[:-gap], subsampled[gap:])):
            touching = (first != second) & (first >= 0) & (second >= 0)
            first_labels, second_labels = first[touching].astype(np.int64), second[touching].astype(np.int64)
            packed_pairs = np.unique(
                np.minimum(first_labels, second_labels) << 32 | np.maximum(first_labels, second_labels)
            )
            pairs.update(zip((packed_pairs >> 32).tolist(), (packed_pairs & 0xFFFFFFFF).tolist(), strict=True))
    return pairs


def assign_colors(preferred: Sequence[int], order: Iterable[int], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return a palette index for each object so that neighbours get distinguishable colours.

    preferred: preferred colour of each object, modulo the palette size. order: order in which objects choose. pairs:
    neighbouring objects. An object gets its preferred colour, unless that is closer than `MIN_DISTANCE` to a
    neighbour's. Then it gets the colour farthest from its neighbours' colours, and among equally far ones the least
    used.
    """
    size = len(PALETTE)
    adjacent: dict[int, list[int]] = {}
    for first, second in pairs:
        adjacent.setdefault(first, []).append(second)
        adjacent.setdefault(second, []).append(first)
    chosen: dict[int, int] = {}
    # Preferred colours of later objects count as used, so that replacements avoid them.
    use_count = np.bincount([color_index % size for color_index in preferred], minlength=size)
    for i in order:
        color = preferred[i] % size
        use_count[color] -= 1
        adjacent_colors = [chosen[j] for j in adjacent.get(i, []) if j in chosen]
        if adjacent_colors:
            nearest = DISTANCES[:, adjacent_colors].min(1)
            if nearest[color] < MIN_DISTANCE:
                color = int(np.lexsort((use_count, -np.minimum(nearest, 2 * MIN_DISTANCE).round(3)))[0])
        chosen[i] = color
        use_count[color] += 1
    return [chosen[i] for i in range(len(preferred))]
