"""A user's labelled images as a training set, in the forms that `fastsam val` reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .. import option_parsers as parse
from .._log import logger
from ..evaluate.datasets import Example, MaskDataset, open_dataset
from ..preprocess import resized_shape
from .mask_resizing import MaskPatch, resize_mask
from .pool import MAX_PLANES, MAX_REGIONS, LabelledImage

# Default of `min_area`. For images of 512 pixels it is about 260 pixels, or 16 cells of the targets in training.
MIN_AREA = 0.001
_MAX_REGION_NUMBER = MAX_REGIONS - 1

# States of an image. Any value from 0 up is the number of its masks that didn't fit into the planes.
_UNREAD, _UNUSABLE = -1, -2
_REQUIREMENTS = "objects need polygons, run lengths or label maps, and those marked as crowds don't count"


class LabelledFolder(Dataset[LabelledImage]):
    """Dataset of images with true masks, whose longer side is resized to `size` pixels.

    Masks are put into planes, largest first, each into the first plane where it overlaps no other. Masks that fit into
    none of `MAX_PLANES` planes are left out. This is logged once, and `left_out` counts them.

    Images without a mask in the annotation are not part of the dataset. Whether an image can be read, and has a mask
    that is large enough, is found out when it is accessed. If not, the reason is logged once (as a warning if the image
    can't be read), the image isn't tried again, and the next usable image takes its place. So the image that an index
    gives depends on the files alone, not on earlier accesses. Worker processes of a `DataLoader` share what they found
    out. No file stays open.

    Args:
        data: a COCO .json file, a folder with `images/` and `masks/*.png` or `labels/*.npz`, YOLO text files with
            polygons, or a data.yaml, of which the split `train` is used; see
            `fastsam_core.evaluate.datasets.open_dataset`. Crowds and boxes without a mask don't count.
        images: folder of the images of a COCO file or of YOLO's labels.
        size: longer side in pixels, at least 32.
        min_area: masks that cover a smaller fraction of the resized image are left out, in [0, 1).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is invalid, or the data has no mask at all. Indexing raises it, with the reasons, if no
            image is usable.
        FileNotFoundError: `data` or `images` does not exist.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        size: int,
        min_area: float = MIN_AREA,
    ) -> None:
        self.size = parse.integer(32)("size", size)
        self.min_area = parse.number(0)("min_area", min_area)
        if self.min_area >= 1:
            raise ValueError(f"min_area must be a fraction of the image, from 0 to below 1, not {min_area!r}")
        self._dataset: MaskDataset = open_dataset(data, images, split="train")
        self.data = Path(data)
        self._indices = self._dataset.labelled_indices()
        if not self._indices:
            raise ValueError(f"{self.data}: none of its {len(self._dataset)} images has a mask; {_REQUIREMENTS}")
        unmatched = list(self._dataset.unmatched_label_files())
        if unmatched:
            logger.warning(
                "%s: label files skipped: %d, the first: %s: %s",
                self.data,
                len(unmatched),
                unmatched[0].image,
                unmatched[0].reason,
            )
        # In shared memory, so that all worker processes know it, in this epoch and later ones.
        self._states = torch.full((len(self._dataset),), _UNREAD, dtype=torch.int32).share_memory_()
        self._reasons: dict[int, str] = {}

    @property
    def names(self) -> list[str]:
        """Paths of the images with masks, relative to their folder."""
        return [self._dataset.names[dataset_index] for dataset_index in self._indices]

    @property
    def left_out(self) -> int:
        """Number of masks, of the images read so far, that did not fit into the planes."""
        return int(self._states.clamp(min=0).sum())

    @property
    def skipped(self) -> list[str]:
        """Names of the images found unusable so far."""
        return [
            self._dataset.names[dataset_index]
            for dataset_index in self._indices
            if self._states[dataset_index] == _UNUSABLE
        ]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> LabelledImage:
        if not 0 <= index < len(self):
            raise IndexError(index)
        for offset in range(len(self)):
            dataset_index = self._indices[(index + offset) % len(self)]
            if self._states[dataset_index] != _UNUSABLE:
                example = self._read(dataset_index)
                if example is not None:
                    return example
        raise ValueError(f"{self.data}: none of {len(self)} images is usable: {'; '.join(self._unusable_reasons())}")

    def _read(self, dataset_index: int) -> LabelledImage | None:
        """Read image `dataset_index` of the data set; log the reason and return None if it is unusable."""
        example = self._dataset[dataset_index]
        is_first_read = int(self._states[dataset_index]) == _UNREAD
        if example.pixels is None:
            self._skip(dataset_index, example.failures[0].reason, logging.WARNING)
            return None
        object_failures = [failure for failure in example.failures if failure.object is not None]
        if object_failures and is_first_read:
            logger.warning(
                "%s: objects skipped: %d, the first: %s: %s",
                example.name,
                len(object_failures),
                object_failures[0].object,
                object_failures[0].reason,
            )
        image, patches = _resize_example(example, self.size, self.min_area)
        if not patches:
            reason = f"it has no mask of at least {self.min_area:g} of the image"
            counts = (len(example.objects), "smaller"), (len(object_failures), "unusable"), (example.crowds, "crowds")
            details = ", ".join(f"{count} {kind}" for count, kind in counts if count)
            self._skip(dataset_index, f"{reason} ({details})" if details else reason, logging.INFO)
            return None
        planes, left_out = pack_into_planes(patches, image.shape[:2], MAX_PLANES)
        if left_out and not (self._states > 0).any():
            logger.warning(
                "%s: %d of %d masks are skipped: each of the %d planes has a mask that overlaps them, or is full; "
                "further images with such masks are counted but not logged",
                example.name,
                left_out,
                len(patches),
                MAX_PLANES,
            )
        self._states[dataset_index] = left_out
        return LabelledImage(image, planes)

    def _skip(self, dataset_index: int, reason: str, level: int) -> None:
        if self._states[dataset_index] != _UNUSABLE:
            self._states[dataset_index] = _UNUSABLE
            logger.log(level, "%s is skipped: %s", self._dataset.names[dataset_index], reason)
        self._reasons[dataset_index] = reason

    def _unusable_reasons(self) -> Iterator[str]:
        """Yield why the first five images are unusable. Images that another process rejected are read again."""
        for dataset_index in self._indices[:5]:
            if dataset_index not in self._reasons:
                self._read(dataset_index)
            yield f"{self._dataset.names[dataset_index]}: {self._reasons.get(dataset_index, 'it is usable now')}"
        if len(self) > 5:
            yield f"and {len(self) - 5} more"


