"""Appearance and position of placed objects: the painter's input."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .shapes import Shape
from .textures import Material


@dataclass(frozen=True)
class Appearance:
    """Lighting, blur and outline of an object.

    Attributes:
        roundness: fraction of the radius over which the surface curves away from the viewer; 0 is flat.
        edge: darkening right at the outline, 0 to 1.
        gloss: strength of the highlight.
        opacity: 1 is opaque.
        defocus: sigma in pixels of the blur of an object out of focus.
        shadow: darkness of the shadow it casts, 0 to 1.
        shadow_distance: distance of the shadow from the object in units of the object's size.
        mottle: strength of uneven brightness over the whole object, 0 to 1.
        fraying: size in pixels of fur-like fraying of the outline; 0 is smooth.
        light_gradient: how much brighter than the middle the side towards the light is, 0 to 1.
        motion_blur: length of the motion blur in pixels.
    """

    roundness: float = 0.5
    edge: float = 0.2
    gloss: float = 0.0
    opacity: float = 1.0
    defocus: float = 0.0
    shadow: float = 0.3
    shadow_distance: float = 0.05
    mottle: float = 0.0
    fraying: float = 0.0
    light_gradient: float = 0.0
    motion_blur: float = 0.0


@dataclass(frozen=True)
class PlacedShape:
    """A shape placed in the image.

    Attributes:
        shape: the shape, in units of its own.
        matrix: (2, 3), affine map from the shape's units to pixels.
        appearance: lighting, blur and outline.
        materials: material of each slot of the shape. The painter draws missing ones at random and adds them. Repeated
            instances share one dictionary, and so their materials.
        grounded: the shadow falls on the floor instead of on a wall right behind the object.
        deformable: the painter deforms the object slightly, each instance in a different way.
    """

    shape: Shape
    matrix: np.ndarray
    appearance: Appearance
    materials: dict[int, Material] = field(default_factory=dict)
    grounded: bool = False
    deformable: bool = True


def random_appearance(rng: np.random.Generator, size: int, *, depth: float = 0.0) -> Appearance:
    """Return a random finish for an image of `size` pixels. depth: blur, from 0 (in focus) to 1 (far out of focus)."""
    roundness = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.1, 1.0))
    return Appearance(
        roundness=roundness,
        edge=float(rng.uniform(0.05, 0.45)) if rng.random() < 0.6 else 0.0,
        gloss=float(rng.uniform(0.1, 0.8)) if rng.random() < 0.35 else 0.0,
        opacity=float(rng.uniform(0.6, 0.9)) if rng.random() < 0.03 else 1.0,
        defocus=depth * size / 256.0 * 3.0,
        shadow=float(rng.uniform(0.1, 0.65)) if rng.random() < 0.7 else 0.0,
        shadow_distance=float(rng.uniform(0.0, 0.15)),
        mottle=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.3 else 0.0,
        fraying=float(rng.uniform(0.8, 2.5)) * size / 256.0 if rng.random() < 0.1 else 0.0,
        light_gradient=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else 0.0,
        motion_blur=float(rng.uniform(3.0, 12.0)) * size / 256.0 if rng.random() < 0.03 else 0.0,
    )
