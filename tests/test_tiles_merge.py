"""Merging masks across tile seams, from exact and from noisy segmentations of the tiles; operations on runs."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastsam_core import ops, rle
from fastsam_core.runs import MaskRuns
from fastsam_core.tiles import run_algebra
from fastsam_core.tiles.grid import Grid
from fastsam_core.tiles.merge import merge
from fastsam_core.tiles.pieces import Piece, piece_from_runs
from label_examples import masks
from raster_examples import tilings


def exact_pieces(labels: np.ndarray, grid: Grid, connectivity: int = 8) -> list[Piece]:
    """Return what a perfect model finds in each tile: the connected components of each label inside the tile."""
    found = []
    for tile in grid:
        x1, y1, x2, y2 = tile.box
        shown = labels[y1:y2, x1:x2]
        for label in np.unique(shown[shown > 0]):
            count, of_pixel = cv2.connectedComponents((shown == label).astype(np.uint8), connectivity=connectivity)
            for part in range(1, count):
                found.append(piece_from_runs(tile.number, MaskRuns.from_mask(of_pixel == part, x1, y1), 0.9, 0.8))
    return found


def dense(piece: Piece, height: int, width: int) -> np.ndarray:
    x1, y1, x2, y2 = piece.box
    shown = np.zeros((height, width), bool)
    shown[y1:y2, x1:x2] = rle.decode({"size": [y2 - y1, x2 - x1], "counts": piece.counts})
    return shown


def objects(pieces: list[Piece], grid: Grid, merge_iou: float = 0.5) -> list[np.ndarray]:
    return [dense(whole, grid.height, grid.width) for whole in merge(pieces, grid, merge_iou)]


def pieces_of(grid: Grid, *shown: tuple[int, np.ndarray]) -> list[Piece]:
    """Cut masks of the whole raster to tiles. shown: pairs of a tile's number and a mask."""
    found = []
    for number, mask in sorted(shown, key=lambda pair: pair[0]):
        x1, y1, x2, y2 = grid[number].box
        found.append(piece_from_runs(number, MaskRuns.from_mask(mask[y1:y2, x1:x2], x1, y1), 0.9, 0.8))
    return found


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in expected)


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Draw label maps of overlapping rectangles and lines, with noise."""
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    labels = np.zeros((height, width), np.int32)
    for label in range(1, draw(st.integers(1, 8)) + 1):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
        labels[y : y + h, x : x + w] = draw(st.sampled_from([0, label, label]))
    seed = draw(st.integers(0, 2**16))
    noise = np.random.default_rng(seed).random((height, width)) < draw(st.sampled_from([0, 0.05, 0.4]))
    labels[noise] = draw(st.integers(0, 3))
    return labels


# Merging reads small masks thousands of times, and the PyTorch siblings take twenty times as long.
@settings(max_examples=60 if ops.available_isas() else 15, deadline=None)
@given(labels=label_maps(), tiling=tilings(), connectivity=st.sampled_from([4, 8]))
@example(labels=np.eye(30, dtype=np.int32), tiling=(6, 1), connectivity=8)
def test_merging_exact_tiles_restores_the_objects(
    labels: np.ndarray, tiling: tuple[int, int], connectivity: int
) -> None:
    grid = Grid(*labels.shape, *tiling)
    expected = []
    for label in np.unique(labels[labels > 0]):
        count, of_pixel = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=connectivity)
        expected += [of_pixel == part for part in range(1, count)]
    found = objects(exact_pieces(labels, grid, connectivity), grid)
    assert same(found, expected)


# ------------------------------------------------------------------------------------- noisy segmentations of the tiles


def row_of(count: int, tile: int = 32, overlap: int = 8) -> Grid:
    """Return a grid of one row of `count` tiles."""
    return Grid(tile, tile + (count - 1) * (tile - overlap), tile, overlap)


def blank(grid: Grid) -> np.ndarray:
    return np.zeros((grid.height, grid.width), bool)


def frayed(mask: np.ndarray, seed: int, fraction: float = 0.2) -> np.ndarray:
    """Flip a fraction `fraction` of the pixels on both sides of the mask's border."""
    shape = np.ones((3, 3), np.uint8)
    inside, around = cv2.erode(mask.astype(np.uint8), shape), cv2.dilate(mask.astype(np.uint8), shape)
    border = (inside != around) & (np.random.default_rng(seed).random(mask.shape) < fraction)
    return mask ^ border


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_road_through_five_tiles_is_one_object() -> None:
    grid = row_of(5)
    road = blank(grid)
    xs = np.arange(grid.width)
    for x, y in zip(xs, (16 + 9 * np.sin(xs / 17)).astype(int), strict=True):
        road[y - 3 : y + 3, x] = True
    (found,) = objects(pieces_of(grid, *((i, frayed(road, i)) for i in range(5))), grid)
    assert iou(found, road) > 0.8 and found[:, 0].any() and found[:, -1].any()