def _resize_example(example: Example, size: int, min_area: float) -> tuple[NDArray[np.uint8], list[MaskPatch]]:
    """Return the resized image (H, W, 3), RGB, and those of its resized masks that are large enough."""
    assert example.pixels is not None
    pixels: NDArray[Any] = example.pixels
    height, width = resized_shape(pixels.shape[0], pixels.shape[1], size)
    if (height, width) != pixels.shape[:2]:
        interpolation = cv2.INTER_AREA if max(pixels.shape[:2]) > size else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (width, height), interpolation=interpolation)
    image: NDArray[np.uint8] = np.ascontiguousarray(pixels[:, :, ::-1])
    min_pixels = max(1.0, min_area * height * width)
    patches = [resize_mask(true_object.rle, (height, width)) for true_object in example.objects]
    return image, [patch for patch in patches if patch.area >= min_pixels]


def pack_into_planes(patches: list[MaskPatch], size: tuple[int, int], max_planes: int) -> tuple[NDArray[np.int16], int]:
    """Arrange non-empty masks in planes (K, H, W), where K <= `max_planes`. Also returns the number of masks left out.

    Masks are taken largest first, each into the first plane where it overlaps no other, so a mask that lies on another
    or is a part of it ends up in a later plane. Each plane numbers its masks from 1.
    """
    planes: list[NDArray[np.int16]] = []
    counts: list[int] = []
    left_out = 0
    for patch in sorted(patches, key=lambda patch: -patch.area):
        for plane_index, plane in enumerate(planes):
            if counts[plane_index] < _MAX_REGION_NUMBER and not patch.view(plane)[patch.mask].any():
                break
        else:
            plane_index = len(planes)
            if plane_index == max_planes:
                left_out += 1
                continue
            planes.append(np.zeros(size, np.int16))
            counts.append(0)
        counts[plane_index] += 1
        patch.view(planes[plane_index])[patch.mask] = counts[plane_index]
    return np.stack(planes), left_out
