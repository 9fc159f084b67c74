"""Generated scenes: exact, disjoint and reproducible labels; painting, shapes and textures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fastsam_core.train.appearance import Appearance, PlacedShape
from fastsam_core.train.backdrop_details import INDOOR_DETAILS, OUTDOOR_DETAILS, Detail
from fastsam_core.train.catalogue import random_shape, random_upright_shape
from fastsam_core.train.composites import MAKERS, Maker
from fastsam_core.train.figures import POSES, person
from fastsam_core.train.layouts import LAYOUTS
from fastsam_core.train.material_kinds import KIND_NAMES, kind_of_slot, material_slot
from fastsam_core.train.painter import Painter
from fastsam_core.train.primitives import box, ellipse, polygon, stroke
from fastsam_core.train.prints import random_print
from fastsam_core.train.scenes import Scene, make_scene
from fastsam_core.train.shapes import Piece, deformed, fit, make_cluster, rasterize
from fastsam_core.train.simple_shapes import simple_shape
from fastsam_core.train.textures import TexturePool, colour_lut


@pytest.fixture(scope="module")
def pool() -> TexturePool:
    return TexturePool(size=128, count=24, seed=3)


@pytest.fixture(scope="module")
def scenes(pool: TexturePool) -> list[Scene]:
    return [make_scene(np.random.default_rng([11, seed]), 128, pool) for seed in range(48)]


@pytest.mark.parametrize("size", [32, 100, 256])
def test_scene_arrays_have_documented_shapes_and_dtypes(pool: TexturePool, size: int) -> None:
    scene = make_scene(np.random.default_rng(0), size, pool)
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert scene.image.flags.c_contiguous and scene.image.flags.writeable
    for names in (scene.labels, scene.parts, scene.groups):
        assert names.shape == (size, size) and names.dtype == np.int32
    assert scene.part_owner.dtype == np.int32 and scene.part_owner[0] == 0


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_same_generator_gives_the_same_scene(pool: TexturePool, layout: str) -> None:
    first, second = (make_scene(np.random.default_rng(5), 96, pool, layout=layout) for _ in range(2))
    for name in ("image", "labels", "parts", "part_owner", "groups"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    other = make_scene(np.random.default_rng(6), 96, pool, layout=layout)
    assert not np.array_equal(first.image, other.image)


def test_a_scene_leaves_numpys_global_generator_alone(pool: TexturePool) -> None:
    np.random.seed(1)
    expected = np.random.random(3)
    np.random.seed(1)
    make_scene(np.random.default_rng(5), 64, pool)
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_objects_and_parts_are_numbered_without_gaps(scenes: list[Scene]) -> None:
    for scene in scenes:
        for names in (scene.labels, scene.parts, scene.groups):
            present = np.unique(names[names > 0])
            np.testing.assert_array_equal(present, np.arange(1, len(present) + 1))
        assert len(scene.part_owner) == scene.parts.max() + 1


def test_every_part_lies_inside_its_object(scenes: list[Scene]) -> None:
    checked = 0
    for scene in scenes:
        for part in range(1, len(scene.part_owner)):
            owners = np.unique(scene.labels[scene.parts == part])
            assert owners.tolist() == [scene.part_owner[part]]
            checked += 1
    assert checked > 100


def test_no_part_repeats_its_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        for part, owner in enumerate(scene.part_owner[1:], start=1):
            assert np.count_nonzero(scene.parts == part) < 0.92 * np.count_nonzero(scene.labels == owner)


def test_groups_consist_of_two_or_more_visible_objects(scenes: list[Scene]) -> None:
    checked = 0
    for scene in scenes:
        groups_of = [np.unique(scene.groups[scene.labels == k]) for k in range(scene.labels.max() + 1)]
        # Background pixels are in no group. All pixels of an object are in one group, or all in none.
        assert groups_of[0].tolist() in ([], [0]) and all(len(groups) == 1 for groups in groups_of[1:])
        for group in range(1, scene.groups.max() + 1):
            shares = np.bincount(scene.labels[scene.groups == group])
            assert np.count_nonzero(shares) >= 2 and shares.max() < 0.95 * shares.sum()
            checked += 1
    assert checked > 20


def test_masks_lists_objects_parts_and_groups_above_min_area(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        masks = scene.masks(0.01)
        objects = [scene.labels == k for k in range(1, scene.labels.max() + 1)]
        parts = [scene.parts == k for k in range(1, scene.parts.max() + 1)]
        groups = [scene.groups == k for k in range(1, scene.groups.max() + 1)]
        expected = [mask for mask in objects + parts + groups if mask.mean() >= 0.01]
        assert len(masks) == len(expected)
        assert all(
            mask.dtype == bool and np.array_equal(mask, want) for mask, want in zip(masks, expected, strict=True)
        )
        assert len(scene.masks(0.0)) == len(objects) + len(parts) + len(groups)
        assert scene.masks(1.1) == []


def test_sizes_and_numbers_of_objects_vary_widely(scenes: list[Scene]) -> None:
    shares = np.concatenate([np.bincount(scene.labels.ravel())[1:] / scene.labels.size for scene in scenes])
    counts = np.array([scene.labels.max() for scene in scenes])
    assert shares.max() > 0.3 and np.median(shares) < 0.06 and np.mean(shares > 0.01) > 0.5
    assert counts.min() >= 1 and counts.max() >= 15 and len(np.unique(counts)) > 8
    assert all(np.bincount(scene.labels.ravel())[1:].max() >= 0.02 * scene.labels.size for scene in scenes)
    background = np.mean([np.mean(scene.labels == 0) for scene in scenes])
    assert 0.2 < background < 0.8


def test_images_are_neither_dark_nor_uniform(scenes: list[Scene]) -> None:
    means = np.array([scene.image.mean() for scene in scenes])
    assert 60 < means.mean() < 180 and np.mean((means > 20) & (means < 235)) > 0.9
    assert all(scene.image.std() > 5 for scene in scenes)


@pytest.mark.parametrize("size", [0, -3, 31, 64.0, "64"])
def test_a_bad_size_is_refused(pool: TexturePool, size: object) -> None:
    with pytest.raises(ValueError, match="size"):
        make_scene(np.random.default_rng(0), size, pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("objects", [(0, 3), (5, 4), (-1, 2)])
def test_a_bad_range_of_objects_is_refused(pool: TexturePool, objects: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="objects"):
        make_scene(np.random.default_rng(0), 64, pool, objects=objects)


def test_unknown_layout_error_lists_known_layouts(pool: TexturePool) -> None:
    with pytest.raises(ValueError, match="scatter"):
        make_scene(np.random.default_rng(0), 64, pool, layout="underwater")


# Painting -------------------------------------------------------------------------------------------------------------


def _painter(pool: TexturePool, size: int = 64) -> Painter:
    return Painter(np.full((size, size, 3), 0.5, np.float32), pool, np.random.default_rng(0))


def _square(left: float, top: float, side: float) -> PlacedShape:
    matrix = np.array([[side / 2, 0, left + side / 2], [0, side / 2, top + side / 2]], np.float32)
    return PlacedShape(
        fit([Piece.from_outlines([box(-1, -1, 1, 1)])]),
        matrix,
        Appearance(shadow=0.6, shadow_distance=0.2, edge=0.3),
        deformable=False,
    )


def test_later_objects_cover_earlier_ones_and_shadows_are_not_labelled(pool: TexturePool) -> None:
    painter = _painter(pool)
    before = painter.image.copy()
    painter.paint(_square(8, 8, 24))
    painter.paint(_square(20, 20, 24))
    expected = np.zeros((64, 64), np.int32)
    expected[8:32, 8:32] = 1
    expected[20:44, 20:44] = 2
    # OpenCV's polygons include the pixels that their outline touches.
    assert np.mean(painter.labels != expected) < 0.03
    assert np.all(painter.labels[21:43, 21:43] == 2)
    darkened = (painter.image < before - 0.02).all(axis=2) & (painter.labels == 0)
    assert np.count_nonzero(darkened) > 20


def test_objects_painted_inside_grouped_context_form_a_group(pool: TexturePool) -> None:
    painter = _painter(pool)
    painter.paint(_square(2, 2, 12))
    with painter.grouped():
        painter.paint(_square(20, 20, 12))
        with painter.grouped():
            painter.paint(_square(30, 20, 12))
    with painter.grouped():
        painter.label_window(np.s_[50:, :])
    painter.paint(_square(2, 30, 12))
    assert painter.group_of == [0, 0, 1, 1, 2, 0]


def test_cluster_members_are_objects_of_one_group(pool: TexturePool) -> None:
    painter = _painter(pool)
    left, right = ([Piece.from_outlines([box(x, -1, x + 2, 1)])] for x in (-2.0, 0.0))
    pair = make_cluster([left, right])
    assert pair.half_extents == pytest.approx((1.0, 0.5), abs=1e-4) and len(pair.members) == 2
    painter.paint_cluster(pair, np.array([[20, 0, 32], [0, 20, 32]], np.float32), Appearance())
    assert painter.group_of == [0, 1, 1]
    assert painter.labels[32, 20] == 1 and painter.labels[32, 44] == 2 and painter.labels[10, 32] == 0


@pytest.mark.parametrize("maker", [maker for maker, _, _ in MAKERS])
def test_every_composite_shows_at_least_two_objects(pool: TexturePool, maker: Maker) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        whole = make_cluster(maker(rng))
        assert 0 < whole.area <= 4.6 and max(whole.half_extents) == pytest.approx(1.0, abs=1e-3)
        painter = Painter(np.full((96, 96, 3), 0.5, np.float32), pool, rng)
        painter.paint_cluster(whole, np.array([[44, 0, 48], [0, 44, 48]], np.float32), Appearance())
        shown = np.unique(painter.labels[painter.labels > 0])
        assert len(shown) >= 2 and {painter.group_of[k] for k in shown} == {1}


def test_a_later_piece_of_the_main_material_covers_others(pool: TexturePool) -> None:
    painter = _painter(pool)
    main = pool.material(painter.rng, colour=np.array([1.0, 0.0, 0.0], np.float32), contrast=0.0)
    other = pool.material(painter.rng, colour=np.array([0.0, 0.0, 1.0], np.float32), contrast=0.0)
    pieces = [
        Piece.from_outlines([box(-1, -1, 1, 1)]),
        Piece.from_outlines([box(-1, -1, 1, 1)], slot=1),
        Piece.from_outlines([box(-1, -1, 0, 1)]),
    ]
    flat = Appearance(roundness=0.0, edge=0.0, shadow=0.0)
    matrix = np.array([[20, 0, 32], [0, 20, 32]], np.float32)
    painter.paint(PlacedShape(fit(pieces), matrix, flat, {0: main, 1: other}, deformable=False))
    np.testing.assert_allclose(painter.image[32, 20], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(painter.image[32, 44], [0, 0, 1], atol=0.01)


def test_print_on_a_part_leaves_the_part_whole(pool: TexturePool) -> None:
    painter = _painter(pool)
    pieces = [
        Piece.from_outlines([box(-1, -1, 1, 1)], part=True),
        Piece.from_outlines([box(-0.5, -0.5, 0.5, 0.5)], slot=1, clip=True),
        Piece.from_outlines([box(0.5, -1, 1, 1)], slot=2),
    ]
    matrix = np.array([[20, 0, 32], [0, 20, 32]], np.float32)
    painter.paint(PlacedShape(fit(pieces), matrix, Appearance(), deformable=False))
    assert painter.parts[32, 32] == 1 and painter.parts[32, 16] == 1
    assert painter.parts[32, 48] == 0 and painter.labels[32, 48] == 1  # this later piece isn't part 1


def test_nothing_is_painted_far_from_a_frayed_outline(pool: TexturePool) -> None:
    for seed in range(6):
        painter = Painter(np.full((96, 96, 3), 0.5, np.float32), pool, np.random.default_rng(seed))
        before = painter.image.copy()
        triangle = fit([Piece.from_outlines([polygon((-1, 1), (1, 1), (1, -1))])])
        appearance = Appearance(shadow=0.0, fraying=0.8)
        painter.paint(
            PlacedShape(triangle, np.array([[40, 0, 48], [0, 40, 48]], np.float32), appearance, deformable=False)
        )
        np.testing.assert_allclose(painter.image[10:30, 10:30], before[10:30, 10:30], atol=1e-4)
        assert np.any(painter.image[75, 75] != before[75, 75])


def test_smear_blurs_beyond_the_outline(pool: TexturePool) -> None:
    blurred = []
    for motion_blur in (0.0, 12.0):
        painter = _painter(pool)
        square = _square(16, 16, 32)
        painter.paint(
            replace(square, appearance=Appearance(shadow=0.0, edge=0.0, roundness=0.0, motion_blur=motion_blur))
        )
        blurred.append(np.count_nonzero(np.abs(painter.image - 0.5).max(axis=2) > 0.01))
        assert painter.labels[32, 32] == 1
    assert blurred[1] > 1.15 * blurred[0]


@pytest.mark.parametrize("detail", dict.fromkeys((*INDOOR_DETAILS, *OUTDOOR_DETAILS)))
def test_backdrop_details_are_drawn_in_place_and_reproducible(pool: TexturePool, detail: Detail) -> None:
    changed = 0
    for seed in range(6):
        images = []
        for _ in range(2):
            image = np.full((80, 80, 3), 0.5, np.float32)
            detail(np.random.default_rng(seed), pool, image, 50.0)
            images.append(image)
        np.testing.assert_array_equal(images[0], images[1])
        assert np.isfinite(images[0]).all() and images[0].min() >= 0.0 and images[0].max() <= 1.0
        changed += int(np.any(images[0] != 0.5))
    assert changed >= 5


def test_slots_map_to_named_materials() -> None:
    assert [kind_of_slot(material_slot(name)) for name in KIND_NAMES] == [
        kind_of_slot(material_slot(name, 3)) for name in KIND_NAMES
    ]
    assert len({material_slot(name, number) for name in KIND_NAMES for number in range(5)}) == 5 * len(KIND_NAMES)
    assert kind_of_slot(material_slot("tyre")).colours.max() < 0.3
    with pytest.raises(ValueError, match="unobtainium"):
        material_slot("unobtainium")


@pytest.mark.parametrize("pose", POSES)
def test_a_person_wears_several_materials_and_has_two_hands(pose: str) -> None:
    for seed in range(8):
        figure = person(np.random.default_rng(seed), pose)
        assert len({piece.slot for piece in figure.pieces if piece.part}) >= 4 and len(figure.hands) == 2
        assert all(np.isfinite(piece.points).all() for piece in figure.pieces)


def test_print_pieces_are_clipped_and_are_no_parts() -> None:
    for seed in range(40):
        pieces = random_print(np.random.default_rng(seed), (-0.5, -0.4, 0.5, 0.4))
        assert pieces and all(piece.clip and not piece.part for piece in pieces)


def test_object_outside_of_the_image_is_not_counted(pool: TexturePool) -> None:
    painter = _painter(pool)
    painter.paint(_square(200, -300, 24))
    painter.paint(_square(-23.9, 4, 24))
    assert painter.objects == 0 and not painter.labels.any()


def test_a_hole_shows_what_is_behind(pool: TexturePool) -> None:
    painter = _painter(pool)
    ring = fit([Piece.from_outlines([ellipse()], [ellipse(rx=0.5, ry=0.5)])])
    painter.paint(PlacedShape(ring, np.array([[24, 0, 32], [0, 24, 32]], np.float32), Appearance(), deformable=False))
    assert painter.labels[32, 32] == 0 and painter.labels[32, 50] == 1
    assert np.count_nonzero(painter.labels) == pytest.approx(np.pi * (24**2 - 12**2), rel=0.06)


def test_a_clipped_part_stays_within_the_silhouette(pool: TexturePool) -> None:
    painter = _painter(pool)
    pieces = [
        Piece.from_outlines([ellipse()]),
        Piece.from_outlines([box(-3, -0.2, 3, 0.2)], slot=1, part=True, clip=True),
    ]
    painter.paint(
        PlacedShape(fit(pieces), np.array([[20, 0, 32], [0, 20, 32]], np.float32), Appearance(), deformable=False)
    )
    assert painter.parts[32, 32] == 1 and painter.parts[32, 5] == 0 and painter.parts[20, 32] == 0
    assert not np.any(painter.parts[painter.labels == 0])
    assert painter.owners == [0, 1]


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [simple_shape, random_upright_shape, random_shape])
def test_shapes_are_centred_finite_and_of_unit_extent(make: object) -> None:
    for seed in range(60):
        shape = make(np.random.default_rng(seed))  # type: ignore[operator]
        silhouette = np.concatenate([piece.outline_points for piece in shape.pieces if not piece.clip])
        assert np.isfinite(silhouette).all() and silhouette.dtype == np.float32
        np.testing.assert_allclose(np.abs(silhouette).max(), 1.0, atol=1e-3)
        np.testing.assert_allclose(silhouette.max(axis=0), shape.half_extents, atol=1e-3)
        np.testing.assert_allclose(silhouette.min(axis=0), -np.array(shape.half_extents), atol=1e-3)
        assert 0 < shape.area <= 4.6
        moved = deformed(np.random.default_rng(seed), shape, 0.05)
        drift = np.concatenate([a.points - b.points for a, b in zip(moved.pieces, shape.pieces, strict=True)])
        assert 0 < np.abs(drift).max() <= 0.075 + 1e-6


def test_the_area_of_a_disc_and_of_a_stroke() -> None:
    assert fit([Piece.from_outlines([ellipse()])]).area == pytest.approx(np.pi, rel=0.06)
    bar = fit([Piece.from_outlines(stroke([(0, 0), (9, 0)], 0.5))])  # 10 long and 1 wide, so 2 by 0.2 when fitted
    assert bar.half_extents == pytest.approx((1.0, 0.1), abs=0.01)
    assert bar.area == pytest.approx(0.4, rel=0.3)


def test_stroke_covers_exactly_its_width() -> None:
    path = np.array([(2.0, 3.0), (9.0, 4.0), (10.0, 11.0), (3.0, 9.0)], np.float32)
    canvas = np.zeros((140, 140), np.uint8)
    rasterize(canvas, Piece.from_outlines(stroke(path, 1.0)), (0.0, 0.0), 10.0)
    y, x = np.mgrid[:140, :140]
    pixels = np.stack([(x + 0.5) / 10, (y + 0.5) / 10], axis=-1)
    nearest = np.full((140, 140), np.inf)
    for start, stop in pairwise(path):
        share = np.clip(((pixels - start) @ (stop - start)) / ((stop - start) @ (stop - start)), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(pixels - start - share[..., None] * (stop - start), axis=-1))
    assert np.all(canvas[nearest < 0.9] == 255) and np.all(canvas[nearest > 1.1] == 0)


# Textures -------------------------------------------------------------------------------------------------------------


def test_texture_pool_depends_only_on_its_seed(pool: TexturePool) -> None:
    again, other = TexturePool(size=128, count=24, seed=3), TexturePool(size=128, count=24, seed=4)
    first = pool.sample(np.random.default_rng(1), 80)
    np.testing.assert_array_equal(first, again.sample(np.random.default_rng(1), 80))
    np.testing.assert_array_equal(first, pool.sample(np.random.default_rng(1), 80))
    assert not np.array_equal(first, other.sample(np.random.default_rng(1), 80))
    assert len(pool) == 24


@pytest.mark.parametrize("size", [1, 50, 128, 300])
def test_samples_are_colours_of_the_requested_size(pool: TexturePool, size: int) -> None:
    for seed in range(8):
        texture = pool.sample(np.random.default_rng(seed), size)
        assert texture.shape == (size, size, 3) and texture.dtype == np.float32
        assert texture.min() >= 0.0 and texture.max() <= 1.0


def test_textures_range_from_flat_to_strong(pool: TexturePool) -> None:
    spread = [pool.sample(np.random.default_rng(seed), 64).std(axis=(0, 1)).max() for seed in range(80)]
    assert min(spread) < 0.02 and max(spread) > 0.15


def test_every_texture_is_finite_and_varies() -> None:
    pool = TexturePool(size=64, count=60, seed=0)
    ramp = colour_lut(np.random.default_rng(0), np.full(3, 0.5, np.float32), 0.1)
    assert ramp.shape == (256, 3) and ramp.dtype == np.float32
    for index in range(60):
        material = pool.material(
            np.random.default_rng(index), colour=np.full(3, 0.5, np.float32), contrast=0.5, zoom=1.0
        )
        painted = pool.paint(type(material)(index, 0.0, 1.0, material.lut), np.random.default_rng(0), 64, 64)
        assert np.isfinite(painted).all() and np.ptp(painted) > 0.01


@pytest.mark.parametrize("size", [64, 256, 700])
def test_grain_is_standard_normal_at_any_size(pool: TexturePool, size: int) -> None:
    grain = pool.grain(np.random.default_rng(0), size)
    assert grain.shape == (size, size, 3) and grain.dtype == np.float32
    assert abs(grain.mean()) < 0.05 and grain.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("size", "count"), [(16, 4), (64, 0), (-1, 4)])
def test_bad_texture_pool_arguments_are_refused(size: int, count: int) -> None:
    with pytest.raises(ValueError, match="texture pool"):
        TexturePool(size=size, count=count)


def test_an_empty_sample_is_refused(pool: TexturePool) -> None:
    with pytest.raises(ValueError, match="size >= 1"):
        pool.sample(np.random.default_rng(0), 0)