def test_order_follows_first_pieces_and_scores_are_weighted_by_area() -> None:
    grid = row_of(2)
    bar, dot = blank(grid), blank(grid)
    bar[4:8, 4:50] = dot[20:24, 10:14] = True
    left, alone, right = pieces_of(grid, (0, bar), (0, dot), (1, bar))
    pieces = [left._replace(predicted_iou=0.9, stability=0.6), alone, right._replace(predicted_iou=0.5, stability=0.2)]
    whole, other = merge(pieces, grid, 0.5)
    assert other == alone and whole.tile == left.tile and whole.area == bar.sum()
    weight = left.area / (left.area + right.area)
    assert (whole.predicted_iou, whole.stability) == pytest.approx((0.5 + 0.4 * weight, 0.2 + 0.4 * weight))


def test_object_inside_the_overlap_is_found_once() -> None:
    grid = Grid(56, 56, 32, 8)
    house = blank(grid)
    house[25:31, 25:31] = True  # within all four tiles
    (found,) = objects(pieces_of(grid, *((i, frayed(house, i, 0.1)) for i in range(4))), grid)
    assert iou(found, house) > 0.7


@pytest.mark.parametrize("seed", range(8))
def test_adjacent_objects_stay_separate(seed: int) -> None:
    """Both objects cross the seam, and each tile places their common border differently."""
    grid = row_of(2)
    field, meadow = blank(grid), blank(grid)
    field[4:16, 4:50] = meadow[16:28, 4:50] = True
    shown = []
    for i in range(2):
        border = frayed(field, 2 * seed + i)
        shown += [(i, border & ~blank(grid)), (i, (field | meadow) & ~border)]
    found = objects(pieces_of(grid, *shown), grid)
    assert len(found) == 2
    assert sorted(iou(mask, field) > 0.8 for mask in found) == [False, True]
    assert sorted(iou(mask, meadow) > 0.8 for mask in found) == [False, True]


def test_one_mask_over_two_objects_does_not_unite_them() -> None:
    grid = row_of(2)
    large, small = blank(grid), blank(grid)
    large[4:18, 4:50] = small[18:28, 4:50] = True
    found = objects(pieces_of(grid, (0, large), (0, small), (1, large | small)), grid)
    assert len(found) == 2 and not any(
        (mask & large).sum() == large.sum() for mask in found if (mask & small)[:, :20].any()
    )


def test_objects_separate_in_one_tile_are_not_united_by_another() -> None:
    """The second tile has both in one mask, with a gap between them inside the overlap."""
    grid = row_of(2)
    upper, lower = blank(grid), blank(grid)
    upper[4:16, 4:50] = lower[16:28, 4:50] = True
    both = upper | lower
    both[15:17, 24:32] = False
    for turn in (np.asarray, np.flipud, np.transpose, partial(np.rot90, k=-1)):  # tiles stay in order
        one, other, whole = map(turn, (upper, lower, both))
        grid = Grid(*one.shape, 32, 8)
        assert len(objects(pieces_of(grid, (0, one), (0, other), (1, whole)), grid)) == 2


