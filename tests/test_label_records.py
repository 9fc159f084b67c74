"""What labels are made of is checked when it is made, whatever file it comes from."""

from __future__ import annotations

import numpy as np
import pytest

import scene
from fastsam_core.formats.labels import ImageLabels, LabelledObject
from fastsam_core.formats.segmentation import Segmentation
from label_examples import encoded


def test_records_are_checked() -> None:
    mask = Segmentation.from_rle(encoded(np.eye(4, dtype=bool)))
    with pytest.raises(ValueError, match=r"object 0 has a mask of 4 x 4, but a\.jpg is 5 x 4"):
        ImageLabels("a.jpg", 4, 5, [LabelledObject(0, mask)])
    for arguments, message in (
        ({"class_id": True}, "a class id is"),
        ({"class_id": 10**6}, "a class id is"),
        ({"class_id": 1.5}, "a class id is"),
        ({"class_id": 0, "segmentation": None}, "needs a segmentation or a box"),
        ({"class_id": 0, "score": float("nan")}, "score must be 1 finite number"),
        ({"class_id": 0, "box": (1, 2, 3)}, "box must be 4 finite numbers"),
        ({"class_id": 0, "point_coords": [[1, float("inf")]]}, "point_coords must be 2"),
        ({"class_id": 0, "crop_box": [0, 0, 4]}, "crop_box must be 4"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelledObject(**{"segmentation": mask, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 class_ids for 4 objects"):
        ImageLabels.from_results(scene.results(), class_ids=[0])
    with pytest.raises(ValueError, match="file_name must be"):
        ImageLabels("", 4, 4)
    for polygons in ([], [[(0, 0), (1, 1)]], [[0, 0, 1, 1, 2, 2]], [[(0, 0), (1, 0), (1, float("nan"))]]):
        with pytest.raises(ValueError, match="polygon"):
            Segmentation.from_polygons(polygons, (4, 4))


def test_a_mask_without_pixels_has_no_ring() -> None:
    mask = Segmentation.from_rle(encoded(np.zeros((4, 5), bool)))
    assert mask.ring().shape == (0, 2) and mask.rings() == [] and mask.extent == (0, 0, 0, 0)
