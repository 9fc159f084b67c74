"""Pool of cached surface textures, cheap enough to colour every object of a generated scene.

Making a good texture takes milliseconds and a scene needs dozens, so grey-level fields are made once, and each use
takes a random crop, rotation, zoom and colour map of one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .texture_fields import KINDS, normalize

# Ramps of the 256 grey levels around 0, (256, 1): linear, or one steep step.
_LEVEL = np.linspace(-0.5, 0.5, 256, dtype=np.float32)[:, None]
_STEEP = 1.0 / (1.0 + np.exp(-_LEVEL * 12.0)) - 0.5
_ABOVE = {False: np.maximum(_LEVEL, 0.0), True: np.maximum(_STEEP, 0.0)}

_QUARTER = math.pi / 2

# Mean RGB of common things: skin, wood, brick, foliage, grass, sky, water, sand, stone, asphalt, paper, steel, cloth,
# fruit.
NATURAL_COLOURS = np.array(
    [
        (0.80, 0.62, 0.52), (0.50, 0.34, 0.26), (0.55, 0.38, 0.22), (0.72, 0.55, 0.36), (0.60, 0.30, 0.22),
        (0.25, 0.36, 0.16), (0.38, 0.50, 0.22), (0.55, 0.68, 0.85), (0.30, 0.45, 0.55), (0.76, 0.68, 0.52),
        (0.52, 0.50, 0.46), (0.28, 0.28, 0.30), (0.90, 0.88, 0.82), (0.62, 0.64, 0.68), (0.20, 0.24, 0.40),
        (0.75, 0.20, 0.16), (0.88, 0.60, 0.15), (0.12, 0.11, 0.11), (0.95, 0.95, 0.95), (0.35, 0.22, 0.14),
    ],
    dtype=np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """Look of a surface: a texture of the pool with its scale, direction and colours.

    Attributes:
        index: index of the texture in the pool.
        angle: rotation in radians.
        zoom: image pixels per texture pixel.
        lut: (256, 3) float32, RGB colour in [0, 1] of each of the texture's grey levels.
    """

    index: int
    angle: float
    zoom: float
    lut: np.ndarray

    @property
    def colour(self) -> np.ndarray:
        """RGB colour of the middle grey level, (3,) float32."""
        return self.lut[128]

    @property
    def is_plain(self) -> bool:
        """Whether the texture is barely visible."""
        return float(np.abs(self.lut[255] - self.lut[0]).max()) < 0.025

    def coloured(self, grey: np.ndarray) -> np.ndarray:
        """Map grey levels (h, w) uint8 of the texture to colours, (h, w, 3) float32 RGB."""
        return cv2.LUT(cv2.merge([grey, grey, grey]), self.lut[None])

    def recoloured(self, colour: np.ndarray) -> Material:
        """Return the material shifted to another middle colour, (3,) RGB in [0, 1]."""
        return Material(
            self.index, self.angle, self.zoom, np.clip(self.lut + (colour - self.colour), 0.0, 1.0).astype(np.float32)
        )


def _angle(rng: np.random.Generator) -> float:
    """Return a random rotation, usually a multiple of a quarter turn.

    These are cropped four times as fast, and most textures already have a random direction.
    """
    return _QUARTER * int(rng.integers(4)) if rng.random() < 0.75 else float(rng.uniform(0, 2 * np.pi))


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Return a plausible surface colour, (3,) float32 RGB in [0, 1]: usually natural, else grey or saturated paint."""
    pick = rng.random()
    if pick < 0.62:
        colour = NATURAL_COLOURS[int(rng.integers(len(NATURAL_COLOURS)))] * rng.uniform(0.5, 1.25) + rng.normal(
            0, 0.05, 3
        )
    elif pick < 0.82:
        colour = np.full(3, rng.uniform(0.04, 0.96)) + rng.normal(0, 0.02, 3)
    else:
        paint = rng.random(3)
        colour = paint.mean() + (paint - paint.mean()) * rng.uniform(0.4, 1.3)
    return np.minimum(np.maximum(colour, 0.02), 0.98).astype(np.float32)


def colour_lut(rng: np.random.Generator, colour: np.ndarray, contrast: float) -> np.ndarray:
    """Return a colour ramp (256, 3) float32 around `colour`: dark to light by `contrast`, with a slight change of hue.

    Sometimes the ramp ends in an unrelated colour or is a steep step, for prints and painted patterns.
    """
    tilt = (contrast * (1.0 + rng.normal(0, 0.25, 3)) * (1.0 if rng.random() < 0.5 else -1.0)).astype(np.float32)
    steep = bool(rng.random() < 0.2)
    lut = (_STEEP if steep else _LEVEL) * tilt + colour
    if contrast > 0.15 and rng.random() < 0.3:
        lut += _ABOVE[steep] * ((random_colour(rng) - colour - 0.5 * tilt) * np.float32(2.0 * min(1.0, contrast * 2.0)))
    return np.minimum(np.maximum(lut, 0.0, out=lut), 1.0, out=lut)


