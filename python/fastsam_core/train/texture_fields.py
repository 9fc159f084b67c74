"""Grey-level fields for surface textures: noise, stripes, bricks, wood, weave, fibres, print and the like.

Each is a function of the random generator and a side in pixels that returns an array broadcastable to (size, size).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

Field = Callable[[np.random.Generator, int], np.ndarray]


def normalize(field: np.ndarray) -> np.ndarray:
    """Return the field stretched to [0, 1], float32."""
    low, high, _, _ = cv2.minMaxLoc(field)
    return ((field - low) * (1.0 / max(high - low, 1e-6))).astype(np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    return ramp[None, :], ramp[:, None]


def octave_noise(
    rng: np.random.Generator, size: int, *, cells: int = 4, octaves: int = 5, decay: float = 0.55
) -> np.ndarray:
    """Return smooth noise summed over octaves, (size, size) float32 in [0, 1]; the first has `cells` cells per side."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for _ in range(octaves):
        if cells >= size:
            break
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * decay
    return normalize(total)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    field = octave_noise(
        rng, size, cells=int(rng.integers(2, 12)), octaves=int(rng.integers(3, 7)), decay=float(rng.uniform(0.4, 0.85))
    )
    return 1.0 - np.abs(2.0 * field - 1.0) if rng.random() < 0.25 else field


