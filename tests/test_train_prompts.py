"""Random training inputs: views of images, target regions, clicks, boxes and corrective clicks; pool and feeder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD
from fastsam_core.train.crops import draw_views
from fastsam_core.train.interactive import draw_groups
from fastsam_core.train.pool import ImageBatch, ImagePool, LabelledImage, Prefetcher, collate
from fastsam_core.train.prompts import (
    Regions,
    corrective_clicks,
    draw_targets,
    interior_depths,
    jittered_boxes,
    sample_clicks,
)
from fastsam_core.train.scene_data import SceneDataset

SIZE = 64


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def square_planes() -> Tensor:
    """Return planes (2, 2, 64, 64) of two images: one object with a part, and two objects."""
    planes = torch.zeros(2, 2, SIZE, SIZE, dtype=torch.uint8)
    planes[0, 0, 8:40, 16:48] = 1
    planes[0, 1, 12:24, 20:32] = 1
    planes[1, 0, 4:20, 4:60] = 1
    planes[1, 0, 30:60, 30:50] = 2
    return planes


def values_at(masks: Tensor, points: Tensor) -> Tensor:
    """Return the value of each mask at its point."""
    x, y = points.long().unbind(1)
    return masks[torch.arange(len(masks)), y, x]


def test_targets_are_regions_of_their_image(generator: torch.Generator) -> None:
    planes, valid = square_planes(), torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    drawn = draw_targets(Regions(planes, valid, min_area=0.01, shares=(0.7, 0.3)), 300, generator, background=0.06)
    assert drawn.image_index.tolist() == [0] * 300 + [1] * 300
    seen = set()
    for image_index, mask, cells, is_object in zip(
        drawn.image_index.tolist(), drawn.masks, drawn.coverage, drawn.is_object, strict=True
    ):
        regions = {
            (plane, int(number)): planes[image_index, plane] == number
            for plane in range(2)
            for number in planes[image_index, plane].unique()
            if number
        }
        if not is_object:
            assert torch.equal(mask, (planes[image_index] == 0).all(0)) and not cells.any()
            seen.add((image_index, "background"))
            continue
        (which,) = [name for name, region in regions.items() if torch.equal(mask, region)]
        seen.add((image_index, which))
        torch.testing.assert_close(cells, mask.view(16, 4, 16, 4).float().mean((1, 3)))
    objects = {(0, (0, 1)), (0, (1, 1)), (1, (0, 1)), (1, (0, 2))}
    assert seen == objects | {(0, "background"), (1, "background")}
    # Where an image has no parts, their share goes to its objects, so the background stays near 0.06.
    assert 0.02 < (~drawn.is_object).float().mean() < 0.15


def test_regions_below_min_area_are_not_drawn(generator: torch.Generator) -> None:
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    drawn = draw_targets(Regions(square_planes(), valid, min_area=0.1), 100, generator, background=0.0)
    areas = drawn.masks.sum((1, 2))
    assert drawn.is_object.all() and (areas >= 0.1 * SIZE * SIZE).all()
    nothing = draw_targets(Regions(square_planes(), valid, min_area=0.9), 5, generator, background=0.0)
    assert not nothing.is_object.any() and not nothing.coverage.any()


def test_background_clicks_stay_inside_the_image(generator: torch.Generator) -> None:
    valid = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    valid[:, :32] = True
    planes = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    drawn = draw_targets(Regions(planes, valid, min_area=0), 20, generator, background=0.06)
    points = sample_clicks(drawn.masks, generator)
    assert (points[:, 1] < 32).all() and not drawn.is_object.any()


def test_clicks_and_jittered_boxes_fit_their_masks(generator: torch.Generator) -> None:
    masks = torch.zeros(400, SIZE, SIZE, dtype=torch.bool)
    masks[:200, 10:43, 20:31] = True
    masks[200:, 5:60, 17] = True  # one pixel wide
    points = sample_clicks(masks, generator)
    assert values_at(masks, points).float().mean() > 0.99
    assert len(points[:200].unique(dim=0)) > 60
    boxes = jittered_boxes(masks, generator)
    assert (boxes[:200] - torch.tensor([20.0, 10.0, 30.0, 42.0])).abs().max() <= 3.21
    assert boxes[:, :2].min() >= 0 and boxes.max() <= SIZE - 1
    assert (boxes[200:, 0] == 17).all() and (boxes[200:, 2] == 17).all()


def test_clicks_prefer_the_inside(generator: torch.Generator) -> None:
    masks = torch.zeros(500, SIZE, SIZE, dtype=torch.bool)
    masks[:, 8:56, 8:56] = True
    from_centre = (sample_clicks(masks, generator) - 31.5).abs().max(1).values
    uniform = (torch.rand(500, 2, generator=generator) * 48 - 24).abs().max(1).values
    assert from_centre.mean() < 0.85 * uniform.mean()


def test_depths_count_steps_to_the_mask_border() -> None:
    cells = torch.zeros(1, 16, 16, dtype=torch.bool)
    cells[0, 2:9, 4:9] = True
    depth = interior_depths(cells)[0]
    assert depth[5, 6] == 3 and depth[2, 4] == 1 and depth[1, 4] == 0
    assert interior_depths(torch.ones(1, 16, 16, dtype=torch.bool)).amax() == 4  # at most a quarter of the side


def test_corrections_fall_where_the_mask_is_wrong(generator: torch.Generator) -> None:
    masks = torch.zeros(300, SIZE, SIZE, dtype=torch.bool)
    masks[:, 8:40, 8:40] = True
    targets = masks.view(300, 16, 4, 16, 4).float().mean((2, 4))
    logits = torch.full((300, 16, 16), -5.0)
    logits[:, 2:10, 6:14] = 5.0  # the left half is missing, and as much is added on the right
    points, labels = corrective_clicks(masks, targets, logits, generator)
    assert {0, 1} == set(labels.tolist())
    x = points[:, 0]
    assert torch.equal(labels == 1, x < 24)
    assert (x[labels == 0] >= 40).all() and (points[:, 1] >= 8).all() and (points[:, 1] < 40).all()
    points, labels = corrective_clicks(masks, targets, 10 * (targets - 0.5), generator)
    assert (labels == 1).all() and values_at(masks, points).all()


def test_groups_have_clicks_or_boxes(generator: torch.Generator) -> None:
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    clicked, boxed = draw_groups(square_planes(), valid, 9, generator, min_area=0.01, background=0.06)
    assert clicked.boxes is None and clicked.points.shape == (12, 1, 2) and (clicked.labels == 1).all()
    assert boxed.boxes is not None and boxed.boxes.shape == (6, 4) and boxed.points.shape == (6, 0, 2)
    assert boxed.targets.is_object.all()


# ------------------------------------------------------------------------------------------------------- pool and views


def image_pool() -> ImagePool:
    """Return a pool of one 48 x 64 image whose colours encode the position and whose label is its right half."""
    pool = ImagePool(2, SIZE, 2, torch.device("cpu"))
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    image = torch.stack([4 * columns, 4 * rows, torch.full_like(rows, 100)], 2).to(torch.uint8)
    pool.add(collate([LabelledImage(image.numpy(), (columns >= 32)[None].to(torch.int16).numpy())]))
    return pool


def test_views_keep_image_and_labels_aligned() -> None:
    views = draw_views(image_pool(), 64, 96, np.random.default_rng(0))
    assert views.images.shape == (64, 3, 96, 96) and views.planes.shape == (64, 2, 96, 96)
    deviation, mean = (torch.tensor(x)[:, None, None] for x in (PIXEL_STD, PIXEL_MEAN))
    plain = wide = 0
    for image, planes, valid in zip(views.images, views.planes, views.valid, strict=True):
        assert not image[:, ~valid].any() and not planes[:, ~valid].any()
        rows, columns = int(valid.any(1).sum()), int(valid.any(0).sum())
        assert max(rows, columns) == 96 and valid[:rows, :columns].all()
        wide += columns > rows
        red, _, blue = (image * deviation + mean)[:, :rows, :columns]
        if (blue - 100).abs().max() < 0.01:  # colours not augmented
            plain += 1
            border = (red - 128).abs() < 6  # 1.5 pixels of the image, which views enlarge up to fourfold
            assert torch.equal(planes[0, :rows, :columns][~border] == 1, (red >= 128)[~border])
    assert plain > 10 and 5 < wide < 64


def plain(number: int, side: int, levels: int) -> LabelledImage:
    """Return a square image of colour `number` that is one region in each plane."""
    return LabelledImage(np.full((side, side, 3), number, np.uint8), np.ones((levels, side, side), np.int16))


@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_full_pool_replaces_the_oldest_images(together: int) -> None:
    pool = ImagePool(3, 8, 2, torch.device("cpu"))
    examples = [plain(number, 8 - number, 2 if number < 2 else 1) for number in range(5)]
    for first in range(0, 5, together):
        pool.add(collate(examples[first : first + together]))
    assert len(pool) == 3 and pool.added == 5 and pool.shapes == [(5, 5), (4, 4), (6, 6)]
    for place, number in enumerate([3, 4, 2]):
        side = 8 - number
        assert (pool.images[place, :, :side, :side] == number).all()
        assert (pool.planes[place, 0, :side, :side] == 1).all()
    assert not pool.planes[:, 1].any()


def test_images_of_different_sizes_are_padded_together() -> None:
    wide = LabelledImage(np.full((2, 6, 3), 9, np.uint8), np.full((3, 2, 6), 255, np.int16))
    tall = LabelledImage(np.full((5, 1, 3), 7, np.uint8), np.full((1, 5, 1), 256, np.int16))  # exceeds uint8
    both = collate([wide, tall])
    assert both.data.shape == (2, 6, 5, 6) and both.data.dtype == torch.uint8 and both.shapes == [(2, 6), (5, 1)]
    assert (both.data[0, :3, :2] == 9).all() and (both.data[0, 3:, :2] == 255).all() and not both.data[0, :, 2:].any()
    assert (both.data[1, :3, :, :1] == 7).all() and not both.data[1, 3:].any() and not both.data[1, :, :, 1:].any()
    assert (
        len(both) == 2 and both.slice(1, 2).shapes == [(5, 1)] and torch.equal(both.slice(1, 2).data[0], both.data[1])
    )


def no_image() -> None:
    raise OSError("no such image")


def no_memory() -> None:
    raise MemoryError("unable to allocate 9 GiB")


def die() -> None:
    os._exit(9)


class Counted(Dataset[LabelledImage]):
    """Data set whose images are filled with their index. Item `bad` calls `fail`."""

    def __init__(self, length: int, bad: int = -1, fail: Callable[[], None] = no_image) -> None:
        self.length, self.bad, self.fail = length, bad, fail

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> LabelledImage:
        if index == self.bad:
            self.fail()
        return LabelledImage(np.full((4, 4, 3), index, np.uint8), np.full((1, 4, 4), 300, np.int16))


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param


def numbers_of(batches: Iterable[ImageBatch]) -> list[int]:
    found = []
    for batch in batches:
        assert len(batch) == len(batch.data) and batch.shapes == [(4, 4)] * len(batch)
        assert not batch.data[:, 3:].any()  # numbers beyond uint8 are dropped
        found += batch.data[:, 0, 0, 0].tolist()
    return found


def test_feeder_cycles_through_the_data_in_order(workers: int) -> None:
    feeder = Prefetcher(Counted(5), 3, workers)
    taken = [numbers_of(feeder.take(count)) for count in (7, 0, 1, 2, 9)]
    feeder.close()
    assert [len(some) for some in taken] == [7, 0, 1, 2, 9]
    assert [number for some in taken for number in some] == [(3 + k) % 5 for k in range(19)]


def test_take_ready_returns_available_images_in_order(workers: int) -> None:
    feeder = Prefetcher(Counted(5), 0, workers)
    found = numbers_of(feeder.take(3))
    while len(found) < 30:
        some = numbers_of(feeder.take_ready(3))
        assert len(some) <= 3
        found += some
    feeder.close()
    assert not any(feeder.take_ready(0))
    assert found == [k % 5 for k in range(len(found))]


def test_feeder_raises_the_data_sets_error(workers: int) -> None:
    feeder = Prefetcher(Counted(5, bad=2), 0, workers)
    with pytest.raises(OSError, match="no such image"):
        list(feeder.take(5))
    feeder.close()


def test_feeder_says_that_memory_is_too_small(workers: int) -> None:
    feeder = Prefetcher(Counted(5, 2, no_memory), 0, workers)
    with pytest.raises(MemoryError, match=r"^the memory is too small .* worker processes .*unable to allocate 9 GiB"):
        list(feeder.take(5))
    feeder.close()


@pytest.mark.once("PyTorch looks every five seconds whether a worker process is alive")
def test_feeder_says_that_a_worker_process_died() -> None:
    feeder = Prefetcher(Counted(5, 2, die), 0, 1)
    with pytest.raises(ChildProcessError, match=r"^a worker process that loads images died, .*exited unexpectedly"):
        list(feeder.take(5))
    feeder.close()


def test_scenes_depend_only_on_seed_and_index() -> None:
    one, other = (SceneDataset(64, seed=5, textures=4) for _ in range(2))
    first = one[3]
    other[2]
    again = other[3]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.planes, again.planes)
    assert first.planes.shape == (3, 64, 64) and not np.array_equal(first.image, one[2].image)
    with pytest.raises(IndexError):
        one[-1]
