"""Indirect light: mirror images in the ground, reflections in glossy surfaces, light tinted by neighbours."""

from __future__ import annotations

import cv2
import numpy as np

# Matrix that replaces each channel by the Rec. 601 luma, as in OpenCV's conversion to grey.
TO_GREY = np.array([[0.299, 0.587, 0.114]] * 3)


def mirror_in_ground(
    image: np.ndarray,
    labels: np.ndarray,
    colour: np.ndarray,
    alpha: np.ndarray,
    corner: tuple[int, int],
    strength: float,
) -> None:
    """Blend the mirror image of a thing into the smooth ground it stands on, in place.

    The mirror image is limited to the object (or backdrop) the thing stands on. Labels stay unchanged, because nobody
    who clicks means a mirror image.

    image: (S, S, 3) float32, the image so far. labels: (S, S) int32, its objects.
    colour, alpha: (h, w, 3) and (h, w) float32, the thing. corner: (x, y) of its upper left pixel in the image.
    strength: fraction of the light that the ground reflects right below the thing, 0 to 1; it fades farther down.
    """
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    if not len(rows):
        return
    x0, top = corner[0], corner[1] + int(rows[-1]) + 1
    mirror_height = min(int(rows[-1] - rows[0] + 1), image.shape[0] - top)
    if mirror_height < 3:
        return
    # The label just below the thing's lowest row tells what it stands on.
    foot_x = x0 + int(np.flatnonzero(alpha[rows[-1]] > 0.5).mean())
    window = np.s_[top : top + mirror_height, x0 : x0 + alpha.shape[1]]
    upside_down = np.s_[rows[-1] - mirror_height + 1 : rows[-1] + 1]
    # A rough ground smears the mirror image vertically.
    blur_size = (1, 2 * (mirror_height // 24) + 1)
    mirrored = cv2.blur(np.ascontiguousarray(colour[upside_down][::-1]), blur_size)
    amount = cv2.blur(np.ascontiguousarray(alpha[upside_down][::-1]), blur_size)
    amount = amount * (strength * np.linspace(1.0, 0.15, mirror_height, dtype=np.float32)[:, None])
    amount = np.where(labels[window] == labels[min(top + 1, labels.shape[0] - 1), foot_x], amount, np.float32(0))
    under = image[window]
    cv2.blendLinear(mirrored, under, amount, 1.0 - amount, under)


def environment_reflection(up: np.ndarray, gloss: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the reflection in a glossy surface of a bright sky or ceiling above and a dark ground below.

    up: (h, w) float32, the vertical component of the surface's normals, 1 facing up. gloss: 0 to 1. Returns a factor
    for the surface's own light and light to add, both (h, w) float32.
    """
    sky = 1.0 / (1.0 + cv2.exp((0.35 - up) * 14.0))
    ground = 1.0 / (1.0 + cv2.exp((up + 0.15) * 10.0))
    return 1.0 - np.float32(0.35 * gloss) * ground, np.float32(0.35 * gloss) * sky


def tint_by_neighbours(image: np.ndarray, reach: float, strength: float) -> np.ndarray:
    """Tint each pixel by the mean colour around it, like light reflected from nearby surfaces.

    image: (S, S, 3) float32, overwritten and returned. reach: sigma of the neighbourhood as a fraction of the side.
    strength: fraction of the light that is reflected, 0 to 1.
    """
    size = image.shape[0]
    step = 8 if size >= 64 else 2
    side = -(-size // step)
    neighbourhood = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    neighbourhood = cv2.GaussianBlur(neighbourhood, (0, 0), max(reach * side, 0.5))
    tint = neighbourhood / (cv2.transform(neighbourhood, TO_GREY) + np.float32(0.02))
    factor = np.clip(1.0 + strength * (tint - 1.0), 0.5, 1.8).astype(np.float32)
    return cv2.multiply(image, cv2.resize(factor, (size, size), interpolation=cv2.INTER_LINEAR), image)