def _wave(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Return a wave of `phase` with random steepness, from a sine to nearly a square wave."""
    return np.tanh(np.sin(phase) * rng.uniform(0.5, 6.0) + rng.uniform(-0.6, 0.6))


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _axes(size)
    angle = rng.uniform(0, 2 * np.pi)
    # Python floats: NumPy's float64 scalars would promote what follows to float64, which takes three times as long.
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    u, _ = _turned(rng, size)
    bend = octave_noise(rng, size, cells=3, octaves=2) * (rng.uniform(0, 6) if rng.random() < 0.5 else 0.0)
    return _wave(rng, u * 2 * math.pi * rng.uniform(4, 30) + bend)


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = _turned(rng, size)
    freq = 2 * np.pi * rng.uniform(4, 16)
    first, second = _wave(rng, u * freq), _wave(rng, v * freq)
    return first * second if rng.random() < 0.5 else first + second


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _axes(size)
    rows = int(rng.integers(6, 22))
    row = np.floor(y * rows)
    across = x * rows / rng.uniform(1.2, 3.0) + 0.5 * (row % 2)
    tones = rng.random((rows + 1, 3 * rows + 3), dtype=np.float32)
    tone = tones[row.astype(np.intp), across.astype(np.intp)]
    joint = rng.uniform(0.06, 0.16)
    mortar = (np.minimum(across % 1.0, 1.0 - across % 1.0) < joint / 2) | (
        np.minimum((y * rows) % 1.0, 1.0 - (y * rows) % 1.0) < joint
    )
    colour = np.float32(rng.choice([-0.6, 1.4]))
    return np.where(mortar, colour, tone * 0.7) + 0.3 * octave_noise(rng, size, cells=16)


def _dots(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = _turned(rng, size)
    count = rng.uniform(6, 24)
    a, b = u * count, v * count
    row = np.floor(b)
    a = a + 0.5 * (row - 2.0 * np.floor(0.5 * row))
    distance = cv2.magnitude(a - np.floor(a) - 0.5, b - row - 0.5)
    return 1.0 / (1.0 + np.exp((distance - rng.uniform(0.15, 0.4)) * 25))


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    grain = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), float(rng.uniform(0.8, 4.0)))
    gain = rng.uniform(0.8, 4.0) / max(float(grain.std()), 1e-6)
    return np.tanh(grain * gain - rng.uniform(0.0, 2.0))


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = _turned(rng, size)
    warp = octave_noise(rng, size, cells=2, octaves=4)
    rings = np.sin(2 * math.pi * rng.uniform(6, 20) * (u + warp * rng.uniform(0.1, 0.5) + 0.05 * v))
    return rings + rng.uniform(0.3, 1.0) * _fibres(rng, size)


def _marble(rng: np.random.Generator, size: int) -> np.ndarray:
    u, _ = _turned(rng, size)
    warp = octave_noise(rng, size, cells=3, octaves=6, decay=0.6)
    veins = np.abs(np.sin(math.pi * (u * rng.uniform(1, 5) + warp * rng.uniform(2, 6))))
    return cv2.pow(veins, rng.uniform(0.3, 1.5))


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = _turned(rng, size)
    freq = math.pi * rng.uniform(16, 56)
    warp_on_top = np.sin(u * freq / 2) * np.sin(v * freq / 2) > 0
    threads = np.where(warp_on_top, np.abs(np.sin(u * freq)), np.abs(np.sin(v * freq)))
    return threads + rng.uniform(0, 0.8) * octave_noise(rng, size, cells=12)


def _cells(rng: np.random.Generator, size: int) -> np.ndarray:
    seeds = np.ones((size, size), np.uint8)
    count = int(rng.integers(30, 400))
    seeds[rng.integers(0, size, count), rng.integers(0, size, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tone = rng.random(int(label.max()) + 1, dtype=np.float32)[label]
    return tone * rng.uniform(0, 1) + float(rng.choice([-1.0, 1.0])) * normalize(distance)


def _fibres(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return noise smeared along one direction: fur, grass, brushed metal."""
    grain = rng.standard_normal((size, size), dtype=np.float32)
    smeared = cv2.blur(cv2.GaussianBlur(grain, (0, 0), 0.8), (int(rng.integers(8, 60)), 1))
    x, y = _axes(size)
    sway = (octave_noise(rng, size, cells=3, octaves=3) - 0.5) * float(size) * 0.25 * rng.random()
    degrees = float(rng.uniform(0, 360))
    rotated = cv2.warpAffine(
        smeared,
        cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1.0),
        (size, size),
        borderMode=cv2.BORDER_REFLECT,
    )
    warped = cv2.remap(rotated, (x * (size - 1) + sway).astype(np.float32), (y * (size - 1) + sway).astype(np.float32),
                       cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    return normalize(np.clip(warped / max(float(warped.std()), 1e-6), -2.5, 2.5))


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return overlapping grey ellipses with power-law sizes, whose edge statistics resemble clutter in photographs."""
    field = np.full((size, size), 0.5, np.float32)
    longest, squash = float(rng.uniform(0.05, 0.2)) * size, float(rng.uniform(0.3, 1.0))
    for fraction in np.sort(rng.random(700))[::-1] ** 2:
        radius = 2 + fraction * longest
        centre = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        cv2.ellipse(field, centre, (int(radius), max(int(radius * squash), 1)), float(rng.uniform(0, 360)), 0, 360,
                    float(rng.random()), -1, cv2.LINE_8)  # fmt: skip
    return cv2.GaussianBlur(field, (0, 0), 0.8)


def _print(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return rows of small marks, like print on a page or a label."""
    field = np.zeros((size, size), np.float32)
    pitch = int(rng.integers(14, 34))
    for top in range(pitch // 2, size - pitch, pitch):
        left = int(rng.integers(0, pitch))
        while left < size:
            width = int(rng.integers(pitch // 4, pitch))
            for _ in range(3):
                start = (left + int(rng.integers(0, width)), top + int(rng.integers(0, pitch // 2)))
                stop = (left + int(rng.integers(0, width)), top + int(rng.integers(0, pitch // 2)))
                cv2.line(field, start, stop, 1.0, max(pitch // 10, 1), cv2.LINE_8)
            left += width + (pitch if rng.random() < 0.2 else pitch // 5)
    return cv2.GaussianBlur(field, (0, 0), 0.7)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = _turned(rng, size)
    return u + rng.uniform(-0.5, 0.5) * v**2 + 0.1 * octave_noise(rng, size)


def _flat(rng: np.random.Generator, size: int) -> np.ndarray:
    grain = rng.standard_normal((size, size), dtype=np.float32)
    return 0.5 + 0.03 * np.clip(grain, -3, 3) + 0.15 * (octave_noise(rng, size, cells=2, octaves=2) - 0.5)


# (function, fraction of the pool, True if its result is already in [0, 1] and must not be stretched)
KINDS: tuple[tuple[Field, float, bool], ...] = (
    (_noise, 0.18, False),
    (_stripes, 0.06, False),
    (_checks, 0.05, False),
    (_bricks, 0.04, False),
    (_dots, 0.04, False),
    (_speckle, 0.08, False),
    (_wood, 0.07, False),
    (_marble, 0.06, False),
    (_weave, 0.06, False),
    (_cells, 0.07, False),
    (_fibres, 0.09, False),
    (_leaves, 0.07, False),
    (_print, 0.03, False),
    (_gradient, 0.04, False),
    (_flat, 0.06, True),
)
