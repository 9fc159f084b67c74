"""Unlabelled backdrops of generated scenes: walls, floors, skies and clutter."""

from __future__ import annotations

import cv2
import numpy as np

from .backdrop_details import INDOOR_DETAILS, OUTDOOR_DETAILS, draw_details
from .textures import TexturePool, random_colour


def _random_texture(
    rng: np.random.Generator, pool: TexturePool, size: int, *, contrast: float | None = None
) -> np.ndarray:
    zoom = size / 384.0 * float(np.exp(rng.uniform(np.log(0.35), np.log(2.2))))
    return pool.paint(pool.material(rng, contrast=contrast, zoom=zoom), rng, size, size)


def _blur(
    rng: np.random.Generator, image: np.ndarray, size: int, *, min_sigma: float = 0.3, max_sigma: float = 4.0
) -> np.ndarray:
    sigma = float(rng.uniform(min_sigma, max_sigma)) * size / 256.0
    small = cv2.resize(image, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(
        cv2.GaussianBlur(small, (0, 0), max(sigma / 2, 0.3)), (size, size), interpolation=cv2.INTER_LINEAR
    )


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a linear gradient between two colours, (size, size, 3) float32."""
    first = random_colour(rng)
    second = np.clip(first + rng.normal(0, 0.2, 3), 0, 1) if rng.random() < 0.7 else random_colour(rng)
    axis = np.linspace(0, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = axis[None, :] * np.float32(np.cos(angle)), axis[:, None] * np.float32(np.sin(angle))
    ramp = x + y
    low, high, _, _ = cv2.minMaxLoc(ramp)
    steps = ((second - first) / max(high - low, 1e-6)).tolist()
    return cv2.merge([ramp * step + (start - low * step) for start, step in zip(first.tolist(), steps, strict=True)])


def _ground_plane(rng: np.random.Generator, pool: TexturePool, size: int, horizon: float) -> np.ndarray:
    """Return a textured ground in perspective, (size - row, size, 3): the part of an image below `horizon`, a row."""
    zoom = size / 384.0 * float(np.exp(rng.uniform(np.log(0.35), np.log(2.2))))
    material = pool.material(rng, zoom=zoom)
    texture = pool.crop(material, rng, size, size)
    ground_height = max(size - horizon, 4.0)
    inset = float(rng.uniform(0.1, 0.6)) * size
    source = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    target = np.array(
        [
            [inset, horizon],
            [size - inset, horizon],
            [size + 2 * inset, horizon + ground_height],
            [-2 * inset, horizon + ground_height],
        ],
        np.float32,
    )
    row = int(np.clip(horizon, 1, size - 1))
    matrix = cv2.getPerspectiveTransform(source, target - np.array([0, row], np.float32))
    # Warp the grey levels rather than the colours, which have three channels of four bytes each.
    return material.coloured(cv2.warpPerspective(texture, matrix, (size, size - row), borderMode=cv2.BORDER_REFLECT))


def indoor(rng: np.random.Generator, pool: TexturePool, size: int, horizon: float) -> np.ndarray:
    """Return a wall above a floor or table top, with a skirting board or shadow where they meet."""
    image = _random_texture(rng, pool, size, contrast=None if rng.random() < 0.4 else float(rng.uniform(0.02, 0.15)))
    row = int(np.clip(horizon, 1, size - 1))
    image[row:] = _ground_plane(rng, pool, size, horizon)
    if rng.random() < 0.5:
        draw_details(rng, pool, image, row, INDOOR_DETAILS)
    if rng.random() < 0.4:
        board = max(int(size * rng.uniform(0.01, 0.04)), 1)
        image[max(row - board, 0) : row] = random_colour(rng)
    fade = np.exp(-np.abs(np.arange(size, dtype=np.float32) - row) / (0.03 * size)) * rng.uniform(0, 0.4)
    image *= (1.0 - fade)[:, None, None].astype(np.float32)
    return image


def outdoor(rng: np.random.Generator, pool: TexturePool, size: int, horizon: float) -> np.ndarray:
    """Return a sky, sometimes cloudy, above textured ground."""
    blue = np.array([0.45, 0.62, 0.85]) * rng.uniform(0.6, 1.15) + rng.normal(0, 0.08, 3)
    pale = np.clip(blue + rng.uniform(0.0, 0.35), 0, 1)
    ramp = (np.linspace(0, 1, size, dtype=np.float32) ** float(rng.uniform(0.6, 2.0)))[:, None, None]
    sky = np.ascontiguousarray(
        np.broadcast_to(np.clip(blue, 0, 1) * (1 - ramp) + pale * ramp, (size, size, 3)), np.float32
    )
    if rng.random() < 0.5:
        cloud = cv2.resize(rng.random((5, 7), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        finer = cv2.resize(rng.random((13, 17), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        cloud = cv2.scaleAdd(finer, 0.5, cloud)
        cloud = np.clip((cloud - np.float32(rng.uniform(0.6, 1.0))) * np.float32(2.0), 0, 1)
        white = np.full((size, size, 3), rng.uniform(0.75, 1.0), np.float32)
        cv2.blendLinear(white, sky, cloud, 1.0 - cloud, sky)
    image = sky
    has_details = rng.random() < 0.6
    row = int(np.clip(horizon, 1, size - 1))
    image[row:] = _ground_plane(rng, pool, size, horizon)
    if has_details:
        draw_details(rng, pool, image, row, OUTDOOR_DETAILS)
    if rng.random() < 0.5:  # haze
        depth = np.arange(size - row, dtype=np.float32)[:, None, None]
        fade = np.exp(-depth / np.float32(0.15 * size)) * np.float32(rng.uniform(0, 0.5))
        image[row:] += fade * (pale.astype(np.float32) - image[row:])
    return image


def clutter(rng: np.random.Generator, pool: TexturePool, size: int) -> np.ndarray:
    """Return colourful clutter out of focus, as behind a portrait or at the far side of a street."""
    image = gradient(rng, size)
    base = random_colour(rng)
    for _ in range(int(rng.integers(15, 60))):
        colour = np.clip(base + rng.normal(0, 0.25, 3), 0, 1) if rng.random() < 0.7 else random_colour(rng)
        axes = (max(int(size * rng.uniform(0.01, 0.2)), 1), max(int(size * rng.uniform(0.01, 0.2)), 1))
        centre = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        colour_tuple = tuple(float(c) for c in colour)
        if rng.random() < 0.5:
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 360)), 0, 360, colour_tuple, -1)
        else:
            cv2.rectangle(
                image,
                (centre[0] - axes[0], centre[1] - axes[1]),
                (centre[0] + axes[0], centre[1] + axes[1]),
                colour_tuple,
                -1,
            )
    image = _blur(rng, image, size, min_sigma=2.5, max_sigma=10.0)
    return cv2.addWeighted(image, 1.0, _random_texture(rng, pool, size, contrast=0.1), 0.3, -0.15, image)


def flat(rng: np.random.Generator, pool: TexturePool, size: int) -> np.ndarray:
    """Return a wall or table seen frontally: one texture, a gradient, or a mix of both."""
    pick = rng.random()
    if pick < 0.2:
        return gradient(rng, size)
    image = _random_texture(rng, pool, size)
    if pick < 0.45:
        image = cv2.addWeighted(image, 0.5, gradient(rng, size), 0.5, 0.0, image)
    if rng.random() < 0.3:
        image = _blur(rng, image, size)
    if rng.random() < 0.25:
        draw_details(rng, pool, image, size, INDOOR_DETAILS)
    return image