def test_mask_over_two_objects_joins_the_larger() -> None:
    """One of the two objects is larger, and the mask that covers both is merged with that one."""
    grid = row_of(2)
    for large, small, seam in ((slice(4, 20), slice(20, 28), 20), (slice(12, 28), slice(4, 12), 12)):
        one, other, both = blank(grid), blank(grid), blank(grid)
        one[large, 4:32] = other[small, 4:32] = both[4:28, 24:50] = True
        both[seam - 1 : seam + 1, 24:32] = False
        for order in ((one, other), (other, one)):
            found = objects(pieces_of(grid, *((0, mask) for mask in order), (1, both)), grid)
            assert same(found, [one | both, other])


def test_car_on_a_road_is_kept() -> None:
    """The car's pieces are cut off by the seam and covered by the road, but they match each other."""
    for top in (12, 0):  # within the raster, and at its border, which cuts nothing off
        for turn in (np.asarray, np.flipud, np.transpose, partial(np.rot90, k=-1)):  # tiles stay in order
            road, car = blank(row_of(2)), blank(row_of(2))
            road[top : top + 20], car[top : top + 6, 22:34] = True, True
            road, car = turn(road), turn(car)
            grid = Grid(*road.shape, 32, 8)
            assert same(objects(pieces_of(grid, (0, road), (0, car), (1, road), (1, car)), grid), [road, car])


def test_an_object_is_not_dropped_for_a_part_of_its_own() -> None:
    """The first tile's part is cut off, and linked to that of the second, which is the whole, through the third."""
    grid = Grid(48, 48, 32, 16)
    whole = blank(grid)
    whole[:32, 16:32] = True
    lower = whole.copy()
    lower[:20] = False
    (found,) = objects(pieces_of(grid, (0, lower), (1, whole), (2, whole)), grid)
    np.testing.assert_array_equal(found, whole)


def test_best_matching_piece_is_merged_first() -> None:
    """The second tile's house shares more pixels with the garden, but agrees better with the first tile's house."""
    grid = row_of(2)
    house, garden, neighbour = blank(grid), blank(grid), blank(grid)
    garden[4:28, 4:31] = True  # house and garden end inside the first tile
    house[6:22, 10:30], neighbour[6:23, 10:30] = True, True
    neighbour[:, :24] = False
    assert same(objects(pieces_of(grid, (0, garden), (0, house), (1, neighbour)), grid), [garden, house | neighbour])


def test_nested_objects_are_merged_with_their_counterparts() -> None:
    grid = row_of(2)
    house, roof = blank(grid), blank(grid)
    house[6:26, 10:46] = roof[9:23, 14:42] = True
    found = objects(pieces_of(grid, (0, house), (0, roof), (1, roof), (1, house)), grid)
    assert same(found, [house, roof])


def test_parts_of_different_size_join_one_object() -> None:
    grid = Grid(56, 32, 32, 8)
    arch = blank(grid)
    arch[10:50, 3:5] = arch[10:50, 10:30] = arch[6:12, 3:30] = True
    thin, thick = arch.copy(), arch.copy()
    thin[:, 8:] = thick[:, :8] = False
    (found,) = objects(pieces_of(grid, (0, arch), (1, thin), (1, thick)), grid)
    np.testing.assert_array_equal(found, arch)


def test_part_of_an_object_does_not_replace_the_object() -> None:
    """The middle tile has two masks: first the left half of the road alone, then the road."""
    grid = row_of(3)
    road, half = blank(grid), blank(grid)
    road[12:18], half[12:18, :40] = True, True
    (found,) = objects(pieces_of(grid, (0, road), (1, half), (1, road), (2, road)), grid)
    np.testing.assert_array_equal(found, road)


