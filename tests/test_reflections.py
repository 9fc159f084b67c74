"""Indirect light in generated scenes: mirror images, glossy surfaces, tints from neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from fastsam_core.train.appearance import Appearance, PlacedShape
from fastsam_core.train.painter import Painter
from fastsam_core.train.primitives import box
from fastsam_core.train.reflections import environment_reflection, mirror_in_ground, tint_by_neighbours
from fastsam_core.train.shapes import Piece, fit
from fastsam_core.train.textures import TexturePool


def standing(size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a grey image, its labels, and the colours and alpha of a 12 x 20 object, red above and green below."""
    colour = np.zeros((20, 12, 3), np.float32)
    colour[:10, :, 0], colour[10:, :, 1] = 1.0, 1.0
    return (
        np.full((size, size, 3), 0.5, np.float32),
        np.zeros((size, size), np.int32),
        colour,
        np.ones((20, 12), np.float32),
    )


def test_mirror_image_is_upside_down_and_fades() -> None:
    image, labels, colour, alpha = standing()
    mirror_in_ground(image, labels, colour, alpha, (8, 10), 0.4)
    assert not labels.any() and np.all(image[:30] == 0.5) and np.all(image[50:] == 0.5)
    assert np.all(image[30:, :8] == 0.5) and np.all(image[30:, 20:] == 0.5)
    near, far = image[31, 14], image[48, 14]
    assert near[1] > 0.5 > near[0]  # the object's lower half is mirrored first
    assert far[0] > 0.5 > far[1] and far[0] - 0.5 < near[1] - 0.5


def test_mirror_image_stays_on_the_label_below_the_object() -> None:
    image, labels, colour, alpha = standing()
    labels[:, 14:] = 3
    labels[30:40, :] = 7  # a table
    mirror_in_ground(image, labels, colour, alpha, (8, 10), 0.4)
    assert np.abs(image[30:40, 8:20] - 0.5).min() > 0.05
    np.testing.assert_allclose(image[40:], 0.5, rtol=1e-4)


@pytest.mark.parametrize("corner", [(8, 44), (8, 43), (50, 10), (0, 0)])
def test_mirror_image_beyond_the_border_stays_in_range(corner: tuple[int, int]) -> None:
    image, labels, colour, alpha = standing()
    mirror_in_ground(image, labels, colour, alpha, corner, 0.4)
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


def test_mostly_transparent_object_has_no_mirror_image() -> None:
    image, labels, colour, alpha = standing()
    mirror_in_ground(image, labels, colour, alpha * 0.3, (8, 10), 0.4)
    assert np.all(image == 0.5)


def test_only_grounded_objects_on_mirroring_ground_are_mirrored() -> None:
    pool = TexturePool(size=64, count=8, seed=3)
    flat = Appearance(roundness=0.0, edge=0.0, shadow=0.0)
    matrix = np.array([[10, 0, 32], [0, 10, 20]], np.float32)
    changed = []
    for ground_reflectance, grounded in ((0.0, True), (0.5, False), (0.5, True)):
        painter = Painter(np.full((64, 64, 3), 0.5, np.float32), pool, np.random.default_rng(0))
        painter.ground_reflectance = ground_reflectance
        painter.paint(
            PlacedShape(
                fit([Piece.from_outlines([box(-1, -1, 1, 1)])]), matrix, flat, grounded=grounded, deformable=False
            )
        )
        assert painter.labels.max() == 1 and not painter.labels[33:].any()
        changed.append(np.count_nonzero(np.abs(painter.image[33:] - 0.5).max(axis=2) > 0.005))
    assert changed[:2] == [0, 0] and changed[2] > 100


def test_gloss_reflects_a_bright_sky_and_a_dark_ground() -> None:
    up = np.array([[-1.0, -0.15, 0.35, 1.0]], np.float32)
    factor, light = environment_reflection(up, 0.8)
    assert factor.dtype == light.dtype == np.float32
    np.testing.assert_allclose(factor[0, [0, 1, 3]], [1 - 0.28, 1 - 0.14, 1], atol=1e-3)
    np.testing.assert_allclose(light[0, [0, 2, 3]], [0, 0.14, 0.28], atol=1e-3)


def test_tint_by_neighbours_takes_the_colour_of_near_objects() -> None:
    grey = np.full((128, 128, 3), 0.4, np.float32)
    np.testing.assert_allclose(tint_by_neighbours(grey.copy(), 0.05, 0.5), grey, rtol=0.03)
    image = grey.copy()
    image[:, :64] = (0.8, 0.1, 0.1)
    tinted = tint_by_neighbours(image.copy(), 0.05, 0.5)
    assert tinted[64, 68, 0] > 0.43 and tinted[64, 68, 1] < 0.39  # beside the red wall
    np.testing.assert_allclose(tinted[64, 124], image[64, 124], rtol=0.04)  # far from it


@pytest.mark.parametrize("size", [32, 33, 100])
def test_tints_are_finite_at_any_size(size: int) -> None:
    image = np.random.default_rng(size).random((size, size, 3), np.float32)
    tinted = tint_by_neighbours(image.copy(), 0.1, 0.5)
    assert tinted.shape == image.shape and np.isfinite(tinted).all() and np.all(tinted >= 0)
