"""Tests of the records that label files are read into: validation, run lengths and writers' object counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import scene
from fastsam_core.formats import open_writer, read_labels
from fastsam_core.formats.labels import ImageLabels, LabelledObject
from fastsam_core.formats.segmentation import Segmentation
from label_examples import encoded


def test_invalid_records_are_refused() -> None:
    mask = Segmentation.from_rle(encoded(np.eye(4, dtype=bool)))
    with pytest.raises(ValueError, match=r"object 0 has a mask of 4 x 4, but a\.jpg is 5 x 4"):
        ImageLabels("a.jpg", 4, 5, [LabelledObject(0, mask)])
    for arguments, message in (
        ({"class_id": True}, "a class id is"),
        ({"class_id": 10**6}, "a class id is"),
        ({"class_id": 1.5}, "a class id is"),
        ({"class_id": "1"}, "a class id is an integer from 0 to 999999, not '1'"),
        ({"class_id": 0, "segmentation": None}, "needs a segmentation or a box"),
        ({"class_id": 0, "score": float("nan")}, "score must be 1 finite number"),
        ({"class_id": 0, "box": (1, 2, 3)}, "box must be 4 finite numbers"),
        ({"class_id": 0, "box": (1, 2, 3, "x")}, "box must be 4 finite numbers"),
        ({"class_id": 0, "point_coords": [[1, float("inf")]]}, "point_coords must be 2"),
        ({"class_id": 0, "crop_box": [0, 0, 4]}, "crop_box must be 4"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelledObject(**{"segmentation": mask, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 class_ids for 4 objects"):
        ImageLabels.from_results(scene.results(), class_ids=[0])
    with pytest.raises(ValueError, match="file_name must be"):
        ImageLabels("", 4, 4)
    for image_id in ("1", 1.5, [1]):
        with pytest.raises(TypeError, match="image_id must be an integer, not"):
            ImageLabels("a.jpg", 4, 4, image_id=image_id)  # type: ignore[arg-type]
    assert ImageLabels("a.jpg", 10**6, 1).size == (1, 10**6)
    with pytest.raises(ValueError, match="height must be an integer number of pixels from 1 to 1000000, not '0'"):
        ImageLabels("a.jpg", 4, 0)
    for polygons in ([], [[(0, 0), (1, 1)]], [[0, 0, 1, 1, 2, 2]], [[(0, 0), (1, 0), (1, float("nan"))]]):
        with pytest.raises(ValueError, match="polygon"):
            Segmentation.from_polygons(polygons, (4, 4))


def test_file_name_of_results_is_the_last_part_of_their_path() -> None:
    results = scene.results()
    for path, name in (
        ("a/b.jpg", "b.jpg"),
        ("http://x.org/c.png?d=e/f", "c.png"),
        ("rtsp://me:word@camera", "camera"),
    ):
        results.path = path
        assert ImageLabels.from_results(results).file_name == name


def test_rle_bytes_of_pycocotools_become_text() -> None:
    code = encoded(np.eye(4, dtype=bool))
    data = {"size": np.array(code["size"]), "counts": code["counts"].encode()}
    assert Segmentation.from_rle(data).rle == code and json.dumps(Segmentation.from_rle(data).rle)


def test_empty_mask_has_no_ring() -> None:
    mask = Segmentation.from_rle(encoded(np.zeros((4, 5), bool)))
    assert mask.to_single_polygon().shape == (0, 2) and mask.to_polygons() == [] and mask.bounding_box == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["coco", "sa1b"])
def test_image_ids_of_numpy_are_written(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a.json"
    with open_writer(target if kind == "coco" else tmp_path, kind) as writer:
        writer.write(ImageLabels("a.jpg", 4, 4, image_id=np.int64(7)))  # type: ignore[arg-type]
    assert [labels.image_id for labels in read_labels(target, kind)] == [7]


def test_closing_a_coco_writer_again_changes_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.json", "coco", first_id=0) as writer:
        writer.write(ImageLabels("a.jpg", 4, 4, [LabelledObject(0, box=(1, 1, 3, 3))]))
        writer.close()
    assert [entry["id"] for entry in json.loads((tmp_path / "a.json").read_text())["annotations"]] == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("kind", "held"), [("yolo", 2), ("coco", 4), ("sa1b", 3), ("labelme", 2), ("labelmap", 2)])
def test_write_returns_the_number_of_objects_the_format_holds(tmp_path: Path, kind: str, held: int) -> None:
    mask, empty = (Segmentation.from_rle(encoded(pixels)) for pixels in (np.eye(4, dtype=bool), np.zeros((4, 4), bool)))
    objects = [LabelledObject(0, mask), LabelledObject(0, empty), LabelledObject(0, box=(1, 1, 3, 3))]
    objects.append(LabelledObject(0, mask, iscrowd=True))
    with open_writer(tmp_path / ("a.json" if kind == "coco" else "a"), kind) as writer:
        assert writer.write(ImageLabels("a.jpg", 4, 4, objects)) == held


def test_yolo_writes_the_predicted_iou_of_objects_without_score(tmp_path: Path) -> None:
    objects = [
        LabelledObject(0, box=(1, 1, 3, 3), score=score, predicted_iou=predicted_iou)
        for score, predicted_iou in ((0.5, 0.75), (None, 0.75), (None, None))
    ]
    with open_writer(tmp_path, "yolo", scores=True) as writer:
        writer.write(ImageLabels("a.jpg", 4, 4, objects))
    box = "0 0.5 0.5 0.5 0.5"
    assert (tmp_path / "a.txt").read_text().splitlines() == [f"{box} 0.5", f"{box} 0.75", box]