def test_two_masks_of_one_object_in_a_tile_are_merged() -> None:
    """The middle tile has two masks of the road: one too short, one too narrow. The road continues on both sides."""
    grid = row_of(3)
    road = blank(grid)
    road[10:20] = True
    early, narrow = road.copy(), road.copy()
    early[:, 48:] = narrow[:13] = False
    for turn in (np.asarray, np.fliplr):
        views = pieces_of(grid, (0, road), (1, turn(early)), (1, turn(narrow)), (2, road))
        (found,) = objects(views, grid)
        np.testing.assert_array_equal(found, road)


def test_masks_that_share_half_of_the_smaller_are_one_object() -> None:
    grid = row_of(3)
    road = blank(grid)
    road[10:20] = True
    early, narrow = road.copy(), road.copy()
    early[:, 40:] = narrow[:15] = False  # 160 pixels each in the middle tile, which share 80
    assert len(objects(pieces_of(grid, (0, road), (1, early), (1, narrow), (2, road)), grid, 0.4)) == 1
    early[:, 39:] = narrow[14, 40:] = False
    early[10, 39] = narrow[14, 55] = True  # 151 and 161, which share 75
    assert len(objects(pieces_of(grid, (0, road), (1, early), (1, narrow), (2, road)), grid, 0.4)) == 2


def test_fragment_is_dropped_if_the_whole_object_is_found() -> None:
    grid = row_of(2)
    whole, fragment = blank(grid), blank(grid)
    whole[4:28, 6:31] = True  # ends inside the first tile; the second tile starts at column 24
    fragment[8:18, 24:28] = True  # the second tile's mask of it
    found = objects(pieces_of(grid, (0, whole), (1, fragment)), grid)
    assert same(found, [whole])


def test_of_two_equal_cut_off_masks_the_first_is_kept() -> None:
    grid = row_of(2)
    one, other = blank(grid), blank(grid)
    one[8:18, 24:32] = other[9:19, 24:32] = True  # all of the overlap's width, with an IoU of 0.82
    assert same(objects(pieces_of(grid, (0, one), (1, other)), grid, 0.9), [one])


def test_fragment_is_kept_if_nothing_covers_it() -> None:
    grid = row_of(2)
    fragment, elsewhere = blank(grid), blank(grid)
    fragment[8:18, 24:28] = elsewhere[20:26, 4:20] = True
    assert same(objects(pieces_of(grid, (0, elsewhere), (1, fragment)), grid), [fragment, elsewhere])
    # The fragment lies in the courtyard of a house, which doesn't cover it.
    house = blank(grid)
    house[4:28, 6:31], house[7:19, 20:30] = True, False
    assert same(objects(pieces_of(grid, (0, house), (1, fragment)), grid), [fragment, house])
    # A cut-off mask that reaches far into its tile is more than the other tile can show.
    long = blank(grid)
    long[8:18, 24:50] = elsewhere[8:18, 4:30] = True
    elsewhere[6:22, 4:30] = True
    assert len(objects(pieces_of(grid, (0, elsewhere), (1, long)), grid, 0.9)) == 2


