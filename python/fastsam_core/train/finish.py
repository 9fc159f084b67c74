"""Appearance and position of placed objects: the painter's input."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .shapes import Shape
from .textures import Material


@dataclass(frozen=True)
class Finish:
    """Lighting, blur and outline of an object.

    Attributes:
        roundness: fraction of the radius over which the surface curves away from the viewer; 0 is flat.
        edge: darkening right at the outline, 0 to 1.
        gloss: strength of the highlight.
        opacity: 1 is opaque.
        soft: sigma in pixels of the blur of an object out of focus.
        shadow: darkness of the shadow it casts, 0 to 1.
        lift: distance of the shadow from the object in units of the object's size.
        mottle: strength of uneven brightness over the whole object, 0 to 1.
        ragged: size in pixels of fur-like fraying of the outline; 0 is smooth.
        slope: how much brighter than the middle the side towards the light is, 0 to 1.
        smear: length of the motion blur in pixels.
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
    """A shape placed in the image.

    Attributes:
        shape: the shape, in units of its own.
        matrix: (2, 3), affine map from the shape's units to pixels.
        finish: lighting, blur and outline.
        materials: material of each slot of the shape. The painter draws missing ones at random and adds them. Repeated
            instances share one dictionary, and so their materials.
        grounded: the shadow falls on the floor instead of on a wall right behind the object.
        pliable: the painter deforms the object slightly, each instance in a different way.
    """

    shape: Shape
    matrix: np.ndarray
    finish: Finish
    materials: dict[int, Material] = field(default_factory=dict)
    grounded: bool = False
    pliable: bool = True


def random_finish(rng: np.random.Generator, size: int, *, depth: float = 0.0) -> Finish:
    """Return a random finish for an image of `size` pixels. depth: blur, from 0 (in focus) to 1 (far out of focus)."""
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
