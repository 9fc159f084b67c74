"""A pool of cached surface textures, cheap enough to colour every object of a generated scene.

Making a good texture takes milliseconds and a scene needs dozens of them, so grey-level fields are made once and every
use takes a random crop, rotation, zoom and colour map of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# Grey levels around the middle, (256, 1), even or in one steep step.
_LEVEL = np.linspace(-0.5, 0.5, 256, dtype=np.float32)[:, None]
_STEEP = 1.0 / (1.0 + np.exp(-_LEVEL * 12.0)) - 0.5
_ABOVE = {False: np.maximum(_LEVEL, 0.0), True: np.maximum(_STEEP, 0.0)}

_QUARTER = math.pi / 2

Field = Callable[[np.random.Generator, int], np.ndarray]

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


def _unit(field: np.ndarray) -> np.ndarray:
    low, high, _, _ = cv2.minMaxLoc(field)
    return ((field - low) * (1.0 / max(high - low, 1e-6))).astype(np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    return ramp[None, :], ramp[:, None]


def octave_noise(
    rng: np.random.Generator, size: int, *, cells: int = 4, octaves: int = 5, decay: float = 0.55
) -> np.ndarray:
    """Smooth noise summed over octaves, (size, size) float32 in [0, 1]; the first has `cells` cells across."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for _ in range(octaves):
        if cells >= size:
            break
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * decay
    return _unit(total)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    field = octave_noise(
        rng, size, cells=int(rng.integers(2, 12)), octaves=int(rng.integers(3, 7)), decay=float(rng.uniform(0.4, 0.85))
    )
    return 1.0 - np.abs(2.0 * field - 1.0) if rng.random() < 0.25 else field


