"""Light that comes by way of other things: mirror images in the ground, surroundings in glossy skins, tinted light."""

from __future__ import annotations

import cv2
import numpy as np

# Rec. 601 luma, as OpenCV's conversion to grey has it, in every channel.
TO_GREY = np.array([[0.299, 0.587, 0.114]] * 3)


def mirror_in_ground(
    image: np.ndarray,
    labels: np.ndarray,
    colour: np.ndarray,
    alpha: np.ndarray,
    corner: tuple[int, int],
    strength: float,
) -> None:
    """Blend what a smooth floor, a wet street or a polished table shows of a thing that stands on it, in place.

    image: (S, S, 3) float32, the picture so far; labels: (S, S) int32, its objects. The mirror image stays on what the
    thing stands on, and the labels stay as they are: nobody means a mirror image when they click.
    colour, alpha: (h, w, 3) and (h, w) float32, the thing, whose upper left pixel is at `corner` (x, y).
    strength: how much of the light the ground throws back right below the thing, 0 to 1; it fades farther down.
    """
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    if not len(rows):
        return
    x0, top = corner[0], corner[1] + int(rows[-1]) + 1
    reach = min(int(rows[-1] - rows[0] + 1), image.shape[0] - top)
    if reach < 3:
        return
    # Where it touches the ground decides what that is.
    foot = x0 + int(np.flatnonzero(alpha[rows[-1]] > 0.5).mean())
    window = np.s_[top : top + reach, x0 : x0 + alpha.shape[1]]
    upside_down = np.s_[rows[-1] - reach + 1 : rows[-1] + 1]
    # Roughness smears what is far from the ground along the line of sight.
    smear = (1, 2 * (reach // 24) + 1)
    shown = cv2.blur(np.ascontiguousarray(colour[upside_down][::-1]), smear)
    amount = cv2.blur(np.ascontiguousarray(alpha[upside_down][::-1]), smear)
    amount = amount * (strength * np.linspace(1.0, 0.15, reach, dtype=np.float32)[:, None])
    amount = np.where(labels[window] == labels[min(top + 1, labels.shape[0] - 1), foot], amount, np.float32(0))
    under = image[window]
    cv2.blendLinear(shown, under, amount, 1.0 - amount, under)


def surroundings_in(up: np.ndarray, gloss: float) -> tuple[np.ndarray, np.ndarray]:
    """What a glossy skin shows of a bright sky or ceiling above and a dark ground below.

    up: (h, w) float32, the vertical part of the surface's normals, 1 facing up. gloss: 0 to 1. Returns a factor on the
    surface's own light and light to add, both (h, w) float32.
    """
    sky = 1.0 / (1.0 + cv2.exp((0.35 - up) * 14.0))
    ground = 1.0 / (1.0 + cv2.exp((up + 0.15) * 10.0))
    return 1.0 - np.float32(0.35 * gloss) * ground, np.float32(0.35 * gloss) * sky


def tint_by_neighbours(image: np.ndarray, reach: float, strength: float) -> np.ndarray:
    """Tint each place by the mean colour around it, as light does that comes by way of other surfaces.

    image: (S, S, 3) float32, overwritten and returned. reach: how far that light comes, a share of the side. strength:
    0 to 1, how much of the light has come so.
    """
    size = image.shape[0]
    step = 8 if size >= 64 else 2
    side = -(-size // step)
    around = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(around, (0, 0), max(reach * side, 0.5))
    tint = around / (cv2.transform(around, TO_GREY) + np.float32(0.02))
    factor = np.clip(1.0 + strength * (tint - 1.0), 0.5, 1.8).astype(np.float32)
    return cv2.multiply(image, cv2.resize(factor, (size, size), interpolation=cv2.INTER_LINEAR), image)