class TexturePool:
    """Set of grey-level textures, made once, which supplies random crops in colour.

    Args:
        size: side of each cached texture in pixels, at least 32.
        count: number of cached textures, at least 1. The default of 200 takes about 65 MB and a few seconds to make at
            size 512.
        seed: random seed. The pool depends on these three arguments only.

    Raises:
        ValueError: for a size or count below its minimum.
    """

    def __init__(self, size: int = 512, count: int = 200, seed: int = 0) -> None:
        if size < 32 or count < 1:
            raise ValueError(f"a texture pool needs size >= 32 and count >= 1, got size={size} and count={count}")
        self.size, self.count, self.seed = int(size), int(count), int(seed)
        weights = np.array([weight for _, weight, _ in KINDS])
        # Kinds come from their cumulative weights at multiples of the golden ratio modulo 1. These are evenly spread,
        # so even a small pool holds every common kind.
        cumulative_shares = np.cumsum(weights) / weights.sum()
        levels: list[tuple[np.ndarray, np.ndarray]] = []
        self._kinds: dict[str, list[int]] = {}
        for index in range(self.count):
            rng = np.random.default_rng([self.seed, index])
            kind = int(np.searchsorted(cumulative_shares, ((index + 0.5) * 0.6180339887) % 1.0))
            make_field, _, is_normalised = KINDS[kind]
            self._kinds.setdefault(make_field.__name__.strip("_"), []).append(index)
            field = np.broadcast_to(make_field(rng, self.size), (self.size, self.size)).astype(np.float32)
            grey = (np.clip(field if is_normalised else normalize(field), 0.0, 1.0) * 255.0).astype(np.uint8)
            # The half-size copy avoids aliasing in strongly shrunk crops.
            levels.append((grey, cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
        self._levels = levels
        side = self.size + 128
        self._grain = np.random.default_rng([self.seed, self.count, 1]).standard_normal(
            (side, side, 3), dtype=np.float32
        )

    def __len__(self) -> int:
        return self.count

    def material(
        self,
        rng: np.random.Generator,
        *,
        colour: np.ndarray | None = None,
        contrast: float | None = None,
        zoom: float | None = None,
        kinds: tuple[str, ...] = (),
    ) -> Material:
        """Return a random material. Arguments that are not None fix a property of it.

        colour: (3,) RGB. contrast: 0 to 1. zoom: see `Material`. kinds: restricts the textures to these kinds
        ("stripes", "fibres", ...); ignored if the pool has none of them.
        """
        available = [kind for kind in kinds if kind in self._kinds]
        if available:
            candidates = self._kinds[available[int(rng.integers(len(available)))]]
            index = candidates[int(rng.integers(len(candidates)))]
        else:
            index = int(rng.integers(self.count))
        angle = _angle(rng)
        middle_colour = random_colour(rng) if colour is None else colour
        used_contrast = float(np.exp(rng.uniform(np.log(0.02), np.log(0.7)))) if contrast is None else contrast
        used_zoom = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6)))) if zoom is None else zoom
        return Material(index, angle, used_zoom, colour_lut(rng, middle_colour, used_contrast))

    def paint(self, material: Material, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Return a random crop of `material`, (height, width, 3) float32 RGB in [0, 1]."""
        if material.is_plain:
            return cv2.merge([np.full((height, width), value, np.float32) for value in material.colour.tolist()])
        return material.coloured(self.crop(material, rng, height, width))

    def crop(self, material: Material, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Return a random crop of `material` in grey levels, (height, width) uint8."""
        return self._crop(material.index, material.angle, material.zoom, rng, height, width)

    def _crop(
        self, index: int, angle: float, zoom: float, rng: np.random.Generator, height: int, width: int
    ) -> np.ndarray:
        use_half_size = zoom < 0.75
        source = self._levels[index][int(use_half_size)]
        texture_step = 1.0 / (2.0 * zoom if use_half_size else zoom)
        turns = angle / _QUARTER
        if turns == round(turns):
            is_sideways = round(turns) % 2 == 1
            w, h = (height, width) if is_sideways else (width, height)
            crop_width, crop_height = int(w * texture_step) + 1, int(h * texture_step) + 1
            if crop_width <= source.shape[1] and crop_height <= source.shape[0]:
                left = int(rng.integers(source.shape[1] - crop_width + 1))
                top = int(rng.integers(source.shape[0] - crop_height + 1))
                grey = cv2.resize(
                    source[top : top + crop_height, left : left + crop_width], (w, h), interpolation=cv2.INTER_LINEAR
                )
                grey = cv2.transpose(grey) if is_sideways else grey
                return np.asarray(cv2.flip(grey, -1) if round(turns) % 4 > 1 else grey)
        cos, sin = np.cos(angle) * texture_step, np.sin(angle) * texture_step
        x, y = rng.uniform(0, source.shape[1]), rng.uniform(0, source.shape[0])
        matrix = np.array([[cos, -sin, x], [sin, cos, y]], dtype=np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)

    def mottle(self, rng: np.random.Generator, height: int, width: int, zoom: float, strength: float) -> np.ndarray:
        """Return a brightness factor (height, width) float32 from a random texture: dirt, wrinkles, blotches.

        Its values lie between 1 - `strength` and 1 + `strength`.
        """
        ramp = np.linspace(1.0 - strength, 1.0 + strength, 256, dtype=np.float32)
        return cv2.LUT(
            self._crop(int(rng.integers(self.count)), _angle(rng), zoom, rng, height, width),
            ramp[None],
        )

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Return a random texture in random colours, (size, size, 3) float32 RGB in [0, 1]; ValueError if size < 1."""
        if size < 1:
            raise ValueError(f"a texture sample needs size >= 1, got {size}")
        return self.paint(self.material(rng), rng, size, size)

    def grain(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Return standard normal noise, (size, size, 3) float32: a random window of a cached field, tiled if needed."""
        field, side = self._grain, self._grain.shape[0]
        if size > side:
            reps = -(-size // side)
            field, side = np.tile(field, (reps, reps, 1)), side * reps
        dy, dx = int(rng.integers(side - size + 1)), int(rng.integers(side - size + 1))
        return field[dy : dy + size, dx : dx + size]