def _wave(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """A sine of `phase`, from soft to nearly square."""
    return np.tanh(np.sin(phase) * rng.uniform(0.5, 6.0) + rng.uniform(-0.6, 0.6))


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _axes(size)
    angle = rng.uniform(0, 2 * np.pi)
    # Plain floats: numpy's own would turn everything that follows into float64, which takes three times as long.
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
    return tone * rng.uniform(0, 1) + float(rng.choice([-1.0, 1.0])) * _unit(distance)


def _fibres(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fur, grass, brushed metal: noise smeared along one direction."""
    grain = rng.standard_normal((size, size), dtype=np.float32)
    smear = cv2.blur(cv2.GaussianBlur(grain, (0, 0), 0.8), (int(rng.integers(8, 60)), 1))
    x, y = _axes(size)
    sway = (octave_noise(rng, size, cells=3, octaves=3) - 0.5) * float(size) * 0.25 * rng.random()
    spin = float(rng.uniform(0, 360))
    turned = cv2.warpAffine(
        smear, cv2.getRotationMatrix2D((size / 2, size / 2), spin, 1.0), (size, size), borderMode=cv2.BORDER_REFLECT
    )
    warped = cv2.remap(turned, (x * (size - 1) + sway).astype(np.float32), (y * (size - 1) + sway).astype(np.float32),
                       cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    return _unit(np.clip(warped / max(float(warped.std()), 1e-6), -2.5, 2.5))


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Overlapping grey ellipses with power-law sizes, which has edge statistics close to a photograph's clutter."""
    field = np.full((size, size), 0.5, np.float32)
    longest, squash = float(rng.uniform(0.05, 0.2)) * size, float(rng.uniform(0.3, 1.0))
    for share in np.sort(rng.random(700))[::-1] ** 2:
        radius = 2 + share * longest
        centre = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        cv2.ellipse(field, centre, (int(radius), max(int(radius * squash), 1)), float(rng.uniform(0, 360)), 0, 360,
                    float(rng.random()), -1, cv2.LINE_8)  # fmt: skip
    return cv2.GaussianBlur(field, (0, 0), 0.8)


def _print(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rows of small marks, like print on a page or a label."""
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


# (generator, share of the pool, True where the result already means something in [0, 1] and must not be stretched)
_KINDS: tuple[tuple[Field, float, bool], ...] = (
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


@dataclass(frozen=True)
class Material:
    """How a surface looks: one texture of the pool, its scale and direction, and its colours.

    Attributes:
        index: texture in the pool.
        angle: rotation in radians.
        zoom: picture pixels per texture pixel.
        lut: (256, 3) float32 RGB in [0, 1] for the texture's grey levels.
    """

    index: int
    angle: float
    zoom: float
    lut: np.ndarray

    @property
    def colour(self) -> np.ndarray:
        """Middle RGB colour, (3,) float32."""
        return self.lut[128]

    @property
    def plain(self) -> bool:
        """True where the texture can hardly be seen."""
        return float(np.abs(self.lut[255] - self.lut[0]).max()) < 0.025

    def coloured(self, grey: np.ndarray) -> np.ndarray:
        """The colours of (h, w) uint8 grey levels of the texture, (h, w, 3) float32 RGB."""
        return cv2.LUT(cv2.merge([grey, grey, grey]), self.lut[None])

    def recoloured(self, colour: np.ndarray) -> Material:
        """The same texture around another middle colour; (3,) RGB in [0, 1]."""
        return Material(
            self.index, self.angle, self.zoom, np.clip(self.lut + (colour - self.colour), 0.0, 1.0).astype(np.float32)
        )


def _angle(rng: np.random.Generator) -> float:
    """Mostly a quarter turn, which is cut out four times as fast: nearly all textures have a direction of their own."""
    return _QUARTER * int(rng.integers(4)) if rng.random() < 0.75 else float(rng.uniform(0, 2 * np.pi))


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """A plausible surface colour, (3,) float32 RGB in [0, 1]: mostly natural, some greys, some saturated paint."""
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


def colour_map(rng: np.random.Generator, colour: np.ndarray, contrast: float) -> np.ndarray:
    """A (256, 3) float32 ramp around `colour`: darker to lighter by `contrast`, with a slight change of hue.

    Now and then the ramp runs between two unrelated colours or in two steps, for prints and painted patterns.
    """
    tilt = (contrast * (1.0 + rng.normal(0, 0.25, 3)) * (1.0 if rng.random() < 0.5 else -1.0)).astype(np.float32)
    steep = bool(rng.random() < 0.2)
    lut = (_STEEP if steep else _LEVEL) * tilt + colour
    if contrast > 0.15 and rng.random() < 0.3:
        lut += _ABOVE[steep] * ((random_colour(rng) - colour - 0.5 * tilt) * np.float32(2.0 * min(1.0, contrast * 2.0)))
    return np.minimum(np.maximum(lut, 0.0, out=lut), 1.0, out=lut)


class TexturePool:
    """Grey-level textures made once from `seed`, and random crops of them in colour.

    Args:
        size: side of each cached texture in pixels, at least 32.
        count: number of cached textures, at least 1. Default 200, about 65 MB and a few seconds to make at size 512.
        seed: the pool is a function of these three arguments only.

    Raises:
        ValueError: for a size or count below its minimum.
    """

    def __init__(self, size: int = 512, count: int = 200, seed: int = 0) -> None:
        if size < 32 or count < 1:
            raise ValueError(f"a texture pool needs size >= 32 and count >= 1, got size={size} and count={count}")
        self.size, self.count, self.seed = int(size), int(count), int(seed)
        weights = np.array([weight for _, weight, _ in _KINDS])
        # The cumulative share decides the kind, so that even a small pool holds every common kind once.
        shares = np.cumsum(weights) / weights.sum()
        levels: list[tuple[np.ndarray, np.ndarray]] = []
        self._kinds: dict[str, list[int]] = {}
        for index in range(self.count):
            rng = np.random.default_rng([self.seed, index])
            kind = int(np.searchsorted(shares, ((index + 0.5) * 0.6180339887) % 1.0))
            make, _, absolute = _KINDS[kind]
            self._kinds.setdefault(make.__name__.strip("_"), []).append(index)
            field = np.broadcast_to(make(rng, self.size), (self.size, self.size)).astype(np.float32)
            full = (np.clip(field if absolute else _unit(field), 0.0, 1.0) * 255.0).astype(np.uint8)
            # The half-size copy keeps strongly shrunk crops free of aliasing.
            levels.append((full, cv2.resize(full, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
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
        """A random surface; `colour` ((3,) RGB), `contrast` (0 to 1) or `zoom` (see `Material`) fix what they name.

        `kinds` ("stripes", "fibres", ...) narrows down the textures, as far as a small pool has any of them.
        """
        known = [kind for kind in kinds if kind in self._kinds]
        if known:
            choice = self._kinds[known[int(rng.integers(len(known)))]]
            index = choice[int(rng.integers(len(choice)))]
        else:
            index = int(rng.integers(self.count))
        angle = _angle(rng)
        chosen = random_colour(rng) if colour is None else colour
        strength = float(np.exp(rng.uniform(np.log(0.02), np.log(0.7)))) if contrast is None else contrast
        scale = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6)))) if zoom is None else zoom
        return Material(index, angle, scale, colour_map(rng, chosen, strength))

    def paint(self, material: Material, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A random crop of `material`, (height, width, 3) float32 RGB in [0, 1]."""
        if material.plain:
            return cv2.merge([np.full((height, width), value, np.float32) for value in material.colour.tolist()])
        return material.coloured(self.crop(material, rng, height, width))

    def crop(self, material: Material, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A random crop of `material` before its colours, (height, width) uint8."""
        return self._crop(material.index, material.angle, material.zoom, rng, height, width)

    def _crop(
        self, index: int, angle: float, zoom: float, rng: np.random.Generator, height: int, width: int
    ) -> np.ndarray:
        half = zoom < 0.75
        source = self._levels[index][int(half)]
        step = 1.0 / (2.0 * zoom if half else zoom)
        turns = angle / _QUARTER
        if turns == round(turns):
            sideways = round(turns) % 2 == 1
            w, h = (height, width) if sideways else (width, height)
            across, down = int(w * step) + 1, int(h * step) + 1
            if across <= source.shape[1] and down <= source.shape[0]:
                left = int(rng.integers(source.shape[1] - across + 1))
                top = int(rng.integers(source.shape[0] - down + 1))
                grey = cv2.resize(
                    source[top : top + down, left : left + across], (w, h), interpolation=cv2.INTER_LINEAR
                )
                grey = cv2.transpose(grey) if sideways else grey
                return np.asarray(cv2.flip(grey, -1) if round(turns) % 4 > 1 else grey)
        cos, sin = np.cos(angle) * step, np.sin(angle) * step
        x, y = rng.uniform(0, source.shape[1]), rng.uniform(0, source.shape[0])
        matrix = np.array([[cos, -sin, x], [sin, cos, y]], dtype=np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)

    def mottle(self, rng: np.random.Generator, height: int, width: int, zoom: float, strength: float) -> np.ndarray:
        """A brightness factor around 1 from a random texture, (height, width) float32: dirt, wrinkles, blotches."""
        ramp = np.linspace(1.0 - strength, 1.0 + strength, 256, dtype=np.float32)
        return cv2.LUT(
            self._crop(int(rng.integers(self.count)), _angle(rng), zoom, rng, height, width),
            ramp[None],
        )

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A random texture in random colours, (size, size, 3) float32 RGB in [0, 1]; ValueError unless size >= 1."""
        if size < 1:
            raise ValueError(f"a texture sample needs size >= 1, got {size}")
        return self.paint(self.material(rng), rng, size, size)

    def grain(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Standard normal noise, (size, size, 3) float32: a random window of a cached field, tiled where too small."""
        field, side = self._grain, self._grain.shape[0]
        if size > side:
            reps = -(-size // side)
            field, side = np.tile(field, (reps, reps, 1)), side * reps
        dy, dx = int(rng.integers(side - size + 1)), int(rng.integers(side - size + 1))
        return field[dy : dy + size, dx : dx + size]
