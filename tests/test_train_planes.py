"""Training masks: resizing by area coverage, and arranging overlapping masks in planes."""

from __future__ import annotations

import math

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastsam_core import rle
from fastsam_core.train.labelled import LabelledImage, pack_into_planes
from fastsam_core.train.mask_resizing import MaskPatch, resize_mask
from fastsam_core.train.pool import MAX_REGIONS
from label_examples import masks as drawn_masks


def masks_of(found: LabelledImage) -> list[np.ndarray]:
    """Return every mask, plane by plane, after checking that each plane is numbered from 1 without gaps."""
    masks = []
    for plane in found.planes:
        numbers = np.unique(plane)
        numbers = numbers[numbers != 0]
        assert numbers.tolist() == list(range(1, len(numbers) + 1)) and len(numbers)
        masks += [plane == number for number in numbers]
    return masks


def blob(seed: int, height: int, width: int) -> np.ndarray:
    """Return a mask of smooth blobs, which may have several parts and holes."""
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4) > 0.51)


# --- resolution ---


@given(st.data())
def test_resized_pixel_is_set_if_more_than_half_is_covered(data: st.DataObject) -> None:
    old, new = (data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9))) for _ in range(2))
    mask = data.draw(drawn_masks(*old))
    patch = resize_mask(rle.encode(np.asfortranarray(mask.astype(np.uint8))), new)
    found = np.zeros(new, bool)
    patch.view(found)[...] = patch.mask
    # Exact in integers: count on a grid that refines both.
    fine = [math.lcm(*pair) for pair in zip(old, new, strict=True)]
    refined = np.kron(mask, np.ones([side // own for side, own in zip(fine, old, strict=True)], int))
    covered = refined.reshape(new[0], fine[0] // new[0], new[1], fine[1] // new[1]).sum((1, 3))
    wanted = 2 * covered * new[0] * new[1] > fine[0] * fine[1]
    np.testing.assert_array_equal(found, wanted)
    assert patch.area == wanted.sum()
    if old == new:
        np.testing.assert_array_equal(found, mask)


def test_large_mask_matches_opencv_area_resize() -> None:
    mask = blob(3, 1500, 2100)
    patch = resize_mask(rle.encode(np.asfortranarray(mask.astype(np.uint8))), (219, 307))
    share = cv2.resize(mask.astype(np.float32), (307, 219), interpolation=cv2.INTER_AREA)
    found = np.zeros((219, 307), bool)
    patch.view(found)[...] = patch.mask
    sure = abs(share - 0.5) > 1e-3
    np.testing.assert_array_equal(found[sure], share[sure] > 0.5)


# --- planes ---


@given(st.lists(drawn_masks(6, 9).filter(lambda mask: mask.any()), min_size=1, max_size=8), st.integers(1, 4))
def test_overlapping_masks_lie_in_different_planes(masks: list[np.ndarray], most: int) -> None:
    patches = [resize_mask(rle.encode(np.asfortranarray(mask.astype(np.uint8))), (6, 9)) for mask in masks]
    planes, left_out = pack_into_planes(patches, (6, 9), most)
    assert planes.dtype == np.int16 and 1 <= len(planes) <= most
    found = masks_of(LabelledImage(np.zeros((6, 9, 3), np.uint8), planes))
    rest = [mask.tobytes() for mask in masks]
    for mask in found:
        rest.remove(mask.tobytes())  # ValueError unless it is one of the given masks, as often
    assert len(rest) == left_out
    assert (planes[0] == 1).sum() == max(mask.sum() for mask in masks)
    # A mask is in a later plane, or left out, only if it overlaps a mask in every earlier plane.
    for number, plane in enumerate(planes):
        for mask in (plane == k for k in range(1, int(plane.max()) + 1)):
            assert all((mask & (earlier != 0)).any() for earlier in planes[:number])
    for text in rest:
        mask = np.frombuffer(text, bool).reshape(6, 9)
        assert len(planes) == most and all((mask & (plane != 0)).any() for plane in planes)


def test_full_plane_continues_in_the_next() -> None:
    count = MAX_REGIONS - 1
    pixel = np.ones((1, 1), np.bool_)
    patches = [MaskPatch(k // 20, k % 20, pixel, 1) for k in range(count + 2)]
    planes, left_out = pack_into_planes(patches, (20, 20), 2)
    assert [int(plane.max()) for plane in planes] == [count, 2] and not left_out
    assert len(np.unique(planes[0])) == count + 1
