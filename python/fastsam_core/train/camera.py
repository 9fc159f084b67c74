"""Camera effects for a generated scene: light fall-off, colour cast, blur, noise and compression."""

from __future__ import annotations

import cv2
import numpy as np

from .reflections import TO_GREY, tint_by_neighbours
from .textures import TexturePool


def _lighting(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a smooth brightness factor with vignetting and a colour cast, (size, size, 3) float32."""
    grid = np.linspace(-1, 1, 17, dtype=np.float32)
    x, y = grid[None, :], grid[:, None]
    rotation = rng.uniform(0, 2 * np.pi)
    light = 1.0 + float(rng.uniform(0, 0.35)) * (x * np.cos(rotation) + y * np.sin(rotation))
    if rng.random() < 0.2:  # a window's or lamp's patch of light
        cx, cy = rng.uniform(-1, 1, 2)
        light = light * (0.75 + 0.5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.1, 0.8)))
    light = light * (1.0 - (rng.uniform(0, 0.4) if rng.random() < 0.5 else 0.0) * (x * x + y * y) / 2)
    cast = np.clip(1.0 + rng.normal(0, 0.06, 3), 0.75, 1.25).astype(np.float32) * np.float32(
        np.exp(rng.normal(0.0, 0.15))
    )
    return cv2.resize(light.astype(np.float32)[:, :, None] * cast, (size, size), interpolation=cv2.INTER_LINEAR)


def _shadows(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return shadows cast across the scene by things outside the image, as a factor (size, size, 3) float32."""
    side = -(-size // 2)
    factor: np.ndarray = np.ones((side, side), np.float32)
    darkness, rotation = float(rng.uniform(0.4, 0.8)), float(rng.uniform(0, np.pi))
    along, across = np.array([np.cos(rotation), np.sin(rotation)]), np.array([-np.sin(rotation), np.cos(rotation)])
    pick = rng.random()
    if pick < 0.4:  # bars: a window's, a fence's
        pitch = float(rng.uniform(0.06, 0.4)) * side
        for offset in np.arange(-side, side, pitch) + float(rng.uniform(0, pitch)):
            middle = 0.5 * side + across * offset
            bar_vector = across * pitch * float(rng.uniform(0.2, 0.6))
            quad = [middle - along * 2 * side, middle + along * 2 * side]
            quad += [quad[1] + bar_vector, quad[0] + bar_vector]
            cv2.fillPoly(factor, [np.rint(quad).astype(np.int32)], darkness)
    elif pick < 0.7:  # leaves with spots of light between them
        for _ in range(int(rng.integers(20, 90))):
            x, y = rng.uniform(0, side, 2)
            axes = (int(rng.uniform(0.02, 0.12) * side) + 1, int(rng.uniform(0.02, 0.08) * side) + 1)
            cv2.ellipse(factor, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, darkness, -1)
    else:  # one straight edge
        middle = rng.uniform(0.2, 0.8, 2) * side
        quad = [middle - along * 2 * side, middle + along * 2 * side]
        quad += [quad[1] + across * 2 * side, quad[0] + across * 2 * side]
        cv2.fillPoly(factor, [np.rint(quad).astype(np.int32)], darkness)
    factor = cv2.GaussianBlur(factor, (0, 0), float(rng.uniform(0.3, 3.0)) * size / 512.0 + 0.3)
    return cv2.resize(cv2.merge([factor, factor, factor]), (size, size), interpolation=cv2.INTER_LINEAR)


def _blur(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    pick = rng.random()
    if pick < 0.4:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.9)) * size / 256.0)
    if pick < 0.46:  # camera shake
        length = max(int(rng.uniform(2, 7) * size / 256.0), 2)
        kernel = np.zeros((length, length), np.float32)
        rotation = rng.uniform(0, np.pi)
        dx, dy = np.cos(rotation) * length / 2, np.sin(rotation) * length / 2
        middle = (length - 1) / 2
        cv2.line(kernel, (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy)), 1.0, 1)
        return cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 1.0))
    if pick < 0.58:  # sharpening, with the halos that cameras leave
        amount = float(rng.uniform(0.3, 1.0))
        return cv2.addWeighted(image, 1.0 + amount, cv2.GaussianBlur(image, (0, 0), 1.0 * size / 256.0), -amount, 0.0)
    return image


def apply_camera_effects(rng: np.random.Generator, image: np.ndarray, pool: TexturePool) -> np.ndarray:
    """Return a uint8 image of the same size with the flaws of a camera.

    image: (S, S, 3) float32 RGB, linear rendering; its content is overwritten.
    """
    size = image.shape[0]
    if rng.random() < 0.35:
        image = tint_by_neighbours(image, float(rng.uniform(0.02, 0.12)), float(rng.uniform(0.1, 0.5)))
    image = cv2.multiply(image, _lighting(rng, size), image)
    if rng.random() < 0.12:
        image = cv2.multiply(image, _shadows(rng, size), image)
    if rng.random() < 0.65:  # generated colours are more saturated than most real ones
        saturation = float(rng.uniform(0.35, 1.0))
        image = cv2.transform(image, saturation * np.eye(3) + (1.0 - saturation) * TO_GREY)
    if rng.random() < 0.5:
        gamma = float(np.exp(rng.normal(0, 0.2)))
        image = cv2.pow(np.maximum(image, 0.0, out=image), gamma, image)
    if rng.random() < 0.3:
        gain = float(rng.uniform(0.6, 1.3))
        image = cv2.addWeighted(image, gain, image, 0.0, 0.5 - 0.5 * gain, image)
    image = _blur(rng, image, size)
    if rng.random() < 0.05:
        image = cv2.transform(image, TO_GREY)
    strength = 0.0
    if rng.random() < 0.7:
        strength = float(np.exp(rng.uniform(np.log(0.004), np.log(0.05))))
    # Noise, rounding and saturation to [0, 255] in one pass.
    quantised = cv2.addWeighted(image, 255.0, pool.grain(rng, size), 255.0 * strength, 0.0, dtype=cv2.CV_8U)
    if rng.random() < 0.6:
        quality = int(rng.integers(35, 96))
        bgr = cv2.cvtColor(quantised, cv2.COLOR_RGB2BGR)
        encoded_ok, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if encoded_ok:
            quantised = cv2.cvtColor(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(quantised)
