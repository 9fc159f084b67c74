"""How placed objects take light, and where they are: what the painter is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .shapes import Shape
from .textures import Material


@dataclass(frozen=True)
class Finish:
    """How an object takes light.

    Attributes:
        roundness: share of the radius over which the surface curves away from the viewer; 0 is flat.
        edge: darkening right at the outline, 0 to 1.
        gloss: strength of the highlight.
        opacity: 1 is solid.
        soft: blur sigma in pixels for things out of focus.
        shadow: darkness of the shadow it casts, 0 to 1.
        lift: distance of the shadow from the object in units of its size.
        mottle: strength of uneven brightness over the whole object, 0 to 1.
        ragged: size in pixels of fur-like fraying of the outline; 0 is clean.
        slope: how much brighter than the middle the side towards the light is, 0 to 1.
        smear: length in pixels of the object's motion.
    """

    roundness: float = 0.5
    edge: float = 0.2
    gloss: float = 0.0
    opacity: float = 1.0
    soft: float = 0.0
    shadow: float = 0.3
    lift: float = 0.05
    mottle: float = 0.0
    ragged: float = 0.0
    slope: float = 0.0
    smear: float = 0.0


@dataclass(frozen=True)
class Placed:
    """A shape with its place in the picture: `matrix` (2, 3) maps the shape's units to pixels.

    `materials` is shared between repeated instances; slots that it lacks are drawn at random and added. `grounded`
    objects throw their shadow on the floor instead of on a wall right behind; `pliable` ones are slightly deformed,
    each in its own way.
    """

    shape: Shape
    matrix: np.ndarray
    finish: Finish
    materials: dict[int, Material] = field(default_factory=dict)
    grounded: bool = False
    pliable: bool = True


def random_finish(rng: np.random.Generator, size: int, *, depth: float = 0.0) -> Finish:
    """A random finish; `depth` (0 in focus to 1 far out of focus) sets the blur."""
    roundness = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.1, 1.0))
    return Finish(
        roundness=roundness,
        edge=float(rng.uniform(0.05, 0.45)) if rng.random() < 0.6 else 0.0,
        gloss=float(rng.uniform(0.1, 0.8)) if rng.random() < 0.35 else 0.0,
        opacity=float(rng.uniform(0.6, 0.9)) if rng.random() < 0.03 else 1.0,
        soft=depth * size / 256.0 * 3.0,
        shadow=float(rng.uniform(0.1, 0.65)) if rng.random() < 0.7 else 0.0,
        lift=float(rng.uniform(0.0, 0.15)),
        mottle=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.3 else 0.0,
        ragged=float(rng.uniform(0.8, 2.5)) * size / 256.0 if rng.random() < 0.1 else 0.0,
        slope=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else 0.0,
        smear=float(rng.uniform(3.0, 12.0)) * size / 256.0 if rng.random() < 0.03 else 0.0,
    )