def test_a_smaller_mask_within_the_overlap_is_no_duplicate() -> None:
    grid = row_of(2)
    house, chimney = blank(grid), blank(grid)
    house[6:26, 25:31] = chimney[8:12, 26:29] = True
    assert same(objects(pieces_of(grid, (0, house), (0, chimney), (1, house)), grid), [house, chimney])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_frayed_discs_are_found_once_each(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = Grid(120, 150, 48, 16)
    yy, xx = np.mgrid[: grid.height, : grid.width]
    discs: list[np.ndarray] = []
    for _ in range(12):
        y, x, radius = random.integers(0, grid.height), random.integers(0, grid.width), random.integers(6, 30)
        disc = np.hypot(yy - y, xx - x) < radius
        if not any((disc & cv2.dilate(other.astype(np.uint8), np.ones((5, 5))).astype(bool)).any() for other in discs):
            discs.append(disc)
    shown = []
    for tile in grid:
        x1, y1, x2, y2 = tile.box
        for number, disc in enumerate(discs):
            # A model misses slivers at a tile's edge.
            if disc[y1:y2, x1:x2].sum() >= 40:
                shown.append((tile.number, frayed(disc, 1000 * tile.number + number, 0.1)))
    found = objects(pieces_of(grid, *shown), grid)
    assert len(found) == len([disc for disc in discs if disc.sum() >= 40])
    for mask in found:
        assert max(iou(mask, disc) for disc in discs) > 0.75


# -------------------------------------------------------------------------------------------------------------- runs


def test_pixels_touch_along_edges_and_not_at_corners() -> None:
    pixel = np.ones((1, 1), bool)
    around = [(x, y) for x in range(7) for y in range(7)]
    centre = MaskRuns.from_mask(pixel, 3, 3)
    touching = [at for at in around if run_algebra.overlaps_or_touches(centre, MaskRuns.from_mask(pixel, *at))]
    assert touching == [(2, 3), (3, 2), (3, 3), (3, 4), (4, 3)]


two_masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(masks(*shape), masks(*shape))
)


@settings(max_examples=80, deadline=None)
@given(pair=two_masks, corner=st.tuples(st.integers(0, 2**33), st.integers(0, 2**33)))
def test_run_operations_match_pixel_operations(pair: tuple[np.ndarray, np.ndarray], corner: tuple[int, int]) -> None:
    a, b = pair
    height, width = a.shape
    x, y = corner
    box = x, y, x + width, y + height
    runs, other = MaskRuns.from_mask(a, x, y), MaskRuns.from_mask(b, x, y)
    np.testing.assert_array_equal(run_algebra.union([runs, other]).paint(*box), a | b)
    assert run_algebra.intersection_area(runs, other, box) == (a & b).sum()
    i, j, pixels = run_algebra.overlapping_pairs([runs, other, other], [other, runs], box)
    expected = [[(mask & another).sum() for another in (b, a)] for mask in (a, b, b)]
    assert {(*pair,): n for *pair, n in zip(i.tolist(), j.tolist(), pixels.tolist(), strict=True)} == {
        (i, j): n for i, row in enumerate(expected) for j, n in enumerate(row) if n
    }
    near = cv2.dilate(np.pad(a, 1).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))[1:-1, 1:-1]
    assert run_algebra.overlaps_or_touches(runs, other) == bool((near.astype(bool) & b).any())
    inner = x + width // 3, y + height // 3, x + width, y + height - height // 4
    cut = np.zeros_like(a)
    cut[height // 3 : height - height // 4, width // 3 :] = a[height // 3 : height - height // 4, width // 3 :]
    np.testing.assert_array_equal(run_algebra.clip(runs, inner).paint(*box), cut)
    count, of_pixel = cv2.connectedComponents(a.astype(np.uint8), connectivity=4)
    parts = [part.paint(*box) for part in run_algebra.connected_components(runs)]
    assert same(parts, [of_pixel == number for number in range(1, count)])


def test_overlapping_pairs_in_chunks_match_a_single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    a, b = (MaskRuns.from_mask(random.random((40, 40)) < 0.3) for _ in range(2))
    sides = run_algebra.connected_components(a), run_algebra.connected_components(b)
    at_once = run_algebra.overlapping_pairs(*sides, (0, 0, 40, 40))
    monkeypatch.setattr(run_algebra, "_MAX_PAIRS", 3 * len(sides[1]))
    np.testing.assert_array_equal(run_algebra.overlapping_pairs(*sides, (0, 0, 40, 40)), at_once)
    assert len(sides[0]) > 50 and len(at_once[0]) > 50
